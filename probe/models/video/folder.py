"""The folder of a diffusers pipeline: network, autoencoder, noise schedule and prompt, read without running code."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import CogVideoXDDIMScheduler
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor

from probe.models.parts.files import (
    META,
    SAFETENSORS,
    Loading,
    build_of,
    download,
    fill,
    find_checkpoint,
    read_json,
    read_weights,
)
from probe.models.parts.t5_text import encode_empty_t5
from probe.models.schedules import STEPS, Prediction, flow_alpha_bar, flow_sigmas

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
WEIGHTS = f"diffusion_pytorch_model{SAFETENSORS}"
CHECKPOINTS = (WEIGHTS, f"{WEIGHTS}.index.json")
HUB_FILES = (INDEX, SCHEDULER, "*/config.json", f"transformer/*{SAFETENSORS}*", f"vae/*{SAFETENSORS}*")
"""What is fetched of a hub repository: text encoders, which are larger than most networks, stay there."""
FLOW_SHIFTS = {
    "FlowMatchEulerDiscreteScheduler": "shift",
    "FlowMatchHeunDiscreteScheduler": "shift",
    "UniPCMultistepScheduler": "flow_shift",
    "DPMSolverMultistepScheduler": "flow_shift",
}
"""Schedulers of flow matching, and what each calls its shift towards noise."""
BETA_SCHEDULERS = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
Network = TypeVar("Network", bound=ModelMixin)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The prompt without words, as a network reads it.

    Attributes:
        text: Its embeddings.
        mask: 1 for tokens, 0 for padding.
        note: Where they come from.
    """

    text: Float[Tensor, "n c"]
    mask: Float[Tensor, " n"]
    note: str


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A noise schedule.

    Attributes:
        alpha_bar: Share of signal variance at each timestep index.
        prediction: What the network predicts.
        note: How sigma depends on the index, for the card.
    """

    alpha_bar: Float[Tensor, " steps"]
    prediction: Prediction
    note: str


def find_folder(source: str) -> Path:
    """Find the folder of a pipeline, or fetch what is needed of a hub repository.

    Raises:
        ValueError: If there is neither, or it is no pipeline's folder.
    """
    path = Path(source).expanduser()
    folder = path if path.exists() else download(source, HUB_FILES)
    missing = [name for name in (INDEX, SCHEDULER) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{source} is no folder of a diffusers pipeline: {', '.join(missing)} missing; expected {INDEX}, "
            "transformer/, vae/ and scheduler/, as save_pretrained writes them"
        )
    return folder


def read_part(kind: type[Network], folder: Path, loading: Loading) -> Network:
    """Build a pipeline's part around its weights, in their own precision.

    Args:
        kind: Its class.
        folder: That holds config.json and weights in .safetensors, perhaps in shards.
        loading: On the meta device only names and shapes are read.

    Raises:
        ValueError: If it is another class, or the weights do not fit.
    """
    origin = str(folder / "config.json")
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{origin} is missing; expected a {kind.__name__} there; give the folder of the whole pipeline"
        )
    config = read_json(folder / "config.json")
    if config.get("_class_name") != kind.__name__:
        raise ValueError(
            f"{origin} describes {config.get('_class_name')!r}, expected {kind.__name__}; choose the --model of its "
            "class, or diffusers:FOLDER, which does"
        )
    # buffers that no file holds, such as rotary tables, are computed, except for an outline
    with META if loading.outline else init_empty_weights(include_buffers=False):
        part = build_of(origin, lambda: kind.from_config(config))
    path = find_checkpoint(str(folder), CHECKPOINTS)
    ignored = re.compile("|".join(getattr(kind, "_keys_to_ignore_on_load_unexpected", None) or ["(?!)"]))
    weights = {name: x for name, x in read_weights(path, loading.device).items() if not ignored.search(name)}
    fill(part, weights, origin=str(path), assign=True)
    return part.eval().requires_grad_(False)


def read_autoencoder(kind: type[Network], folder: Path, loading: Loading) -> Network:
    """Read the autoencoder of a pipeline's folder, or of ``loading.base``, in single precision."""
    home = find_folder(loading.base) if loading.base else folder
    return read_part(kind, home / "vae", loading).float()


def noise_of(folder: Path) -> Noise:
    """Read the noise schedule of a pipeline: of flow matching, or of betas.

    Raises:
        ValueError: If the scheduler is unknown, or has other than 1000 steps.
    """
    config, origin = read_json(folder / SCHEDULER), str(folder / SCHEDULER)
    name = config.get("_class_name")
    if config.get("num_train_timesteps", STEPS) != STEPS:
        raise ValueError(f"{origin} has {config['num_train_timesteps']} training timesteps; expected {STEPS}")
    if name in BETA_SCHEDULERS:
        return _noise_of_betas(config, origin)
    if name in FLOW_SHIFTS and _is_flow(name, config):
        return _noise_of_flow(config, FLOW_SHIFTS[name], origin)
    raise ValueError(
        f"{origin} describes {name!r} of prediction {config.get('prediction_type')!r}; known are "
        f"{', '.join(BETA_SCHEDULERS)} and, with flow matching, {', '.join(FLOW_SHIFTS)}; save the pipeline with one "
        "of them, or bring the model by module:"
    )


def _is_flow(name: str, config: Mapping[str, Any]) -> bool:
    return name.startswith("FlowMatch") or (
        bool(config.get("use_flow_sigmas")) and config.get("prediction_type") == "flow_prediction"
    )


def _noise_of_flow(config: Mapping[str, Any], name: str, origin: str) -> Noise:
    shift = 1.0 if config.get("use_dynamic_shifting") else config.get(name, 1.0)
    if not isinstance(shift, int | float) or shift <= 0:
        raise ValueError(f"{origin} has {name} {shift!r}; expected a positive number")
    note = f"flow matching, {name} {shift:g}"
    if config.get("use_dynamic_shifting"):
        note = "flow matching, without the scheduler's dynamic shift, which depends on the number of tokens"
    return Noise(alpha_bar=flow_alpha_bar(flow_sigmas(shift)), prediction="flow", note=note)


def _noise_of_betas(config: Mapping[str, Any], origin: str) -> Noise:
    scheduler = build_of(origin, lambda: CogVideoXDDIMScheduler.from_config(_shared(config)))
    prediction = scheduler.config.prediction_type
    if prediction not in ("v_prediction", "epsilon"):
        raise ValueError(f"{origin} predicts {prediction!r}; expected v_prediction or epsilon")
    note = f"betas, {prediction}"
    return Noise(alpha_bar=scheduler.alphas_cumprod.float(), prediction=prediction, note=note)


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that both of CogVideoX's schedulers have; the schedule of noise is the same."""
    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    return {name: config[name] for name in (*known, "rescale_betas_zero_snr", "snr_shift_scale") if name in config}


def zeros_prompt(length: int, width: int, loading: Loading, note: str = "zeros: no text_encoder/") -> Prompt:
    """Return embeddings of zeros."""
    return Prompt(
        text=torch.zeros(length, width, device=loading.device),
        mask=torch.ones(length, device=loading.device),
        note=note,
    )


def empty_prompt(folder: Path, length: int, width: int, loading: Loading, *, masked: bool) -> Prompt:
    """Encode the empty prompt by the T5 of a pipeline's folder, or return zeros where there is none.

    Args:
        folder: Of the pipeline.
        length: Tokens, with padding.
        width: Of the embeddings that the network reads.
        loading: For an outline nothing is encoded.
        masked: Whether the encoder is kept from reading the padding.

    Raises:
        ValueError: If the encoder is of another kind or width.
    """
    encoder = folder / "text_encoder"
    if not encoder.is_dir():
        return zeros_prompt(length, width, loading)
    if loading.outline:
        return zeros_prompt(length, width, loading, "empty, not encoded for an outline")
    text, mask = encode_empty_t5(encoder, length, masked=masked)
    if text.shape[1] != width:
        raise ValueError(
            f"{encoder} makes embeddings of width {text.shape[1]}, the network reads {width}; give the folder of one "
            "pipeline, or remove text_encoder/ to use zeros for the prompt"
        )
    return Prompt(text=text, mask=mask, note="empty, encoded by text_encoder/")

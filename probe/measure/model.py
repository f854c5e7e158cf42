"""Measure a model on one scene: one forward pass per timestep, all layers, heads and directions at once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from probe.attention.call import Call
from probe.attention.masks import logit_bias
from probe.capture import AttentionTap
from probe.layers import Layer, joint_layout
from probe.measure.references import guesses_of_layers
from probe.measure.scene import LayerCall, Scene
from probe.measure.score import score_call
from probe.models.model import MultiViewModel, predict
from probe.models.schedules import STEPS, noise_scales
from probe.protocols import Protocol
from probe.records import Rows, is_null, score_table
from probe.seeds import derive
from probe.views import Views, hide_images, resize


def timestep_indexes(text: str) -> tuple[int, ...]:
    """Read timesteps such as "100,500,900".

    Raises:
        ValueError: If they are not different indexes of the noise schedule.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r}: expected timestep indexes separated by commas, such as 100,500,900") from None
    if not all(0 <= number < STEPS for number in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError(f"{text!r}: expected different timesteps from 0 (clean) to {STEPS - 1} (pure noise)")
    return numbers


def timesteps_of(model: MultiViewModel, text: str | None, usual: str) -> tuple[int, ...]:
    """Choose the timesteps that a model is scored at.

    Args:
        model: The model.
        text: What was asked for, such as "100,500,900"; None for the usual ones.
        usual: Those of a model that takes noise; the only one of another is 0.

    Raises:
        ValueError: If they are not different indexes of the noise schedule, or the model takes no noise.
    """
    if model.prediction != "none":
        return timestep_indexes(usual if text is None else text)
    if text not in (None, "0"):
        raise ValueError(f"{text}: {model.name} takes no noise: its only timestep is 0 (clean); leave the flag out")
    return (0,)


def scene_noise(model: MultiViewModel, views: Views, seed: int, index: int) -> Float[Tensor, "1 f c h w"]:
    """Draw the noise of one scene: the same for every model, timestep and checkpoint."""
    generator = torch.Generator().manual_seed(derive("noise", seed, index))
    return torch.randn(model.latent_shape(1, views.count), generator=generator)


def denoise(
    model: MultiViewModel, scene: Scene, layers: Sequence[Layer], t: int, on_call: Callable[[LayerCall], object]
) -> None:
    """Run one denoising step on a scene and pass every chosen layer's call to ``on_call``.

    Raises:
        ValueError: If a per-view layer masks keys differently for its queries.
    """
    device, views = model.alpha_bar.device, scene.views
    by_key = {(layer.name, layer.nth): layer for layer in layers}

    def hear(call: Call) -> None:
        on_call(layer_call(call, by_key[call.name, call.nth], views.count, model, t))

    tap = AttentionTap(model.network, list(layers), on_call=hear)
    with torch.no_grad(), model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True), tap:
        small = resize(views, model.size, model.size).to(device)
        predict(model, small, torch.tensor([t], device=device), scene.noise.to(device))


def layer_call(call: Call, layer: Layer, views: int, model: MultiViewModel, t: int) -> LayerCall:
    """Put queries and keys of all views of a scene side by side, in the precision that the kernel computed in.

    A per-view layer has the views in its batch; between views it then shows logits that the network never forms.

    Raises:
        ValueError: If a per-view layer masks keys differently for its queries, which says nothing of other views' keys;
            or if the layer drops weights at random.
    """
    if call.dropout:
        raise ValueError(
            f"layer {layer.name!r} drops {call.dropout:.0%} of its weights at random in evaluation too, which no score "
            "can follow; pass dropout_p=0 in the model where it is not training"
        )
    bias = logit_bias(call)
    q, k = (x.to(call.compute_dtype).float() for x in (call.q, call.k_per_head))
    if layer.kind == "view":
        q, k = (rearrange(x, "(b f) heads n d -> b heads (f n) d", f=views) for x in (q, k))
        bias = None if bias is None else _side_by_side(bias, layer, views)
    return LayerCall(
        layer=layer,
        layout=joint_layout(layer, views),
        q=q,
        k=k,
        scale=call.scale,
        bias=bias,
        model=model.name,
        step=training_steps(model),
        timestep=t,
    )


def _side_by_side(bias: Float[Tensor, "#bf #heads #n m"], layer: Layer, views: int) -> Tensor:
    if bias.shape[2] != 1:
        raise ValueError(
            f"layer {layer.name!r} works within a view and masks keys for each query, which says nothing of keys in "
            "other views; leave it out"
        )
    return rearrange(bias.expand(views, -1, -1, -1), "(b f) heads 1 m -> b heads 1 (f m)", f=views)


def training_steps(model: MultiViewModel) -> int:
    """Return the training steps of a model's weights, which its card tells; -1 if unknown."""
    return int(str((model.card or {}).get("steps", -1)))


def in_own_precision(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Cast the inputs of a network of lower precision to it (a forward pre-hook); they are made in float32."""
    dtype = next(network.parameters()).dtype

    def own(x: Any) -> Any:
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    return tuple(own(x) for x in args), {name: own(x) for name, x in kwargs.items()}


def measure_layers(
    model: MultiViewModel,
    scene: Scene,
    layers: Sequence[Layer],
    timesteps: Sequence[int],
    protocol: Protocol,
    on_call: Callable[[LayerCall], object] | None = None,
) -> pd.DataFrame:
    """Score all layers of a model on one scene, at every timestep with the same noise.

    Where each layer chooses its queries, guesses are scored on them beside a model, not beside its nulls.

    Args:
        model: That is probed.
        scene: To measure on.
        layers: To score.
        timesteps: Indexes of the noise schedule.
        protocol: How matches are made and counted.
        on_call: Hears each call as well, once it is scored; None for nobody.

    Returns:
        Rows of the score table.

    Raises:
        ValueError: If a layer's mask is one that the protocol cannot count with.
    """
    rows = list[Rows]()
    guesses = {} if is_null(model.name) else guesses_of_layers(scene, protocol)

    def hear(call: LayerCall) -> None:
        rows.extend(score_call(call, scene, protocol, guesses))
        if on_call is not None:
            on_call(call)

    for t in timesteps:
        denoise(model, scene, layers, t, hear)
    return score_table(rows)


def timestep_table(model: MultiViewModel, timesteps: Sequence[int]) -> pd.DataFrame:
    """Return what each timestep index means: alpha-bar and signal-to-noise ratio; in flow matching sigma too."""
    level = model.alpha_bar.cpu()[list(timesteps)].double()
    sigma = {"sigma": noise_scales(level, "flow")[1]} if model.prediction == "flow" else {}
    return pd.DataFrame({"timestep": timesteps, "alpha_bar": level, **sigma, "snr": level / (1 - level)})


def cameras_only(model: MultiViewModel, scene: Scene, name: str) -> tuple[MultiViewModel, Scene]:
    """Return the model under another name and the scene with grey images: what rays and positions alone find."""
    return replace(model, name=name), replace(scene, views=hide_images(scene.views))

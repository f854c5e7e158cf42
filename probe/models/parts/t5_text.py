"""The text encoders of video models, T5 and UMT5, run once for the empty prompt. Needs the transformers library."""

import importlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from probe.models.parts.files import SHOWN, read_json

ENCODERS = ("T5EncoderModel", "UMT5EncoderModel")
ZEROS = "remove text_encoder/ to use zeros for the prompt"
END, PADDING = 1, 0
"""Numbers of T5's tokens, where config.json does not say otherwise."""


@torch.no_grad()
def encode_empty_t5(folder: Path, length: int, *, masked: bool) -> tuple[Float[Tensor, "n c"], Float[Tensor, " n"]]:
    """Encode the empty prompt as diffusers' pipelines do: the end token, then padding to a length.

    Args:
        folder: Folder ``text_encoder``: config.json and weights in .safetensors.
        length: Tokens, with padding.
        masked: Whether the encoder is kept from reading the padding.

    Returns:
        The last hidden states in single precision, and a mask: 1 for the end token, 0 for padding.

    Raises:
        ValueError: If transformers is not installed, or the folder holds no T5 encoder.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    name = next(iter(config.get("architectures") or []), None)
    if name not in ENCODERS:
        raise ValueError(f"{folder}/config.json describes {name!r}, expected one of {', '.join(ENCODERS)}; {ZEROS}")
    end, padding = (config.get(key, token) for key, token in (("eos_token_id", END), ("pad_token_id", PADDING)))
    tokens = torch.full((1, length), padding)
    tokens[0, 0] = end
    mask = (torch.arange(length) == 0).float()
    encoder = _load(name, folder)
    states = encoder(input_ids=tokens, attention_mask=mask[None] if masked else None).last_hidden_state
    return states[0].float(), mask


def _load(name: str, folder: Path) -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"{folder} needs the transformers library (pip install 'attention-probing[hf]'); {ZEROS}"
        ) from error
    try:
        kind = getattr(transformers, name)
        encoder, info = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype="auto", output_loading_info=True
        )
        if info["missing_keys"]:
            raise ValueError(f"weights are missing: {sorted(info['missing_keys'])[:SHOWN]}")
        return encoder.eval()
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"{folder} cannot be read as {name} ({type(error).__name__}: {first}); {ZEROS}") from error

"""The text encoder of Stable Diffusion, run once for the empty prompt: CLIP's causal transformer, as plain functions.

Needs none of the transformers library. Source: arXiv 2103.00020 section 2.4; names of weights as in diffusers folders.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from probe.models.parts.files import Weights, find_checkpoint, read_json, read_weights, strip_prefixes

FILES = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def encode_empty(encoder: Path, tokenizer: Path) -> Float[Tensor, "n c"]:
    """Encode the empty prompt as Stable Diffusion's pipelines do: padded to full length, last layer, final norm.

    Args:
        encoder: Folder ``text_encoder``.
        tokenizer: Folder ``tokenizer``.

    Raises:
        ValueError: If these are not CLIP's text encoder and tokenizer.
    """
    try:
        config = read_json(encoder / "config.json")
        tokens = empty_tokens(tokenizer, config["max_position_embeddings"])
        weights = read_weights(find_checkpoint(str(encoder), FILES))
        own = {name: weight.float() for name, weight in strip_prefixes(weights, ("text_model.",)).items()}
        return encode(tokens, own, config)
    except (KeyError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"encode_empty: {encoder} and {tokenizer} are not CLIP's text encoder and tokenizer "
            f"({type(error).__name__}: {error}); remove text_encoder/ to use zeros for the prompt"
        ) from error


def empty_tokens(tokenizer: Path, length: int) -> Int[Tensor, " {length}"]:
    """Return begin, end, then padding: 2.x pads with "!", 1.x with the end token (special_tokens_map.json)."""
    ids = read_json(tokenizer / "vocab.json")
    special = read_json(tokenizer / "special_tokens_map.json")
    pad = special.get("pad_token", END)
    pad = pad["content"] if isinstance(pad, dict) else pad
    return torch.tensor([ids[BEGIN], ids[END], *[ids[pad]] * (length - 2)])


def encode(tokens: Int[Tensor, " n"], weights: Weights, config: Mapping[str, Any]) -> Float[Tensor, "n c"]:
    """Run the transformer: each token attends to those up to itself; norms stand before attention and MLP.

    Args:
        tokens: Indexes of the vocabulary.
        weights: By CLIP's names, without ``text_model.``.
        config: Of the encoder: ``num_hidden_layers``, ``num_attention_heads``, ``hidden_act``, ``layer_norm_eps``.

    Raises:
        ValueError: If the activation is unknown.
    """
    if config["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"encode: hidden_act {config['hidden_act']!r} is unknown; expected one of {list(ACTIVATIONS)}")
    x = weights["embeddings.token_embedding.weight"][tokens]
    x = x + weights["embeddings.position_embedding.weight"][: len(tokens)]
    for number in range(config["num_hidden_layers"]):
        prefix = f"encoder.layers.{number}."
        block = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        x = x + _attend(_norm(x, block, "layer_norm1", config), block, config["num_attention_heads"])
        hidden = _linear(_norm(x, block, "layer_norm2", config), block, "mlp.fc1")
        x = x + _linear(ACTIVATIONS[config["hidden_act"]](hidden), block, "mlp.fc2")
    return _norm(x, weights, "final_layer_norm", config)


def _attend(x: Float[Tensor, "n c"], block: Weights, heads: int) -> Float[Tensor, "n c"]:
    q, k, v = (
        rearrange(_linear(x, block, f"self_attn.{part}_proj"), "n (heads d) -> heads n d", heads=heads)
        for part in ("q", "k", "v")
    )
    seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return _linear(rearrange(seen, "heads n d -> n (heads d)"), block, "self_attn.out_proj")


def _linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(x: Tensor, weights: Weights, name: str, config: Mapping[str, Any]) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], config["layer_norm_eps"])

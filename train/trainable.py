"""Which weights of a network train: all, those of attention layers, or low-rank adapters beside them."""

import re
import zlib
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from probe.layers import JOINING, Layer
from probe.models.model import MultiViewModel, model_layers
from probe.seeds import derive
from train.settings import Trainable


def choose_weights(model: MultiViewModel, trainable: Trainable, seed: int) -> None:
    """Let the chosen weights of a model's network train, and no others; add the adapters.

    Which layers attend, and which of them join views, is what :func:`probe.models.model.model_layers` finds. An adapter
    of rank r adds B A x to what a linear layer makes of x, with A of r rows drawn by the seed and B zero at first.
    Adapters lie on every linear layer inside an attention layer's module: its projections of queries, keys, values and
    output, and those of another sequence where it has one.

    Args:
        model: Its network is changed in place.
        trainable: Which weights.
        seed: Of the adapters.

    Raises:
        ValueError: If the network has no such layer, or its attention layers hold no weights or no linear layer.

    Source:
        LoRA: Hu et al., arXiv 2106.09685, as peft builds it; alpha is the rank, so that the sum has no other factor.
    """
    network = model.network
    network.requires_grad_(trainable.part == "all")
    if trainable.part == "all":
        return
    modules = _attention_modules(network, model_layers(model), joining=trainable.part == "cross-view")
    if trainable.part == "lora":
        add_adapters(network, modules, trainable.rank, seed)
        return
    for name in modules:
        network.get_submodule(name).requires_grad_(True)
    if not trained_weights(network):
        raise ValueError(f"{trainable.part}: the attention layers of {model.name} hold no weights; train all")


def _attention_modules(network: nn.Module, layers: Sequence[Layer], *, joining: bool) -> list[str]:
    kinds = JOINING if joining else {layer.kind for layer in layers}
    names = list(dict.fromkeys(layer.name for layer in layers if layer.kind in kinds))
    if not names or "" in names:
        raise ValueError(
            f"{type(network).__name__} makes {len(names)} such attention calls, and they must be made by modules of "
            "their own; train all"
        )
    return names


def add_adapters(network: nn.Module, modules: Sequence[str], rank: int, seed: int) -> None:
    """Put adapters on every linear layer of some modules, and let nothing else train.

    Args:
        network: Changed in place; its outputs stay the same until a step is taken.
        modules: Names of the modules.
        rank: Of the adapters.
        seed: Of their first weights.

    Raises:
        ValueError: If a module has no linear layer.
    """
    from peft import LoraConfig, inject_adapter_in_model  # here, because it is an optional package

    inside = {
        name: [part for part, one in network.get_submodule(name).named_modules() if _is_linear(one)] for name in modules
    }
    bare = [name for name, parts in inside.items() if not parts]
    if bare:
        raise ValueError(f"lora:{rank}: {bare[0]} has no linear layer to put an adapter on; train attention")
    targets = {f"{name}.{part}".removesuffix(".") for name, parts in inside.items() for part in parts}
    pattern = "|".join(re.escape(target) for target in sorted(targets))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("adapters", seed))
        inject_adapter_in_model(config, network)
    network.requires_grad_(False)
    for name, weight in network.named_parameters():
        weight.requires_grad_(".lora_" in name)


def _is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer.

    Raises:
        ValueError: If it is a linear layer of another class, which an adapter may not see as it is.
    """
    if isinstance(module, nn.Linear) and type(module) is not nn.Linear:
        raise ValueError(
            f"{type(module).__name__} is a linear layer of its own kind, which no adapter fits; train attention"
        )
    return type(module) is nn.Linear


def merge_adapters(network: nn.Module) -> None:
    """Add every adapter to the weights beside it, and put the plain layers back.

    Args:
        network: Changed in place; one without adapters stays as it is.
    """
    for name, module in list(network.named_modules()):
        if hasattr(module, "get_base_layer") and hasattr(module, "merge"):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, module.get_base_layer())


def trained_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that train, by name."""
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


def count_weights(network: nn.Module) -> tuple[int, int]:
    """Return the number of weights that train, and of all."""
    return sum(w.numel() for w in trained_weights(network).values()), sum(w.numel() for w in network.parameters())


def checksum_frozen(network: nn.Module) -> int | None:
    """Return a checksum of the weights that do not train, with their names; None where all train."""
    frozen = [(name, weight) for name, weight in network.named_parameters() if not weight.requires_grad]
    return reduce(_add, frozen, 0) if frozen else None


def _add(checksum: int, named: tuple[str, Tensor]) -> int:
    name, weight = named
    content = weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return zlib.crc32(content, zlib.crc32(name.encode(), checksum))

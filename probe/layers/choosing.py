"""Choose layers as the command line names them."""

from collections.abc import Sequence

from probe.attention.modules import nearest_names
from probe.layers.layout import JOINING, Layer


def select_layers(layers: Sequence[Layer], choice: str) -> list[Layer]:
    """Choose layers as the command line names them, in execution order.

    Args:
        layers: What :func:`find_layers` gave.
        choice: "3d", "all" (every numbered layer), or indexes and names separated by commas; a name may be cut short
            as long as it means one numbered layer.

    Raises:
        ValueError: If nothing fits; names the allowed indexes or the nearest names.
    """
    known = [layer for layer in layers if layer.index is not None]
    numbered = [layer for layer in known if layer.kind not in ("unseen", "other")]
    words = [word.strip() for word in choice.split(",")]
    if words == ["all"]:
        chosen = numbered
    elif words == ["3d"]:
        chosen = [layer for layer in numbered if layer.kind in JOINING]
    else:
        wanted = [_named(known, word) for word in words]
        _refuse_unseen(wanted)
        chosen = [layer for layer in numbered if layer in wanted]
    if not chosen:
        raise ValueError(f"no {choice} layer; its calls are {_summary(layers)}; choose all, or indexes")
    return chosen


def _refuse_unseen(layers: Sequence[Layer]) -> None:
    for layer in layers:
        if layer.kind in ("unseen", "other"):
            raise ValueError(f"layer {layer.index} ({layer.name}) is of kind {layer.kind!r}: {layer.reason}")


def _named(numbered: Sequence[Layer], word: str) -> Layer:
    if word.lstrip("-").isdigit():
        fits = [layer for layer in numbered if layer.index == int(word)]
    else:
        fits = [layer for layer in numbered if f"{layer.name}.".startswith(f"{word}.")]
    if len(fits) == 1:
        return fits[0]
    if not fits and word.lstrip("-").isdigit():
        raise ValueError(f"layer {word!r} is unknown; allowed: 3d, all, or indexes {_summary(numbered)}")
    names = [layer.name for layer in fits or numbered]
    what = f"{word!r} means {len(fits)} layers" if fits else f"layer {word!r} is unknown"
    raise ValueError(
        f"{what}; nearest: {nearest_names(word, names)}; allowed: 3d, all, or indexes {_summary(numbered)}"
    )


def _summary(layers: Sequence[Layer]) -> str:
    indexes = [layer.index for layer in layers if layer.index is not None]
    joining = [layer.index for layer in layers if layer.kind in JOINING]
    return (
        f"{min(indexes)} to {max(indexes)}, of which 3D: {joining}"
        if indexes
        else f"{len(layers)}, none of them self-attention"
    )

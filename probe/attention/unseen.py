"""Why a tapped layer was not seen in a forward, and what to do: the messages of a tap."""

from collections.abc import Mapping

from torch import nn

from probe.attention.kernels import known_packages
from probe.attention.modules import may_attend
from probe.attention.targets import Target
from probe.attention.wrapped import hook_names

NATIVE = (
    "diffusers: model.set_attention_backend('native') and AttnProcessor2_0, no slicing; transformers: "
    "model.set_attn_implementation('sdpa')"
)


def why_unseen(
    target: Target,
    made: int,
    explicit: Mapping[str, tuple[int, ...]],
    modules: Mapping[str, nn.Module],
    unread: Mapping[str, str],
) -> str:
    """Return why a layer that ran was not seen, for the error.

    Args:
        target: The layer.
        made: How many calls its module made.
        explicit: Shapes that modules inside it passed to softmax.
        modules: All modules by name.
        unread: Why those softmaxes could not be read, by module; empty where that was not asked for.
    """
    what = f"AttentionTap: {target.name!r} ran"
    if made:
        return f"{what} and made {made} attention calls, none with number {target.nth}; use find_layers(model) again"
    if explicit:
        causes = list(dict.fromkeys(unread[name] for name in explicit if name in unread))
        way = f"it cannot be read: {'; '.join(causes)};" if causes else "read it with explicit=True, or"
        return (
            f"{what} but called no fused attention: explicit softmax, by module and shape: {dict(explicit)}; {way} "
            f"switch to F.scaled_dot_product_attention ({NATIVE}; nn.MultiheadAttention: need_weights=False)"
        )
    if hint := cache_hint(modules):
        return f"{what} without attention: {hint}"
    module = modules[target.name]
    if target.name and not may_attend(module) and not module._modules:
        return f"{what}, but a {type(module).__name__} calls no attention; name a module that attends"
    return (
        f"{what} but its kernel bypasses F.scaled_dot_product_attention (torch.jit, a compiled or another function); "
        f"choose the native one ({NATIVE}), name a module that attends, or add the function to "
        f"probe.attention.kernels.KERNELS, which knows functions of {', '.join(known_packages())}"
    )


def beside_calls(name: str, shape: tuple[int, ...], reason: str) -> str:
    """Return that a module which makes calls also attends in a way that is not recorded, for the warning."""
    return (
        f"AttentionTap: {name!r} also computes an explicit softmax of shape {list(shape)} that is not recorded: "
        f"{reason}; to see it, switch to F.scaled_dot_product_attention ({NATIVE})"
    )


def dropped(name: str, share: float) -> str:
    """Return that a call drops weights at random, for the warning."""
    return (
        f"AttentionTap: {name!r} drops {share:.0%} of its weights at random, and what is recorded is before that; "
        "model.eval() turns it off where the module heeds it, dropout_p=0 in the model always"
    )


def why_not_run(target: Target, model: nn.Module, modules: Mapping[str, nn.Module]) -> str:
    """Return why a layer did not run in a forward of its model, for the error."""
    cause = cache_hint(modules) or (
        "is it skipped, or its parent run by a fused or compiled kernel? List what runs with find_layers(model), or "
        "accept such forwards with on_skip='count'"
    )
    return f"AttentionTap: {target.name!r} never ran in this forward of {type(model).__name__}; {cause}"


def cache_hint(modules: Mapping[str, nn.Module]) -> str:
    """Name diffusers' caches in a model (they hook blocks that decide for others); empty without any."""
    hooks = dict.fromkeys(hook for module in modules.values() for hook in hook_names(module, stateful=True))
    if not hooks:
        return ""
    return (
        f"a cache of diffusers ({', '.join(hooks)}) may have reused an earlier step's; turn it off "
        "(model.disable_cache()), or accept such forwards with on_skip='count'"
    )

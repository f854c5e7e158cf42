"""A pretended CUDA device on a machine without one: tensors that say "cuda", computed on the CPU.

What a GPU would refuse is refused: an operation on tensors of both devices (but for numbers and indexes, which CUDA
takes from the CPU), and NumPy's view of a tensor that is not on the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index"}
COPIES = {"aten::copy_", "aten::_to_copy", "aten::_foreach_copy_"}
WHOLE = {torch.quantile, torch.nn.functional.one_hot}
"""Functions whose C++ makes tensors on the way, on the device that it believes in."""
MATH = 0


class OnCuda(Tensor):
    """A tensor that says that it is on the device, around the one that holds its values."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "OnCuda":
        made = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=CPU,  # for C++, which would look for a driver
            requires_grad=values.requires_grad,
        )
        made.values = values
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Return what Python code sees."""
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """Return what Python code sees."""
        return True

    def __repr__(self, **_: Any) -> str:
        return f"OnCuda({self.values})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation on the values; wrap the results if it ran on the device."""
    name = func._schema.name
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, OnCuda)]
    if name not in COPIES:
        _refuse_mixed(name, [x for x in tensors if name not in INDEXED or x.is_floating_point()])
    if name == "aten::_fused_sdp_choice":
        return MATH
    wanted = kwargs.get("device")
    device = CUDA if there and wanted is None else wanted
    if "device" in kwargs:
        kwargs = {**kwargs, "device": CPU}
    inner_args, inner_kwargs = tree_map_only(OnCuda, lambda x: x.values, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    if name.endswith("copy_") and tensors:
        device = tensors[0].device
    if device is None or torch.device(device).type != "cuda":
        return _same_objects(out, inner_args, args)
    wrapped = tree_map(lambda x: OnCuda(x) if isinstance(x, Tensor) and not isinstance(x, OnCuda) else x, out)
    return _same_objects(wrapped, inner_args, args, out)


def _same_objects(out: Any, inner: Any, outer: Any, plain: Any = None) -> Any:
    """Return the caller's own tensor where an operation changed it in place."""
    plain = out if plain is None else plain
    pairs = zip(tree_flatten(inner)[0], tree_flatten(outer)[0], strict=True)
    by_id = {id(a): b for a, b in pairs if isinstance(a, Tensor)}
    if isinstance(plain, Tensor):
        return by_id.get(id(plain), out)
    if isinstance(plain, (list, tuple)):
        return type(plain)(by_id.get(id(p), o) if isinstance(p, Tensor) else o for p, o in zip(plain, out, strict=True))
    return out


def _refuse_mixed(name: str, tensors: list[Tensor]) -> None:
    devices = {isinstance(x, OnCuda) for x in tensors if isinstance(x, OnCuda) or x.ndim > 0}
    if len(devices) > 1:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cuda:0 and cpu")


class _Factories(TorchDispatchMode):
    """Operations that make tensors on the device, or move them there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.device(kwargs.get("device") or "cpu").type == "cuda" or any(
            isinstance(x, OnCuda) for x in tree_flatten((args, kwargs))[0]
        ):
            return run(func, args, kwargs)
        return func(*args, **kwargs)


class _Conversions(TorchFunctionMode):
    """What PyTorch decides in C++ by the device: copies to and from it, and NumPy's view."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_numbered, (args, kwargs or {}))
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], OnCuda):
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
        if func is Tensor.tolist:
            return moved(args[0], CPU).tolist()
        if func is Tensor.cpu:
            return moved(args[0], CPU)
        if func is Tensor.cuda:
            return moved(args[0], CUDA)
        if func is Tensor.to:
            return _to(args[0], *args[1:], **kwargs)
        if func in WHOLE and any(isinstance(x, OnCuda) for x in args):
            plain_args, plain_kwargs = tree_map_only(OnCuda, lambda x: x.values, (args, kwargs))
            return tree_map_only(Tensor, OnCuda, func(*plain_args, **plain_kwargs))
        if func is Tensor.new_tensor and isinstance(args[0], OnCuda):
            return moved(torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}), CUDA)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == CUDA:
            return moved(func(*args, **{**kwargs, "device": CPU}), CUDA)
        return func(*args, **kwargs)


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    like = args[0] if args else kwargs.pop("other", None)
    if isinstance(like, Tensor):
        return _to(x, like.device, like.dtype, **kwargs)
    places = [one for one in (*args, kwargs.get("device")) if isinstance(one, (str, torch.device))]
    x = moved(x, torch.device(places[0])) if places else x
    dtype = next((one for one in (*args, kwargs.get("dtype")) if isinstance(one, torch.dtype)), x.dtype)
    return x.to(dtype, memory_format=kwargs.get("memory_format") or torch.preserve_format)


def moved(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device: itself where it is there already."""
    return x if x.device.type == device.type else torch.ops.aten._to_copy(x, device=device)


def _numbered(x: Any) -> Any:
    """Name the device by its number: finding the number of the current one needs a driver."""
    return CUDA if (isinstance(x, torch.device) and x.type == "cuda") or (isinstance(x, str) and x == "cuda") else x


@contextmanager
def pretend_cuda() -> Iterator[None]:
    """Pretend that there is a CUDA device while the context is open."""
    there = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_rng_state": lambda *_: torch.get_rng_state(),
    }
    nothing = (
        "_lazy_init",
        "set_rng_state",
        "set_rng_state_all",
        "set_device",
        "synchronize",
        "empty_cache",
        "manual_seed_all",
        "reset_peak_memory_stats",
    )
    with mock.patch.multiple(torch.cuda, **there, **{name: lambda *_: None for name in nothing}):
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter cannot change its class in place
        try:
            with _Factories(), _Conversions():
                yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)

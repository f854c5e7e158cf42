"""What a run will take, before anything is loaded: tokens, memory and time of one denoising step and of its scoring.

The model is built without weights (PyTorch's meta device) and rehearsed there: every operation is written down with its
shapes, and the bytes alive are followed. Then each different operation is timed once, alone, on the real device with
random numbers, and the times are added up. What calling them costs beside is measured on the small network, per
operation. Scoring is timed, and its memory followed, on random queries and keys.
"""

import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from probe.layers import Layer, joint_layout
from probe.measure.model import in_own_precision
from probe.measure.scene import LayerCall, Scene
from probe.measure.score import score_call
from probe.models import fresh_tiny
from probe.models.model import MultiViewModel, to_device
from probe.models.parts.files import META
from probe.protocols import Protocol
from probe.scenes import Request, open_scenes
from probe.views import Views, resize

REPEATS, LONG = 3, 0.5
CALIBRATION_VIEWS = 3

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Shape:
    """Stand for a tensor of these sizes in an operation's key."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def fill(self, device: torch.device) -> Tensor:
        """Make such a tensor: standard normal, or zeros for whole numbers."""
        count = 1 + sum((size - 1) * step for size, step in zip(self.size, self.stride, strict=True))
        flat = torch.zeros(max(count, 1), dtype=self.dtype, device=device)
        return (flat.normal_() if self.dtype.is_floating_point else flat).as_strided(self.size, self.stride)


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What one pass does.

    Attributes:
        operations: How often each is called, by function and shapes.
        peak: Bytes alive at most, without the weights.
        at_attention: Bytes alive at each attention call of the network, in execution order.
    """

    operations: Counter[Key]
    peak: int
    at_attention: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a layer's scoring, or a forward pass, takes: seconds, and bytes beside the weights."""

    seconds: float
    bytes: int


@dataclass(eq=False)
class Memory(TorchDispatchMode):
    """Follow the bytes of tensors that are alive while the mode is on, and write operations down."""

    operations: Counter[Key] = field(default_factory=Counter)
    alive: int = 0
    peak: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_flatten((args, kwargs))[0]:
            if isinstance(leaf, Tensor):
                self.follow(leaf, counted=False)
        output = func(*args, **kwargs)
        made = [self.follow(x) for x in tree_flatten(output)[0] if isinstance(x, Tensor)]
        if any(made) or func._schema.is_mutable:
            self.operations[key_of(func, args, kwargs)] += 1
        return output

    def follow(self, tensor: Tensor, *, counted: bool = True) -> bool:
        """Follow a tensor's storage until it is freed, and count it or not; tell whether it is a new one."""
        storage = tensor.untyped_storage()
        if id(storage) in self.known:
            return False
        self.known.add(id(storage))
        size = storage.nbytes() if counted else 0
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, id(storage), size)
        return True

    def _forget(self, identity: int, size: int) -> None:
        self.known.discard(identity)
        self.alive -= size


class _Attention(TorchFunctionMode):
    """Stand in for fused attention on the meta device, which would hold whole maps there."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory, self.alive = memory, list[int]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.memory.operations[key_of(func, args, kwargs)] += 1
        self.alive.append(self.memory.alive)
        q, v = (kwargs.get(name, args[n] if n < len(args) else None) for n, name in ((0, "query"), (2, "value")))
        return q.new_empty(*q.shape[:-1], v.shape[-1])


def key_of(func: Any, args: Any, kwargs: Any) -> Key:
    """Name an operation by its function and the shapes of what it is given."""

    def shape(x: Tensor) -> Shape:
        return Shape(tuple(x.shape), x.stride(), x.dtype)

    leaves, tree = tree_flatten(tree_map_only(Tensor, shape, (args, kwargs)))
    return func, tuple(leaves), tree


def rehearse(model: MultiViewModel, views: Views) -> Rehearsal:
    """Run one denoising step without numbers.

    Args:
        model: With network and autoencoder on the meta device.
        views: One scene; only its size and cameras matter.
    """
    small = resize(views, model.size, model.size)
    inputs = {name: x.to(META) for name, x in model.condition(small).items()}
    t = torch.zeros(len(small.image), dtype=torch.long, device=META)
    memory = Memory()
    in_own = model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True)
    with torch.no_grad(), in_own, memory, _Attention(memory) as attention:
        shown = small.to(META)
        memory.follow(shown.image)
        latents = model.encode_views(shown)
        attention.alive.clear()  # an autoencoder's own attention is none of the network's
        model.denoise(latents, t, inputs)
    return Rehearsal(operations=memory.operations, peak=memory.peak, at_attention=tuple(attention.alive))


def weights_of(model: MultiViewModel) -> list[Tensor]:
    """List the weights of a model's network and of its other modules."""
    modules = [value for value in vars(model).values() if isinstance(value, nn.Module)]
    return [weight for module in modules for weight in (*module.parameters(), *module.buffers())]


def forward_seconds(rehearsal: Rehearsal, device: torch.device, progress: Callable[[Any], Any] = iter) -> float:
    """Estimate one pass: each different operation timed alone, and what calling each costs on the small network."""
    count = sum(rehearsal.operations.values())
    return time_operations(rehearsal.operations, device, progress) + count * seconds_per_call(device)


def seconds_per_call(device: torch.device) -> float:
    """Measure what a network takes beyond its operations' own times, per operation, on the small one."""
    views, _ = open_scenes("shapes", Request(groups=1, views=CALIBRATION_VIEWS, n_ref=1)).load(0)
    model = to_device(fresh_tiny(0), device)
    rehearsal = rehearse(to_device(fresh_tiny(0), META), views)
    small = resize(views, model.size, model.size).to(device)
    latents, inputs = model.encode(small.image), model.condition(small)
    t = torch.zeros(1, dtype=torch.long, device=device)
    with torch.no_grad():
        taken = typical_seconds(lambda: model.denoise(latents, t, inputs), device)
    overhead = taken - time_operations(rehearsal.operations, device)
    return max(0.0, overhead) / sum(rehearsal.operations.values())


def time_operations(operations: Counter[Key], device: torch.device, progress: Callable[[Any], Any] = iter) -> float:
    """Time each different operation alone, with random numbers; give the seconds of all of them together."""
    return sum(count * _time_operation(key, device) for key, count in progress(list(operations.items())))


@torch.no_grad()
def _time_operation(key: Key, device: torch.device) -> float:
    func, leaves, tree = key
    real = [leaf.fill(device) if isinstance(leaf, Shape) else device if leaf == META else leaf for leaf in leaves]
    args, kwargs = tree_unflatten(real, tree)
    return typical_seconds(lambda: func(*args, **kwargs), device)


def typical_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Time some work up to three times, and not again once it has taken long; give the median."""
    taken = list[float]()
    while len(taken) < REPEATS and sum(taken) < LONG:
        taken.append(seconds_of(work, device))
    return median(taken)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Time some work; a GPU's too."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def random_call(layer: Layer, scene: Scene) -> LayerCall:
    """Return a call of random queries and keys of a layer's shape."""
    views, device = scene.views.count, scene.views.image.device
    shape = (1, layer.heads, tokens_of(layer, views), layer.channels)
    q, k = (torch.randn(shape, device=device) for _ in range(2))
    return LayerCall(
        layer=layer,
        layout=joint_layout(layer, views),
        q=q,
        k=k,
        scale=layer.channels**-0.5,
        model="",
        step=0,
        timestep=0,
    )


def scoring_cost(layer: Layer, scene: Scene, protocol: Protocol) -> Cost:
    """Score random queries and keys of a layer's shape: the seconds and the bytes it takes."""
    device, call = scene.views.image.device, random_call(layer, scene)
    with Memory() as memory:
        score_call(call, scene, protocol)
    return Cost(
        seconds=typical_seconds(lambda: score_call(call, scene, protocol), device),
        bytes=memory.peak,
    )


def tokens_of(layer: Layer, views: int) -> int:
    """Count the tokens that a layer's attention joins, over all views."""
    return layer.on(views).tokens


def peak_bytes(rehearsal: Rehearsal, every: Sequence[str], scoring: Mapping[str, Cost]) -> int:
    """Return the most bytes that are alive beside the weights: in the forward pass, or while a layer is scored.

    Args:
        rehearsal: Of the forward pass.
        every: Names of all attention calls of the network, in execution order.
        scoring: Of the calls that are scored, by name.
    """
    alive = zip(rehearsal.at_attention, every, strict=True)
    return max([rehearsal.peak, *(held + scoring[name].bytes for held, name in alive if name in scoring)])

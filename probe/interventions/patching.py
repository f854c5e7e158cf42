"""Activation patching: target views read part of another run's attention in one layer, and what changes is measured.

The run that is patched and the run that gives (the donor) are the two items of one batch, so that nothing is stored and
no kernel is asked for more than its own output. Only what the target views' tokens receive changes. Donors: the same
scene at less noise (``clean``), which tells what better matching in that layer would bring; and another scene
(``another``), which tells whether the layer's content is read. Pure.

Source:
    Interchange interventions: arXiv 2106.12482; the restored run of causal tracing: arXiv 2202.05262, section 2.1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from probe.attention.call import FUSED, Call, Edit, Run
from probe.attention.masks import logit_bias
from probe.capture import AttentionTap
from probe.interventions.edits import HiddenKeysError
from probe.interventions.effects import Changes, prediction_effect, unmeasured
from probe.layers import Layer, ViewLayout
from probe.measure.model import in_own_precision
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel, noised, predicted_clean
from probe.records import ALL_HEADS
from probe.records.patching import ANOTHER, ERROR, MOVED, WHOLE_LAYER, Donor, Part
from probe.views import concatenate, resize

# --- the edit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Who reads what of the donor.

    Attributes:
        part: What is read: a key of :data:`PARTS`.
        layout: Where the views' tokens lie in the layer's sequence.
        n_ref: Reference views; tokens of the other views read.
        heads: What these heads give out changes; None for all.
        where: The donor's tokens at these positions are read, else the run's own; None for all.
    """

    part: Part
    layout: ViewLayout
    n_ref: int
    heads: tuple[int, ...] | None = None
    where: Bool[Tensor, " tokens"] | None = None


def patch(reader: Reader) -> Edit:
    """Make an edit by which target views of the first of two batch items read a part of the second's attention.

    Args:
        reader: Who reads what.

    Returns:
        The edit. What reference views, text, other heads and the second item receive is left as it was.

    Raises:
        HiddenKeysError: When run: if the layer hides keys by a mask and logits of two runs are to be mixed.
        ValueError: When run: if the batch has not two items.
    """

    def edit(call: Call, run: Run) -> Tensor:
        if len(call.q) != 2:
            raise ValueError(
                f"patch: {call.name} is called with a batch of {len(call.q)}, expected 2, the run and its donor: the "
                "model changes its batch, so this layer cannot be patched"
            )
        usual = run(call.q, call.k, call.v)
        changes = _changes(reader, call).to(usual.device)
        return torch.where(changes, PARTS[reader.part](call, run, usual, reader), usual)

    return edit


def _changes(reader: Reader, call: Call) -> Bool[Tensor, "2 heads n 1"]:
    """Return what changes: of the first item the chosen heads' output for tokens of target views."""
    heads, tokens = call.q.shape[1:3]
    chosen = torch.zeros(2, heads, tokens, 1, dtype=torch.bool)
    inside = torch.ones(heads, dtype=torch.bool)
    if reader.heads is not None:
        inside = torch.isin(torch.arange(heads), torch.tensor(reader.heads))
    chosen[0, ..., 0] = inside[:, None] & (reader.layout.owners() >= reader.n_ref)
    return chosen


Reads = Callable[[Call, Run, Tensor, Reader], Tensor]


def _of(names: str) -> Reads:
    """Let queries, keys or values be the donor's."""

    def read(call: Call, run: Run, _usual: Tensor, reader: Reader) -> Tensor:
        own = {name: getattr(call, name) for name in "qkv"}
        return run(*(_from_donor(x, reader.where) if name in names else x for name, x in own.items()))

    return read


def _output(_call: Call, _run: Run, usual: Tensor, reader: Reader) -> Tensor:
    """Let what attention gives out be the donor's."""
    return _from_donor(usual, reader.where)


def _matching(call: Call, _run: Run, usual: Tensor, reader: Reader) -> Tensor:
    """Let the logits between a target view and all others be the donor's; those within it stay.

    Queries and keys of both runs stand side by side, each key being zero where the other run's counts, so one product
    has the logits of both. PyTorch's kernel is asked, as others may take no scale but that of the queries' length.
    """
    if logit_bias(call) is not None:
        raise HiddenKeysError(f"patch: {call.name} hides keys by its mask, so logits of two runs cannot be mixed")
    owners, mixed = reader.layout.owners().to(usual.device), usual.clone()
    q, k, v = (x.to(call.compute_dtype) for x in (call.q, call.k_per_head, call.v_per_head))
    asked = rearrange(q, "both heads n d -> 1 heads n (both d)")
    for view in range(reader.n_ref, reader.layout.views):
        own = rearrange((owners == view) | (owners == -1), "n -> n 1")
        keys = torch.cat([torch.where(own, k[:1], 0), torch.where(own, 0, k[1:])], dim=-1)
        asking = owners == view
        mixed[:1, :, asking] = FUSED(asked[:, :, asking], keys, v[:1], scale=call.scale)
    return mixed


def _from_donor(x: Float[Tensor, "2 heads n d"], where: Bool[Tensor, " n"] | None) -> Float[Tensor, "2 heads n d"]:
    """Return a batch whose first item has the second's tokens."""
    own, donor = x
    mixed = donor if where is None else torch.where(where.to(x.device)[:, None], donor, own)
    return torch.stack([mixed, donor])


PARTS: dict[Part, Reads] = {
    "queries": _of("q"),
    "keys": _of("k"),
    "values": _of("v"),
    "matching": _matching,
    "content": _of("kv"),
    "output": _output,
}
"""What is read of the donor; ``matching`` are the logits between views, ``content`` keys and values together."""


# --- two runs in one batch -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TwoRuns:
    """A run and its donor, as one batch.

    Attributes:
        predict: Return the predicted clean latents of the run's target views, [1 targets c h w].
        clean: The true ones.
    """

    predict: Callable[[], Tensor]
    clean: Float[Tensor, "1 targets c h w"]


def two_runs(model: MultiViewModel, scene: Scene, donor: Scene, timesteps: tuple[int, int]) -> TwoRuns:
    """Put a scene and its donor side by side.

    Args:
        model: The model.
        scene: That is patched.
        donor: That gives; the scene itself for a run at another timestep.
        timesteps: Of the run, and of the donor.

    Raises:
        ValueError: If the scenes differ in number of views or references.
    """
    device = model.alpha_bar.device
    small = concatenate([resize(one.views, model.size, model.size) for one in (scene, donor)]).to(device)
    index = torch.tensor(timesteps, device=device)
    noise = torch.cat([scene.noise, donor.noise]).to(device)
    clean, inputs, level = model.encode_views(small), model.condition(small), model.alpha_bar[index]
    latents, targets = noised(model, small, clean, noise, index), slice(small.n_ref, None)

    def predict() -> Tensor:
        with model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True):
            predicted = model.denoise(latents, index, inputs).float()
        return predicted_clean(model, latents, predicted, level)[:1, targets]

    return TwoRuns(predict=predict, clean=clean[:1, targets])


# --- whole layers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Patches:
    """What is patched.

    Attributes:
        parts: Of a layer's attention.
        timesteps: At which the run is.
        clean_timestep: At which the donor of the same scene is: with little noise.
        each_head: Whether every head is patched alone as well.
        seed: Of the patched tokens.
    """

    parts: tuple[Part, ...]
    timesteps: tuple[int, ...]
    clean_timestep: int
    each_head: bool = False
    seed: int = 0

    def trials(self, layers: Sequence[Layer]) -> Iterator[tuple[Layer, int, Part]]:
        """List what is patched, one after the other: layer, head (-1 for all together), and part."""
        for layer in layers:
            for head in range(ALL_HEADS, layer.heads if self.each_head else 0):
                yield from ((layer, head, part) for part in self.parts)


@torch.no_grad()
def patch_layers(
    model: MultiViewModel, scene: Scene, donors: Mapping[Donor, Scene], layers: Sequence[Layer], patches: Patches
) -> pd.DataFrame:
    """Patch one layer after the other with the donors' attention, and measure what it does to the prediction.

    Args:
        model: The model.
        scene: That is patched.
        donors: Scenes that give, by name; ``clean`` is the scene itself.
        layers: Those that join views.
        patches: What is patched.

    Returns:
        Rows of the table of patches (:data:`probe.records.patching.COLUMNS`, without unit): measures ``error`` (growth
        of the prediction's error: 0.1 is 10 % more, below 0 less) and ``moved`` (root mean square of the change, over
        the prediction's own), the mean over target views, NaN with count 0 where it is in none.
    """
    rows = []
    for name, t in ((name, t) for name in donors for t in patches.timesteps):
        if name == ANOTHER or t > patches.clean_timestep:
            runs = two_runs(model, scene, donors[name], (t, t if name == ANOTHER else patches.clean_timestep))
            usual, where = runs.predict(), {"donor": name, "timestep": t, "tokens": WHOLE_LAYER}
            for layer, head, part in patches.trials(layers):
                changes = _effect(model, layer, head, part, scene, runs, usual)
                rows += _rows(scene, {**where, "part": part, "layer": layer.index, "head": head}, changes)
    return pd.DataFrame(rows)


def _effect(
    model: MultiViewModel, layer: Layer, head: int, part: Part, scene: Scene, runs: TwoRuns, usual: Tensor
) -> Changes:
    """Return what a patch changes; NaN with count 0 where the layer hides keys and so cannot be patched."""
    heads, layout = None if head == ALL_HEADS else (head,), layer.layout(scene.views.count)
    reader = Reader(part=part, layout=layout, n_ref=scene.views.n_ref, heads=heads)
    try:
        with AttentionTap(model.network, [layer], edit=patch(reader)):
            return prediction_effect(runs.predict(), usual, runs.clean)
    except HiddenKeysError:
        return unmeasured(usual)


def _rows(scene: Scene, where: dict[str, object], changes: Changes) -> list[dict[str, object]]:
    """List what a patch changed: one row per measure."""
    measures = {"effect_error": ERROR, "effect_x0": MOVED}
    return [
        {
            **where,
            "scene": scene.name,
            "measure": measures[metric],
            "value": float(value.nanmean()),
            "count": int(n.sum()),
        }
        for metric, (value, n) in changes.items()
    ]

"""Decode depth and epipolar geometry from a layer's tokens by a small network: is it there, and is it used? Pure.

A decoder is trained on some scenes and measured on others. Beside each layer of the model stand the same layers when
its images are grey (cameras only), and what needs no model at all: the token's place for depth, which every decoder of
depth is told, and one matrix for all pairs of views for epipolar lines.

Source:
    Probing by small classifiers: arXiv 1610.01644. Sampson's distance: Hartley and Zisserman, Multiple View Geometry,
    section 11.4.3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from probe.attention.call import Call
from probe.capture import AttentionTap
from probe.layers import Layer
from probe.measure.model import in_own_precision
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel, predict
from probe.records.decoding import DEPTH, EPIPOLAR, PARTS, DecodedPart
from probe.views import resize

HIDDEN, STEPS, RATE, DECAY, BATCH = 64, 300, 3e-3, 1e-2, 1024
"""Of the decoder: hidden units, AdamW's steps, learning rate and weight decay, samples per step."""
LOOK, KEPT = 20, 4
"""Steps between measurements on validation scenes, which are one in four of those that decoders learn from."""
PLACES = 64
"""Tokens per target view that depth is decoded of, and matches per pair of views, at most."""
POOLED = 2
"""Blocks along a side that a view's tokens are averaged over, to decode epipolar lines."""


# --- what is decoded -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SceneTruth:
    """What is decoded of one scene, on one grid.

    Attributes:
        places: Tokens of target views, as (view, token).
        log_depth: Logarithm of their points' depth in their own views.
        pairs: Target and reference view of each pair.
        matches: Points of the target view and true points of the reference view, in sides of the image from its
            middle; NaN behind the last.
    """

    places: Int[Tensor, "places 2"]
    log_depth: Float[Tensor, " places"]
    pairs: Int[Tensor, "pairs 2"]
    matches: Float[Tensor, "pairs m 2 2"]


def scene_truth(scene: Scene, grid: tuple[int, int], generator: torch.Generator) -> SceneTruth:
    """Draw what is decoded of a scene.

    Args:
        scene: With the truth on the grid.
        grid: Of a layer.
        generator: Of the draw.
    """
    truth, views = scene.truths[grid], scene.views
    known = truth.valid[0].cpu().clone()
    known[: views.n_ref] = False
    places = torch.cat([_some(known[view].nonzero(), PLACES, generator, view) for view in range(views.count)])
    camera = views.world_to_cam[0].cpu().double()[places[:, 0]]
    points = truth.points[0].cpu().double()[places[:, 0], places[:, 1]]
    depth = einsum(camera[:, 2, :3], points, "n c, n c -> n") + camera[:, 2, 3]
    pairs = torch.cartesian_prod(torch.arange(views.n_ref, views.count), torch.arange(views.n_ref)).reshape(-1, 2)
    return SceneTruth(
        places=places[depth > 0],
        log_depth=depth[depth > 0].log().float(),
        pairs=pairs,
        matches=torch.stack([_matches(scene, grid, int(a), int(b), generator) for a, b in pairs]),
    )


def _some(tokens: Int[Tensor, "n 1"], most: int, generator: torch.Generator, view: int) -> Int[Tensor, "m 2"]:
    """Draw tokens of a view."""
    drawn = tokens[torch.randperm(len(tokens), generator=generator)[:most]]
    return torch.cat([torch.full_like(drawn, view), drawn], dim=1)


def _matches(
    scene: Scene, grid: tuple[int, int], query: int, key: int, generator: torch.Generator
) -> Float[Tensor, "m 2 2"]:
    """Draw true matches of a pair of views, of points that have not moved between them; NaN where there are fewer."""
    truth = scene.truths[grid]
    still = truth.visible if truth.moves is None else truth.visible & ~truth.moves
    seen = still[0, query, :, key].cpu().nonzero()[:, 0]
    drawn = seen[torch.randperm(len(seen), generator=generator)[:PLACES]]
    both = torch.stack([truth.centres.cpu()[drawn], truth.xy[0, query, :, key].cpu()[drawn]], dim=1).float()
    height, width = scene.views.size
    centred = (both - both.new_tensor([width / 2, height / 2])) / truth.side
    return F.pad(centred, (0, 0, 0, 0, 0, PLACES - len(drawn)), value=torch.nan)


# --- what it is decoded from -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What one layer says of one scene.

    Attributes:
        places: Of each place, and where it is.
        pairs: Of both views of each pair, each averaged over blocks of its tokens.
    """

    places: Float[Tensor, "places c"]
    pairs: Float[Tensor, "pairs c2"]


def where(truth: SceneTruth, grid: Sequence[int]) -> Float[Tensor, "places 5"]:
    """Return where places are in their views: row and column from 0 to 1, their squares and their product."""
    token = truth.places[:, 1]
    place = torch.stack([token // grid[1] / grid[0], token % grid[1] / grid[1]], dim=1)
    return torch.cat([place, place.square(), place.prod(1, keepdim=True)], dim=1)


def read_tokens(x: Float[Tensor, "f rows columns c"], truth: SceneTruth) -> Tokens:
    """Read a layer's tokens at what is decoded.

    Args:
        x: Of all views.
        truth: What is decoded.
    """
    flat = rearrange(x, "f rows columns c -> f (rows columns) c")
    blocks = F.adaptive_avg_pool2d(rearrange(x, "f rows columns c -> f c rows columns"), POOLED).flatten(1)
    return Tokens(
        places=torch.cat([flat[truth.places[:, 0], truth.places[:, 1]], where(truth, x.shape[1:3])], dim=1),
        pairs=rearrange(blocks[truth.pairs], "pairs two c -> pairs (two c)"),
    )


@torch.no_grad()
def layer_tokens(
    model: MultiViewModel, scene: Scene, layers: Sequence[Layer], t: int, truths: Mapping[tuple[int, int], SceneTruth]
) -> dict[tuple[int, DecodedPart], Tokens]:
    """Run one denoising step and read what every layer says of a scene, in queries with keys, and in values.

    Args:
        model: The model.
        scene: The scene.
        layers: To read; those that join views.
        t: Timestep index.
        truths: What is decoded, by grid.
    """
    device, count = model.alpha_bar.device, scene.views.count
    by_key = {(layer.name, layer.nth): layer for layer in layers}
    tokens: dict[tuple[int, DecodedPart], Tokens] = {}

    def hear(call: Call) -> None:
        layer = by_key[call.name, call.nth]
        assert layer.index is not None
        layout = layer.layout(count)
        for part, x in zip(PARTS, (torch.cat([call.q, call.k_per_head], dim=1), call.v), strict=True):
            grids = rearrange(layout.split(x[0].float()), "heads f rows columns d -> f rows columns (heads d)")
            tokens[layer.index, part] = read_tokens(grids.cpu(), truths[layout.grid])

    tap = AttentionTap(model.network, list(layers), on_call=hear)
    with model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True), tap:
        small = resize(scene.views, model.size, model.size).to(device)
        predict(model, small, torch.tensor([t], device=device), scene.noise.to(device))
    return tokens


# --- the decoder -----------------------------------------------------------------------------------------------------


def decoder(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """Make a network of one hidden layer.

    Args:
        inputs: Numbers per sample.
        outputs: Numbers that are decoded.
        generator: Of the weights.
    """
    first, last = nn.Linear(inputs, HIDDEN), nn.Linear(HIDDEN, outputs)
    for layer in (first, last):
        nn.init.normal_(layer.weight, std=max(1, layer.in_features) ** -0.5, generator=generator)
        nn.init.normal_(layer.bias, std=0.1, generator=generator)
    return nn.Sequential(first, nn.GELU(), last)


Loss = Callable[[Float[Tensor, "n out"], Int[Tensor, " n"]], Tensor]
"""Of predictions for samples, by their numbers."""


Decoder = Callable[[Float[Tensor, "m c"]], Float[Tensor, "m out"]]
"""From samples to what is decoded of them."""


@torch.enable_grad()
def fit(x: Float[Tensor, "n c"], loss: Loss, outputs: int, kept: int, generator: torch.Generator) -> Decoder:
    """Train a decoder; its weights are those of the step that is best on samples kept back.

    Args:
        x: Of the samples; each number is brought to mean 0 and variance 1 over them.
        loss: Of predictions.
        outputs: Numbers that are decoded.
        kept: How many samples, the last ones, are kept back; 0 to train to the end.
        generator: Of weights and batches.

    Returns:
        The decoder, which takes samples as they are.
    """
    mean, size = x.mean(0), x.std(0).clamp(min=1e-6)
    network, scaled = decoder(x.shape[1], outputs, generator), (x - mean) / size
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    used, back = len(x) - kept, torch.arange(len(x) - kept, len(x))
    best, weights = torch.inf, network.state_dict()
    for step in range(1, STEPS + 1):
        chosen = torch.randperm(used, generator=generator)[:BATCH]
        optimiser.zero_grad()
        loss(network(scaled[chosen]), chosen).backward()
        optimiser.step()
        if kept and step % LOOK == 0 and (now := float(loss(network(scaled[back]), back).detach())) < best:
            best, weights = now, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    return lambda others: network((others - mean) / size).detach()


def sampson(matrix: Float[Tensor, "pairs 3 3"], matches: Float[Tensor, "pairs m 2 2"]) -> Float[Tensor, "pairs m"]:
    """Return Sampson's distance of matches from a fundamental matrix, in the matches' unit.

    Args:
        matrix: Turns a point of the first view into its line in the second.
        matches: Points of the first and the second view.

    Returns:
        At least 0; NaN where a match is.
    """
    points = F.pad(matches, (0, 1), value=1.0)
    first, second = points[..., 0, :], points[..., 1, :]
    line = einsum(matrix, first, "p i j, p m j -> p m i")
    back = einsum(matrix, second, "p i j, p m i -> p m j")
    off = einsum(second, line, "p m i, p m i -> p m")
    slope = line[..., :2].square().sum(-1) + back[..., :2].square().sum(-1)
    return off.abs() / slope.clamp(min=1e-12).sqrt()


def _matrix(predicted: Float[Tensor, "n 9"]) -> Float[Tensor, "n 3 3"]:
    return rearrange(F.normalize(predicted, dim=-1), "n (i j) -> n i j", i=3)


# --- train on some scenes, measure on others -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What one layer says of many scenes.

    Attributes:
        tokens: Of each scene.
        truths: Of each scene.
        learning: Which scenes decoders learn from; they are measured on the others.
        seeds: Of the decoders, whose errors are averaged.
    """

    tokens: Sequence[Tokens]
    truths: Sequence[SceneTruth]
    learning: Sequence[bool]
    seeds: Sequence[int] = (0,)

    def parts(self) -> tuple[list[int], list[int]]:
        """Return the numbers of the scenes to learn from, and of the others."""
        numbers = range(len(self.tokens))
        return [n for n in numbers if self.learning[n]], [n for n in numbers if not self.learning[n]]

    def kept(self, sizes: Sequence[int]) -> int:
        """Count the samples of the last scenes to learn from, which are kept back, of the sizes of all of these."""
        return sum(sizes[len(sizes) - len(sizes) // KEPT :])


def depth_errors(samples: Samples) -> list[tuple[int, float, int]]:
    """Decode depth.

    Args:
        samples: Of a layer.

    Returns:
        Of each scene that nothing was learned from: its number, the mean absolute error of the logarithm of depth (.1
        is about 10 %; NaN for no place), and the number of places.
    """
    learning, others = samples.parts()
    x = torch.cat([samples.tokens[n].places for n in learning])
    y = torch.cat([samples.truths[n].log_depth for n in learning])
    middle, size, kept = (
        y.mean(),
        y.std().clamp(min=1e-6),
        samples.kept([len(samples.tokens[n].places) for n in learning]),
    )

    def loss(predicted: Tensor, chosen: Tensor) -> Tensor:
        return F.smooth_l1_loss(predicted[:, 0], (y[chosen] - middle) / size)

    def off(answer: Decoder, n: int) -> Tensor:
        return (answer(samples.tokens[n].places)[:, 0] * size + middle - samples.truths[n].log_depth).abs()

    answers = [fit(x, loss, 1, kept, torch.Generator().manual_seed(seed)) for seed in samples.seeds]
    return [_mean_error(n, [off(answer, n) for answer in answers]) for n in others]


def epipolar_errors(samples: Samples) -> list[tuple[int, float, int]]:
    """Decode the fundamental matrix of pairs of views.

    Args:
        samples: Of a layer.

    Returns:
        Of each scene that nothing was learned from: its number, the mean of Sampson's distance of true matches, in
        sides of the image (NaN for no match), and the number of matches.
    """
    learning, others = samples.parts()
    seen = [samples.truths[n].matches.isfinite().flatten(1).any(1) for n in learning]
    x = torch.cat([samples.tokens[n].pairs[some] for n, some in zip(learning, seen, strict=True)])
    matches = torch.cat([samples.truths[n].matches[some] for n, some in zip(learning, seen, strict=True)])
    kept = samples.kept([int(some.sum()) for some in seen])

    def loss(predicted: Tensor, chosen: Tensor) -> Tensor:
        some = matches[chosen]
        known = some.isfinite().flatten(2).all(2)
        return sampson(_matrix(predicted), some.nan_to_num())[known].mean()

    def off(answer: Decoder, n: int) -> Tensor:
        return sampson(_matrix(answer(samples.tokens[n].pairs)), samples.truths[n].matches)

    answers = [fit(x, loss, 9, kept, torch.Generator().manual_seed(seed)) for seed in samples.seeds]
    return [_mean_error(n, [off(answer, n) for answer in answers]) for n in others]


def _mean_error(scene: int, errors: Sequence[Tensor]) -> tuple[int, float, int]:
    """Average a scene's errors over decoders, and count what they are of."""
    every = torch.stack(list(errors))
    return scene, float(every.nanmean()), int(every[0].isfinite().sum())


ERRORS = {DEPTH: depth_errors, EPIPOLAR: epipolar_errors}
"""What is decoded."""


def without_model(truth: SceneTruth, grid: Sequence[int]) -> Tokens:
    """Return what is known without a model: where a token is, and nothing of a pair of views."""
    return Tokens(places=where(truth, grid), pairs=torch.zeros(len(truth.pairs), 1))

"""Layers are told apart, numbered and laid out right."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from attention_toys import WIDTH, Attend, Toy
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import probe.models  # noqa: F401  (declares what torchvision's wheel lacks, before diffusers is imported)
from probe.layers import Layer, ViewLayout, find_layers, joint_layout, select_layers
from probe.layers.proving import Fit, Placed, agreed
from probe.models import fresh_tiny
from probe.models.model import model_layers


def table(layers: list[Layer]) -> list[tuple[Any, ...]]:
    return [(x.index, x.index_3d, x.name, x.kind, x.grid) for x in layers]


def test_find_layers_known():
    assert table(find_layers(Toy(("view", "3d", "cross", "temporal", "3d")))) == [
        (None, None, "pooler", "other", None),
        (0, None, "blocks.0.attn", "view", (8, 12)),
        (1, 0, "blocks.1.attn", "3d", (8, 12)),
        (None, None, "blocks.2.attn", "cross", None),
        (2, None, "blocks.3.attn", "temporal", None),
        (3, 1, "blocks.4.attn", "3d", (8, 12)),
    ]
    layer = find_layers(Toy())[2]
    assert (layer.heads, layer.channels, layer.nth) == (2, 4, 0)
    assert layer.layout(3) == ViewLayout(3, (8, 12))


def test_order_is_that_of_execution_not_of_names():
    names = [x.name for x in find_layers(Toy(("3d",) * 12)) if x.kind == "3d"]
    assert names == [f"blocks.{i}.attn" for i in range(12)]
    assert names != sorted(names)


def test_find_layers_with_given_inputs_has_their_grid():
    toy = Toy()
    layers = find_layers(toy, lambda views, scale: toy.probe_inputs(views, scale))
    assert [x.grid for x in layers if x.kind == "3d"] == [(2, 3), (2, 3)]


def test_find_layers_leaves_the_model_as_it_was():
    toy = Toy()
    toy.train()
    toy.blocks[1].eval()
    flags = [module.training for module in toy.modules()]
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    find_layers(toy)
    torch.testing.assert_close(torch.randn(4), expected, rtol=0, atol=0)
    assert [module.training for module in toy.modules()] == flags
    assert not any(module._forward_pre_hooks or "forward" in vars(module) for module in toy.modules())
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_training_flags_come_back_after_a_failure():
    toy = Toy().train()
    with pytest.raises(ValueError, match=r"forward of Toy takes latents, text; make_inputs gave nothing: missing"):
        find_layers(toy, lambda views, scale: {"nothing": torch.zeros(1)})
    assert all(module.training for module in toy.modules())


def test_arguments_by_position_only():
    class Positional(Toy):
        def forward(self, latents: Tensor, mask: Tensor | None = None, text: Tensor | None = None, /) -> Tensor:
            assert mask is None
            return super().forward(latents, text)

    torch.manual_seed(0)
    assert find_layers(Positional()) == find_layers(Toy())


def test_find_layers_on_the_meta_device():
    with torch.device("meta"):
        toy = Toy()
    assert [x.grid for x in find_layers(toy) if x.kind == "3d"] == [(8, 12), (8, 12)]


class Shared(Toy):
    """The same module twice: two calls of one name."""

    def forward(self, latents: Tensor, text: Tensor) -> Tensor:
        return super().forward(super().forward(latents, text), text)


def test_shared_modules_are_told_apart_by_the_number_of_the_call():
    found = [(x.index, x.name, x.nth) for x in find_layers(Shared(("3d",))) if x.kind == "3d"]
    assert found == [(0, "blocks.0.attn", 0), (1, "blocks.0.attn", 1)]


class Extras(nn.Module):
    """Joint attention with text before or after the views and with registers before each view."""

    def __init__(self, before: int, after: int, registers: int, *, per_view_first: bool = False) -> None:
        super().__init__()
        self.before, self.after, self.registers = before, after, registers
        self.per_view = Attend() if per_view_first else None
        self.first, self.second = Attend(), Attend()
        self.register = nn.Parameter(torch.randn(registers, WIDTH))

    def forward(self, latents: Tensor) -> Tensor:
        b, f = latents.shape[:2]
        image = rearrange(latents, "b f c h w -> b f (h w) c")
        views = torch.cat([self.register.expand(b, f, -1, -1), image], 2)
        if self.per_view is not None:
            views = rearrange(self.per_view(rearrange(views, "b f n c -> (b f) n c")), "(b f) n c -> b f n c", f=f)
        views = rearrange(views, "b f n c -> b (f n) c")
        text = torch.linspace(0, 1, (self.before + self.after) * WIDTH, device=latents.device)
        text = text.reshape(1, -1, WIDTH).expand(b, -1, -1)
        return self.second(self.first(torch.cat([text[:, : self.before], views, text[:, self.before :]], 1)))

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        return {"latents": torch.zeros(1, views, WIDTH, 2 * (scale or 3), 2 * (scale or 3))}


@pytest.mark.parametrize(
    ("before", "after", "registers", "kind"),
    [(5, 0, 0, "joint"), (0, 4, 0, "joint"), (3, 2, 0, "joint"), (0, 0, 2, "3d"), (3, 1, 2, "joint")],
)
def test_tokens_outside_the_grids_are_located(before: int, after: int, registers: int, kind: str):
    for layer in find_layers(Extras(before, after, registers)):
        assert (layer.kind, layer.grid) == (kind, (6, 6))
        assert (layer.prefix, layer.suffix, layer.per_view_prefix) == (before, after, registers)
        assert layer.layout(4).tokens == before + after + 4 * (registers + 36)


def test_registers_are_located_where_no_image_has_reached_them_yet():
    layers = find_layers(Extras(0, 0, 2, per_view_first=True))
    assert [(x.kind, x.per_view_prefix, x.grid) for x in layers] == [
        ("view", 2, (6, 6)),
        ("3d", 2, (6, 6)),
        ("3d", 2, (6, 6)),
    ]


def test_tokens_outside_the_grids_are_counted_without_weights():
    """Where they lie only weights show; what a run costs does not depend on it."""
    with torch.device("meta"):
        model = Extras(0, 5, 0)
    layer = find_layers(model)[0]
    assert (layer.kind, layer.grid, layer.prefix, layer.layout(3).tokens) == ("joint", (6, 6), 5, 5 + 3 * 36)


class Packed(nn.Module):
    """Tokens [b f n c] that do not show their grid."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attend()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attn(rearrange(tokens, "b f n c -> b (f n) c"))


def packed(rows: int, columns: int) -> Callable[[int, int], dict[str, Tensor]]:
    return lambda views, scale: {"tokens": torch.zeros(1, views, rows * columns * scale**2, WIDTH)}


def test_grid_without_an_image_like_input():
    model = Packed()
    assert find_layers(model, packed(3, 3))[0].grid == (3, 3)
    assert find_layers(model, packed(2, 4), aspect=(1, 2))[0].grid == (2, 4)
    with pytest.raises(
        ValueError, match=r"'attn' has 8 tokens per view, no square grid; pass aspect=\(rows, columns\)"
    ):
        find_layers(model, packed(2, 4))
    with pytest.raises(ValueError, match="has 20 tokens per view, no square grid"):
        find_layers(model, packed(4, 5))
    with pytest.raises(ValueError, match="has 7 tokens per view, no grid of 1 : 2"):
        find_layers(model, packed(1, 7), aspect=(1, 2))


class Strided(nn.Module):
    """A strided convolution that rounds odd sizes up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attn = nn.Conv2d(WIDTH, WIDTH, 3, 2, 1), Attend()

    def forward(self, latents: Tensor) -> Tensor:
        x = self.conv(rearrange(latents, "b f c h w -> (b f) c h w"))
        return self.attn(rearrange(x, "(b f) c h w -> b (f h w) c", b=latents.shape[0]))

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        rows, columns = (9, 16) if scale is None else (2 * scale, 2 * scale)
        return {"latents": torch.zeros(1, views, WIDTH, rows, columns)}


def test_native_grid_may_be_rounded():
    assert find_layers(Strided())[0].grid == (5, 8)


def test_inputs_of_different_aspect_are_refused():
    toy = Toy()
    both = Toy.probe_inputs

    def make(views: int, scale: int) -> dict[str, Tensor]:
        return both(toy, views, scale) | {"rays": torch.zeros(1, views, scale, scale)}

    toy.forward = lambda latents, text, rays: Toy.forward(toy, latents, text)
    with pytest.raises(ValueError, match=r"inputs differ in their ratio .*'rays': \(1, 1\).*pass aspect"):
        find_layers(toy, make)


def test_unprobeable_models_are_refused():
    with pytest.raises(ValueError, match=r"Packed has no method probe_inputs\(views, scale\); pass make_inputs"):
        find_layers(Packed())
    with pytest.raises(ValueError, match="calls change with the input's size"):
        find_layers(Growing(), packed(2, 2))
    with pytest.raises(ValueError, match=r"'attn' has 8 tokens, 12 with 3 views, 33 on a grid .* or pass layout="):
        find_layers(Padded(), packed(2, 2))
    with pytest.raises(ValueError, match=r"views=\(1, 2, 3\).*expected one or two"):
        find_layers(Toy(), views=(1, 2, 3))
    with pytest.raises(ValueError, match=r"views=\(3, 2\).*the second larger"):
        find_layers(Toy(), views=(3, 2))
    with pytest.raises(RuntimeError, match="'' ran but its kernel bypasses"):
        find_layers(nn.Identity(), lambda views, scale: {"input": torch.zeros(1)})


class Blocks(Packed):
    """Tokens padded to whole blocks, as flex attention wants them."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = rearrange(tokens, "b f n c -> b (f n) c")
        return self.attn(torch.cat([x, x.new_zeros(1, -x.shape[1] % 16, WIDTH)], 1))


def test_padded_sequences_are_refused_with_a_reason():
    with pytest.raises(ValueError, match=r"'attn' has 1 x 16 tokens, 1 x 16 with 3 views, .* do not grow as views and"):
        find_layers(Blocks(), packed(2, 2))


class Growing(Packed):
    """One call per view."""

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.stack([self.attn(view) for view in tokens.unbind(1)], 1)


class Padded(Packed):
    """One token more at one size only."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = rearrange(tokens, "b f n c -> b (f n) c")
        return self.attn(torch.cat([x, x[:, :1]], 1) if x.shape[1] == 32 else x)


class Explicit(Attend):
    """Attention that PyTorch's fused kernel does not see."""

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(-1) @ v


class Linear(Attend):
    """Attention without softmax."""

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q @ (k.mT @ v)


@pytest.mark.parametrize(
    ("attention", "reason"),
    [(Explicit, "explicit softmax of shape"), (Linear, "no attention function that a tap sees")],
)
def test_attention_that_is_not_seen_is_listed_and_keeps_its_index(attention: type[Attend], reason: str):
    toy = Toy(("3d", "3d", "cross", "3d"))
    toy.blocks[1].attn = attention()
    with pytest.warns(UserWarning, match=rf"\['blocks.1.attn'\] are attention that no tap sees: {reason}"):
        layers = find_layers(toy)
    assert [(x.index, x.name) for x in layers if x.kind == "3d"] == [(0, "blocks.0.attn"), (2, "blocks.3.attn")]
    (unseen,) = [x for x in layers if x.kind == "unseen"]
    assert (unseen.index, unseen.name, unseen.index_3d) == (1, "blocks.1.attn", None)
    assert reason in unseen.reason
    assert [x.index for x in select_layers(layers, "all")] == [0, 2]
    with pytest.raises(ValueError, match=rf"layer 1 \(blocks.1.attn\) is of kind 'unseen': {reason}"):
        select_layers(layers, "0,1")


def test_unseen_cross_attention_has_no_index():
    toy = Toy(("3d", "cross", "3d"))
    toy.blocks[1].attn = Linear()
    with pytest.warns(UserWarning, match="no tap sees"):
        layers = find_layers(toy)
    assert [(x.index, x.kind) for x in layers] == [(None, "other"), (0, "3d"), (None, "unseen"), (1, "3d")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit is on its way out
def test_scripted_attention_is_not_seen():
    toy = Toy(("3d", "3d"))
    toy.blocks[1].attn = torch.jit.trace(toy.blocks[1].attn, torch.randn(1, 12, WIDTH))
    with pytest.warns(UserWarning, match=r"\['blocks.1.attn'\] .*: scripted by torch.jit"):
        layers = find_layers(toy)
    assert [x.kind for x in layers] == ["other", "3d", "unseen"]


# The order of tokens


class Ordered(nn.Module):
    """A transformer whose tokens lie in any order: as a pattern of the latents' axes, text behind them."""

    def __init__(self, pattern: str, text: int = 3, **sizes: int) -> None:
        super().__init__()
        self.pattern, self.text, self.sizes = pattern, text, sizes
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(Attend() for _ in range(3))

    def forward(self, latents: Tensor) -> Tensor:
        x = rearrange(latents.movedim(2, -1), self.pattern, **self.sizes)
        x = torch.cat([x, torch.ones(len(x), self.text, WIDTH)], 1)
        for block in self.blocks:
            x = block(x).tanh()
        return x


def four_by_six(views: int, scale: int) -> dict[str, Tensor]:
    return {"latents": torch.randn(1, views, WIDTH, 4 * scale, 6 * scale)}


@pytest.mark.parametrize("order", ["f h w", "f w h", "h f w", "h w f", "w f h", "w h f"])
def test_the_order_of_tokens_is_seen(order: str):
    layers = find_layers(Ordered(f"b f h w c -> b ({order}) c"), four_by_six)
    assert {(x.kind, x.grid, x.prefix, x.suffix, x.order) for x in layers} == {("joint", (4, 6), 0, 3, order)}


@pytest.mark.parametrize("block", [(2, 2), (4, 2)])
def test_blocks_are_seen(block: tuple[int, int]):
    model = Ordered("b f (h y) (w x) c -> b (f h w y x) c", y=block[0], x=block[1])
    layers = find_layers(model, four_by_six)
    assert {(x.order, x.block, x.grid) for x in layers} == {("f h w y x", block, (4, 6))}


@pytest.mark.parametrize("block", [(2, 2), (4, 4), (8, 8), (8, 2)])
def test_blocks_that_divide_half_of_the_grid_are_told_apart(block: tuple[int, int]):
    """A corner that ends where blocks end would fit several of them alike: Kandinsky's blocks of 8 x 8 were (8, 2)."""
    model = Ordered("b f (h y) (w x) c -> b (f h w y x) c", y=block[0], x=block[1])
    layers = find_layers(model, lambda views, scale: {"latents": torch.randn(1, views, WIDTH, 8 * scale, 16 * scale)})
    assert {(x.order, x.block, x.grid) for x in layers} == {("f h w y x", block, (8, 16))}


def test_orders_that_a_grid_cannot_tell_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("probe.layers.finding.corner_of", lambda grids: (1 / 2, 3 / 4))
    model = Ordered("b f (h y) (w x) c -> b (f h w y x) c", y=8, x=8)
    with pytest.raises(ValueError, match=r"'blocks.0' has its tokens in one of several orders that its grid"):
        find_layers(model, lambda views, scale: {"latents": torch.randn(1, views, WIDTH, 8 * scale, 16 * scale)})


def shown(tokens: int, *, usual: float, turned: float) -> Placed:
    """A layer whose views lie one after the other, and whose rows and columns fit two orders so well."""
    fits = {("f h w", (1, 1), (1, 1)): Fit(0.99, usual), ("f w h", (1, 1), (1, 1)): Fit(0.99, turned)}
    return Placed(layer=Layer(0, "a", (8, 8), 1, "3d"), scores=fits, tokens=tokens)


def test_layers_of_few_tokens_speak_for_no_other_and_few_layers_for_none():
    chance, clear = shown(4, usual=0.1, turned=0.8), shown(64, usual=0.1, turned=0.9)
    blurred = shown(64, usual=0.1, turned=0.1)
    assert [layer.order for layer in agreed([chance, blurred])] == ["f h w", "f h w"]
    assert [layer.order for layer in agreed([clear, blurred])] == ["f w h", "f w h"]
    odd, *others = agreed([clear, blurred, blurred])
    assert odd.kind == "other"
    assert "few other layers show" in odd.reason
    assert [layer.order for layer in others] == ["f h w", "f h w"]


@pytest.mark.parametrize("seed", [2, 7, 11])
def test_a_small_grid_behind_convolutions_speaks_for_no_other_layer(seed: int):
    """Its four tokens a view may show any order by chance: with seed 2 those of the middle block do."""
    layers = model_layers(fresh_tiny(seed))
    assert {layer.order for layer in layers} == {"f h w"}


def test_axes_of_the_same_size_are_not_guessed():
    with pytest.raises(ValueError, match=r"axes \[1, 2\] of 'latents' are of size 8: which one holds the views cannot"):
        find_layers(Toy(), views=(8,))


def test_tiles_of_one_image_are_seen():
    layers = find_layers(Ordered("b (r l) h w c -> b (r h l w) c", text=0, r=2), four_by_six, views=(4,))
    assert {(x.order, x.tiles, x.kind, x.grid) for x in layers} == {("r h c w", (2, 2), "3d", (4, 6))}


def test_an_order_that_is_unknown_is_refused():
    class Odd(Ordered):
        def forward(self, latents: Tensor) -> Tensor:
            n = math.prod(latents.shape[1:2] + latents.shape[3:])
            place = torch.randperm(n, generator=torch.Generator().manual_seed(1))
            x = rearrange(latents.movedim(2, -1), "b f h w c -> b (f h w) c")[:, place]
            for block in self.blocks:
                x = block(x)
            return x

    with pytest.raises(ValueError, match=r"'blocks.0' has its tokens in no order that is known here .* pass layout="):
        find_layers(Odd(""), four_by_six)


def test_a_layout_that_is_said_is_taken():
    model, layout = Packed(), ViewLayout(2, (2, 8), order="h w f")
    (layer,) = find_layers(model, packed(2, 8), layout=layout)
    assert (layer.kind, layer.layout(2), layer.index) == ("3d", layout, 0)
    (layer,) = find_layers(model, packed(2, 8), layout={"attn": layout})
    assert layer.layout(3) == replace(layout, views=3)
    with pytest.raises(ValueError, match="'attn' has 32 tokens, layout= says 18"):
        find_layers(model, packed(2, 8), layout={"attn": ViewLayout(2, (3, 3))})
    with pytest.raises(ValueError, match=r"layout= has 3 views, expected 2 as in views=, or 1"):
        find_layers(model, packed(2, 8), layout=ViewLayout(3, (2, 8)))
    with pytest.raises(ValueError, match="has 16 tokens per view, which may be 4 x 4, 2 x 8 or another grid"):
        find_layers(model, packed(2, 8))


def test_one_layer_on_no_grid_blocks_no_other():
    toy = Toy(("3d", "3d", "3d"))
    inner = toy.blocks[1].forward
    toy.blocks[1].forward = lambda x, text: (
        inner(torch.cat([x, x[:, :1]], 1), text)[:, :-1] if x.shape[2] == 24 else inner(x, text)
    )
    with pytest.warns(
        UserWarning, match=r"\['blocks.1.attn'\] fit no grid.*: has 12 tokens, 18 with 3 views, 72 on a grid"
    ):
        layers = find_layers(toy)
    assert [(x.index, x.kind) for x in layers] == [(None, "other"), (0, "3d"), (1, "other"), (2, "3d")]
    with pytest.raises(ValueError, match=r"layer 1 \(blocks.1.attn\) is of kind 'other': has 12 tokens, 18"):
        select_layers(layers, "1")


def test_text_behind_each_view():
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attend()

        def forward(self, latents: Tensor) -> Tensor:
            x = rearrange(latents, "b f c h w -> (b f) (h w) c")
            return self.attn(torch.cat([x, torch.ones(len(x), 5, WIDTH)], 1))

    (layer,) = find_layers(Behind(), four_by_six)
    assert (layer.kind, layer.grid, layer.per_view_prefix, layer.per_view_suffix) == ("view", (4, 6), 0, 5)
    assert joint_layout(layer, 3) == ViewLayout(3, (4, 6), per_view_suffix=5)


class OfViews(nn.Module):
    """Takes a list of views, as Z-Image does."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attend()

    def forward(self, x: list[Tensor]) -> Tensor:
        tokens = torch.cat([rearrange(view, "c h w -> 1 (h w) c") for view in x], 1)
        return self.attn(torch.cat([torch.ones(1, 3, WIDTH), tokens], 1))


def test_views_may_come_as_a_list():
    def make(views: int, scale: int) -> dict[str, list[Tensor]]:
        return {"x": [torch.randn(WIDTH, 4 * scale, 6 * scale) for _ in range(views)]}

    (layer,) = find_layers(OfViews(), make)
    assert (layer.kind, layer.grid, layer.prefix, layer.order) == ("joint", (4, 6), 3, "f h w")


class Deaf(OfViews):
    """Attends to tokens of its own."""

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return self.attn(torch.ones_like(rearrange(x["latents"], "b f c h w -> b (f h w) c")))


def test_a_layer_that_follows_no_input_is_refused():
    with pytest.raises(ValueError, match=r"'attn' follows no change of the inputs that grow.* or pass layout="):
        find_layers(Deaf(), lambda views, scale: {"x": four_by_six(views, scale)}, aspect=(2, 3))


def test_keys_of_more_than_the_views_are_in_no_layout():
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attend()
            self.attn.kernel = lambda q, k, v: F.scaled_dot_product_attention(
                q, torch.cat([k, k[..., :5, :]], -2), torch.cat([v, v[..., :5, :]], -2)
            )

        def forward(self, latents: Tensor) -> Tensor:
            return self.attn(rearrange(latents, "b f c h w -> b (f h w) c"))

    with pytest.raises(ValueError, match=r"has 48 queries and 53 keys, which both grow .*AttentionTap; check make"):
        find_layers(Reading(), four_by_six)


@pytest.mark.parametrize("views", [(1, 2), (2, 5), (4, 6)])
def test_other_numbers_of_views_tell_the_same(views: tuple[int, int]):
    kinds = ("view", "3d", "cross", "temporal", "3d")
    assert table(find_layers(Toy(kinds), views=views))[1:] == table(find_layers(Toy(kinds)))[1:]
    assert [(x.prefix, x.suffix, x.grid) for x in find_layers(Extras(3, 1, 2), views=views)] == [(3, 1, (6, 6))] * 2


# Models of one size


@pytest.mark.parametrize(("views", "scales"), [((4,), (1, 2)), ((2, 3), (1,)), ((4,), (1,))])
def test_models_of_one_number_of_views_or_one_size(views: tuple[int, ...], scales: tuple[int, ...]):
    layers = find_layers(Toy(("view", "3d", "cross", "temporal", "3d")), views=views, scales=scales)
    assert table(layers) == [
        (None, None, "pooler", "cross", None),
        (0, None, "blocks.0.attn", "view", (8, 12)),
        (1, 0, "blocks.1.attn", "3d", (8, 12)),
        (None, None, "blocks.2.attn", "cross", None),
        (2, None, "blocks.3.attn", "temporal", None),
        (3, 1, "blocks.4.attn", "3d", (8, 12)),
    ]


@pytest.mark.parametrize(
    ("before", "after", "registers", "kind"),
    [(5, 0, 0, "joint"), (0, 4, 0, "joint"), (0, 0, 2, "3d"), (3, 1, 2, "joint")],
)
def test_other_tokens_of_models_of_one_size(before: int, after: int, registers: int, kind: str):
    for layer in find_layers(Extras(before, after, registers), views=(4,), scales=(1,)):
        assert (layer.kind, layer.grid) == (kind, (6, 6))
        assert (layer.prefix, layer.suffix, layer.per_view_prefix) == (before, after, registers)


def test_a_model_of_one_size_needs_weights():
    with torch.device("meta"):
        toy = Toy()
    with pytest.raises(ValueError, match="needs weights, not the meta device"):
        find_layers(toy, views=(4,))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), *[st.integers(0, 2)] * 3)
def test_layout_law(f: int, h: int, w: int, prefix: int, suffix: int, own: int):
    layout = ViewLayout(f, (h, w), prefix, suffix, own)
    joint = [(-1, -1, -1)] * prefix
    for view in range(f):
        joint += [(-1, -1, -1)] * own + [(view, row, column) for row in range(h) for column in range(w)]
    joint += [(-1, -1, -1)] * suffix
    split = layout.split(torch.tensor(joint)[None])[0]
    expected = torch.stack(torch.meshgrid(torch.arange(f), torch.arange(h), torch.arange(w), indexing="ij"), -1)
    assert torch.equal(split, expected)


def test_layout_refuses_other_lengths():
    with pytest.raises(ValueError, match=r"25 tokens are not 2 views of 3 x 4 and 0 others \(\+1 left over\)"):
        ViewLayout(2, (3, 4)).split(torch.zeros(25, 1))
    with pytest.raises(ValueError, match="of kind 'view' and joins no views; choose a 3D layer"):
        find_layers(Toy())[1].layout(2)
    for order in ("f h", "f h w w", "f h w z", "r h w"):
        with pytest.raises(ValueError, match="names none of the axes f h w, r c h w or f h w y x"):
            ViewLayout(2, (3, 4), order=order)
    with pytest.raises(ValueError, match="tokens beside each view need the views outermost"):
        ViewLayout(2, (3, 4), order="h w f", per_view_suffix=1)
    with pytest.raises(ValueError, match=r"\(2, 2\) tiles are not 3 views"):
        ViewLayout(3, (3, 4), order="r h c w", tiles=(2, 2))
    with pytest.raises(ValueError, match=r"a grid of \(3, 4\) has no whole blocks of \(2, 2\)"):
        ViewLayout(2, (3, 4), order="f h w y x", block=(2, 2))


@pytest.mark.parametrize(
    "layout",
    [
        ViewLayout(3, (2, 4), 2, 1, 1, 2),
        ViewLayout(3, (2, 4), 1, 2, order="h w f"),
        ViewLayout(4, (2, 4), order="r h c w", tiles=(2, 2)),
    ],
)
def test_owners_are_the_views_of_the_tokens(layout: ViewLayout):
    owners = layout.owners()
    assert (owners == -1).sum() == layout.prefix + layout.suffix
    split = layout.split(owners[:, None])[..., 0]
    assert torch.equal(split, torch.arange(layout.views)[:, None, None].expand_as(split))
    assert owners[owners >= 0].bincount().tolist() == [layout.per_view] * layout.views


def test_select_layers_known():
    layers = find_layers(Toy())
    names = [x.name for x in layers]
    assert [x.index for x in select_layers(layers, "3d")] == [1, 2]
    assert [x.index for x in select_layers(layers, "all")] == [0, 1, 2]
    assert [x.index for x in select_layers(layers, "2, 0")] == [0, 2]
    assert [x.index for x in select_layers(layers, f"{names[4]},1")] == [1, 2]
    assert [x.index for x in select_layers(layers, "blocks.3")] == [2]


def test_select_layers_refusals():
    layers = find_layers(Toy())
    with pytest.raises(
        ValueError, match=r"layer '7' is unknown.*allowed: 3d, all, or indexes 0 to 2, of which 3D: \[1, 2\]"
    ):
        select_layers(layers, "7")
    with pytest.raises(ValueError, match=r"layer 'blocks.1.atn' is unknown; nearest: 'blocks.1.attn'"):
        select_layers(layers, "blocks.1.atn")
    with pytest.raises(ValueError, match=r"'blocks' means 3 layers"):
        select_layers(layers, "blocks")
    with pytest.raises(ValueError, match=r"layer 'blocks.2.attn' is unknown"):  # cross-attention has no number
        select_layers(layers, "blocks.2.attn")
    with pytest.raises(ValueError, match=r"no 3d layer; its calls are 0 to 0, of which 3D: \[\]"):
        select_layers(find_layers(Toy(("view",))), "3d")
    with pytest.raises(ValueError, match="no all layer; its calls are 1, none of them self-attention"):
        select_layers([replace(layers[0])], "all")


# diffusers


def test_cat3d_of_full_size_has_sixteen_layers_of_which_eleven_are_3d():
    from probe.models.cat3d import SD21, load_unet

    with torch.device("meta"):
        layers = find_layers(load_unet(None, SD21))
    assert [x.index for x in layers] == list(range(16))
    assert [x.index for x in layers if x.kind == "3d"] == list(range(2, 13))
    assert layers[10].name == "up_blocks.2.attentions.0.transformer_blocks.0.attn1"
    assert [(layers[i].grid, layers[i].heads) for i in (0, 4, 6, 10)] == [
        ((64, 64), 5),
        ((16, 16), 20),
        ((8, 8), 20),
        ((32, 32), 10),
    ]
    assert (layers[10].channels, layers[10].index_3d) == (64, 8)


def test_hunyuan_dit_numbers_no_pooler_and_no_text():
    from diffusers import HunyuanDiT2DModel
    from diffusers.models.embeddings import get_2d_rotary_pos_embed

    model = HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=8, hidden_size=16,
        num_layers=4, mlp_ratio=2.0, cross_attention_dim=8, cross_attention_dim_t5=8, pooled_projection_dim=8,
        text_len=3, text_len_t5=2,
    )  # fmt: skip

    def make(views: int, scale: int) -> dict[str, Any]:
        side = 4 * scale  # the model has no views of its own: they are given to it as one tall image
        grid = (views * side // 2, side // 2)
        return {
            "hidden_states": torch.randn(1, 4, views * side, side),
            "timestep": torch.tensor([5.0]),
            "encoder_hidden_states": torch.randn(1, 3, 8),
            "text_embedding_mask": torch.ones(1, 3, dtype=torch.long),
            "encoder_hidden_states_t5": torch.randn(1, 2, 8),
            "text_embedding_mask_t5": torch.ones(1, 2, dtype=torch.long),
            "image_meta_size": torch.ones(1, 6),
            "style": torch.zeros(1, dtype=torch.long),
            "image_rotary_emb": get_2d_rotary_pos_embed(8, ((0, 0), grid), grid, output_type="pt"),
        }

    layers = find_layers(model, make, aspect=(1, 1))
    assert [(x.index, x.kind, x.name) for x in layers[:3]] == [
        (None, "other", "time_extra_emb.pooler"),
        (0, "3d", "blocks.0.attn1"),
        (None, "cross", "blocks.0.attn2"),
    ]
    assert [x.index for x in layers if x.kind == "3d"] == [0, 1, 2, 3]
    assert {x.grid for x in layers if x.kind == "3d"} == {(2, 2)}


def test_cogvideox_has_text_before_the_frames():
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=8,
        num_layers=2, sample_width=8, sample_height=8, sample_frames=9, patch_size=2, temporal_compression_ratio=4,
        max_text_seq_length=6,
    )  # fmt: skip

    def make(views: int, scale: int) -> dict[str, Tensor]:
        return {
            "hidden_states": torch.randn(1, views, 4, 4 * scale, 8 * scale),
            "encoder_hidden_states": torch.randn(1, 6, 8),
            "timestep": torch.tensor([5]),
        }

    layers = find_layers(model, make)
    assert table(layers) == [(i, i, f"transformer_blocks.{i}.attn1", "joint", (2, 4)) for i in range(2)]
    assert [(x.prefix, x.suffix) for x in layers] == [(6, 0)] * 2


def test_wan_goes_through_diffusers_dispatch():
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8,
        freq_dim=8, ffn_dim=16, num_layers=11,
    )  # fmt: skip

    def make(views: int, scale: int) -> dict[str, Tensor]:
        return {
            "hidden_states": torch.randn(1, 4, views, 4 * scale, 8 * scale),
            "timestep": torch.tensor([5]),
            "encoder_hidden_states": torch.randn(1, 3, 8),
        }

    layers = [x for x in find_layers(model, make) if x.index is not None]
    assert table(layers) == [(i, i, f"blocks.{i}.attn1", "3d", (2, 4)) for i in range(11)]


def test_layouts_of_layers():
    assert joint_layout(Layer(2, "a", (2, 3), 1, "joint", prefix=4), 3) == ViewLayout(3, (2, 3), 4)
    assert joint_layout(Layer(0, "a", (2, 3), 1, "view"), 3) == ViewLayout(3, (2, 3))
    with pytest.raises(ValueError, match="joins no views"):
        joint_layout(Layer(None, "a", None, 1, "cross"), 3)


class Shuffled(Toy):
    """Views stand in another order once there are three."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__(("3d", "3d"))
        self.order = order

    def forward(self, latents: Tensor, text: Tensor) -> Tensor:
        if latents.shape[1] == len(self.order):
            latents = latents[:, self.order]
        return super().forward(latents, text)


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_views_that_change_places_from_the_third_on_are_refused(order: tuple[int, ...]):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"in no order that is known here.*pass layout="):
        find_layers(Shuffled(order))


class Windows(Toy):
    """Attention in windows of one row and three columns, over all views."""

    def forward(self, latents: Tensor, text: Tensor) -> Tensor:
        w = latents.shape[-1] // 3
        x = rearrange(latents, "b f c h (w three) -> (b h w) f three c", three=3)
        x = self.blocks[0].attn(rearrange(x, "b f three c -> b (f three) c"))
        x = rearrange(x, "(b h w) (f three) c -> b f c h (w three)", b=len(latents), w=w, three=3)
        return super().forward(x, text)


def test_local_windows_over_views_are_not_called_temporal():
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="it joins local windows of the views, which are in no layout"):
        layers = find_layers(Windows(("3d", "3d")))
    assert [(layer.kind, layer.nth) for layer in layers] == [("other", 0), ("other", 0), ("3d", 1), ("3d", 0)]


class SomeViews(Toy):
    """Takes a second input of all views but the first, as one that follows a reference does."""

    def forward(self, latents: Tensor, text: Tensor, poses: Tensor) -> Tensor:
        return super().forward(torch.cat([latents[:, :1], latents[:, 1:] + poses], 1), text)

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        inputs = super().probe_inputs(views, scale)
        return {**inputs, "poses": torch.randn_like(inputs["latents"][:, 1:])}


def test_an_input_of_some_views_only():
    torch.manual_seed(0)
    assert find_layers(SomeViews()) == find_layers(Toy())

"""Networks of diffusers, built small: the most telling of the table in docs/networks.md."""

from pathlib import Path

import diffusers
import pandas as pd
import pytest
from torch import Tensor

from benchmarks.networks.entry import build
from benchmarks.networks.measuring import ENTRIES, layers_of, look, scores
from probe.layers import Layer, find_layers

TABLE = Path(__file__).parents[2] / "reports" / "reference" / "networks" / "networks.csv"


def layers(name: str) -> list[Layer]:
    return layers_of(ENTRIES[name], build(ENTRIES[name]))


def test_hunyuan_video_is_scored_with_padded_text():
    row = look("hunyuanvideo (padded text)")
    assert (row["found"], row["grid"], row["beside"]) == ("1 other, 2 joint", "4x6", "0 8 0 0")
    assert (row["scored"], row["said"]) == ("2 of 2, 2 masked", "")


def test_padding_takes_no_part_in_scores():
    """Text is half as long as the longest: what is behind its end changes nothing, what is before does."""
    entry = ENTRIES["hunyuanvideo (padded text)"]
    network = build(entry)
    (layer, *_) = [x for x in layers_of(entry, network) if x.kind == "joint"]

    def mass_of(at: slice) -> float:
        def inputs(views: int, scale: int) -> dict[str, Tensor]:
            made = dict(entry.inputs(views, scale))
            text = made["encoder_hidden_states"].clone()
            text[:, at] += 5
            return {**made, "encoder_hidden_states": text}

        table, _ = scores(type(entry)(**{**vars(entry), "inputs": inputs}), network, layer)
        return float(table[table["metric"] == "mass_key_view"]["value"].mean())

    usual = mass_of(slice(0, 0))
    assert mass_of(slice(4, 8)) == usual
    assert mass_of(slice(0, 4)) != usual


def test_sd3_has_text_behind_each_view():
    found = layers("sd3")
    assert [(x.kind, x.grid, x.per_view_prefix, x.per_view_suffix) for x in found] == [("view", (4, 6), 0, 8)] * 3
    assert look("sd3")["scored"] == "3 of 3"


def test_latte_has_sixteen_frames():
    assert [(x.index, x.kind, x.grid) for x in layers("latte")] == [
        (0, "view", (4, 6)),
        (None, "cross", None),
        (1, "temporal", None),
    ]


def test_sana_is_listed_as_unseen():
    with pytest.warns(UserWarning, match=r"\['transformer_blocks.0.attn1'\] are attention that no tap sees"):
        found = layers("sana")
    assert [(x.index, x.name, x.kind) for x in found] == [
        (0, "transformer_blocks.0.attn1", "unseen"),
        (None, "transformer_blocks.0.attn2", "cross"),
    ]


def test_ltx_tells_its_grid_by_whole_numbers():
    entry = ENTRIES["ltx"]
    network = build(entry)

    def wide(views: int, scale: int) -> dict[str, object]:
        made = dict(entry.inputs(views, scale))
        tokens = made["hidden_states"][:, : views * 16 * scale**2]
        return {**made, "hidden_states": tokens, "height": 2 * scale, "width": 8 * scale}

    assert [x.grid for x in find_layers(network, wide) if x.kind == "3d"] == [(2, 8)]
    network.forward = lambda sides, **inputs: type(network).forward(network, **inputs, **sides)

    def untold(views: int, scale: int) -> dict[str, object]:
        made = wide(views, scale)
        return {"sides": {name: made.pop(name) for name in ("num_frames", "height", "width")}, **made}

    with pytest.raises(ValueError, match=r"has 16 tokens per view, which may be 4 x 4, 2 x 8 .*pass aspect="):
        find_layers(network, untold)


def test_kandinsky_has_its_tokens_in_blocks():
    (first, second) = [x for x in layers("kandinsky5 (fractal order)") if x.kind == "3d"]
    assert (first.order, first.block, first.grid) == ("f h w y x", (8, 8), (8, 16))
    assert second.block == (8, 8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of diffusers and torch, as of CPU autocast
@pytest.mark.parametrize("name", ENTRIES)
def test_the_table_is_what_is_found(name: str):
    kept = pd.read_csv(TABLE, dtype=str, keep_default_na=False).set_index("entry")
    if diffusers.__version__ != kept["diffusers"].iloc[0]:
        pytest.skip("the table was made with another version of diffusers")
    assert {key: str(value) for key, value in look(name).items() if key != "entry"} == kept.loc[name].to_dict()


def test_none_is_silent():
    """Each is scored, or says why not; what it holds is what its source says."""
    kept = pd.read_csv(TABLE, dtype=str, keep_default_na=False).set_index("entry")
    assert list(kept.index) == list(ENTRIES)
    for name, row in kept.iterrows():
        good, _, asked = row["scored"].partition(",")[0].partition(" of ")
        assert row["said"] or (good == asked and int(good) > 0), name
        assert {word.split()[1] for word in row["found"].split(", ") if word} >= set(row["expects"].split()), name

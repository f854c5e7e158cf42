"""What the terminal shows at the end of a run."""

import pandas as pd
import pytest
from rich.console import Console
from test_selection import table_of, times
from test_ties import EQUAL, effects

from probe.selection import layer_table, select_layer
from probe.selection.terminal import show

LAYERS = {10: ("16x16", times(1)), 12: ("16x16", times(0.5))}


def shown(scores: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> str:
    names = {layer: f"up_blocks.2.attentions.{layer}.transformer_blocks.0.attn1" for layer in LAYERS}
    scores = scores.assign(layer_name=scores["layer"].map(names).fillna(""))
    selection = select_layer(scores)
    show(Console(width=120), layer_table(scores, selection), selection, pd.DataFrame(index=range(8)), scores)
    return capsys.readouterr().out


def test_every_cell_fits_in_120_columns(capsys: pytest.CaptureFixture[str]):
    found = shown(
        pd.concat([table_of(LAYERS), effects({10: [*EQUAL[:5], -0.075], 12: [1.2, 1.1, 0.9, 1.0, 1.0]})]), capsys
    )
    assert "…" not in found
    assert "8 pairs of 5 scenes" in found
    chosen = next(line for line in found.splitlines() if "10*" in line)
    assert "up_blocks.2.attentions.10 " in chosen
    assert "+7.2%" in chosen
    assert "+104.0%" in found
    assert "causal effect: growth of the denoised prediction's error under identity (t = 500; 6 scenes)" in found
    assert "Breaking layer 10 (identity) changes the error" in found


def test_without_effects_there_is_no_such_column(capsys: pytest.CaptureFixture[str]):
    found = shown(table_of(LAYERS), capsys)
    assert "effect\n" not in found
    assert "95 %, in %" not in found
    assert "no causal effect was measured" in found


def test_a_layer_whose_effect_is_unknown_has_a_dash(capsys: pytest.CaptureFixture[str]):
    found = shown(pd.concat([table_of(LAYERS), effects({10: [*EQUAL, 0.1]})]), capsys)
    unknown = next(line for line in found.splitlines() if "attentions.12" in line and "*" not in line)
    assert unknown.split()[-2:] == ["-", "-"]


def test_a_share_of_no_ceiling_is_a_dash(capsys: pytest.CaptureFixture[str]):
    scores = table_of(LAYERS)
    scores.loc[scores["model"] == "ceiling", "value"] = 0.0
    rows = [line for line in shown(scores, capsys).splitlines() if line.strip().startswith(("10", "12"))]
    assert [row.split()[-1] for row in rows] == ["-", "-"]


def test_a_layer_that_is_not_above_chance_has_no_star(capsys: pytest.CaptureFixture[str]):
    found = shown(table_of(LAYERS, chance=0.4), capsys)
    assert "10?" in found
    assert "10*" not in found
    assert "No layer was shown to find correspondence" in found


def test_scenes_without_a_true_match_are_named(capsys: pytest.CaptureFixture[str]):
    scores = table_of(LAYERS)
    assert "no true match" not in shown(scores, capsys)
    first = sorted(scores["scene"].astype(str).unique())[0]
    empty = scores["scene"].astype(str) == first
    scores.loc[empty, "count"] = 0
    scores.loc[empty & scores["layer"].isin(LAYERS), "value"] = float("nan")
    assert f"1 of 5 scenes has no true match in tgt-ref: {first}\n" in shown(scores, capsys)

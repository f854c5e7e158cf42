"""Causal effects on the page: its tables, sentences, bars and pictures are those of the score table."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from test_report import Reader

from analysis import report
from analysis.probing.edits import causal
from analysis.probing.tables import read_run
from probe.records import INTERVENTIONS, SCORE_COLUMNS

LEVELS = {2: 0.02, 7: 0.1, 10: 0.4}  # growth of the error, by layer
NAMES = ("identity", "true_match")


def effect_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """Effects of two edits on both target views of every scene, at one timestep, and on sampled views."""
    own = scores[(scores["model"] == "tiny") & (scores["direction"] == "tgt-ref") & (scores["head"] == -1)]
    views = own.drop_duplicates(["layer", "scene", "query_view"])
    rows = []
    for row in views.to_dict("records"):
        off = 0.01 * (int(row["scene"].rpartition("-")[2]) % 3 - 1) + 0.002 * row["query_view"]
        plain = {**row, "key_view": -1, "direction": "tgt", "protocol": INTERVENTIONS, "count": 1, "timestep": 500}
        for name, sign in zip(NAMES, (1, -1), strict=True):
            growth = sign * (LEVELS[row["layer"]] + off)
            rows.append({**plain, "metric": f"effect_error@{name}", "value": growth})
            rows.append({**plain, "metric": f"effect_x0@{name}", "value": abs(growth) / 2})
            rows.append({**plain, "metric": f"effect_psnr@{name}", "value": -10 * growth, "timestep": -1})
            rows.append({**plain, "metric": f"effect_lpips@{name}", "value": np.nan, "count": 0, "timestep": -1})
            rows.append({**plain, "metric": f"effect_error@{name}", "value": growth / 2, "head": 1})
    return pd.DataFrame(rows)[list(SCORE_COLUMNS)]


@pytest.fixture(scope="module")
def folder(make: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("edited") / "run")
    scores = pd.read_parquet(folder / "scores.parquet")
    pd.concat([scores, effect_rows(scores)], ignore_index=True).to_parquet(folder / "scores.parquet")
    layers = pd.read_csv(folder / "layers.csv")
    effect = layers["layer"].map(LEVELS)
    layers.assign(
        causal_effect=effect, causal_low=effect - 0.01, causal_high=effect + 0.01, causal_count=6, cost=1.5e6
    ).to_csv(folder / "layers.csv", index=False)
    selection = json.loads((folder / "selection.json").read_text())
    more = {"rule": "Correspondence first.", "weighing": "Breaking layer 10 hurts.", "effect_rule": "growth"}
    (folder / "selection.json").write_text(json.dumps({**selection, **more}))
    save_file(samples(folder), folder / "edited.safetensors")
    return folder


def samples(folder: Path) -> dict[str, np.ndarray]:
    """Sampled views: the true one is grey, the unedited one off by 0.1, layer n edited off by n / 20."""
    scenes = [name.removeprefix("image/") for name in load_file(folder / "examples.safetensors")]
    images = {}
    for scene in scenes:
        for key, off in {"truth": 0.0, "unedited": 0.1, **{f"identity/{n}": n / 20 for n in LEVELS}}.items():
            images[f"{scene}/{key}"] = np.full((2, 3, 8, 8), round(255 * (0.2 + off)), dtype=np.uint8)
    return images


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return report.build_report(folder).read_text(encoding="utf-8")


def test_effects_are_means_over_scenes_of_means_over_views(folder: Path):
    table = causal.effects(read_run(folder))
    assert list(table.columns) == causal.COLUMNS
    scores = pd.read_parquet(folder / "scores.parquet")
    rows = scores[(scores["metric"] == "effect_error@identity") & (scores["head"] == -1) & (scores["layer"] == 7)]
    here = table[(table["measure"] == "effect_error") & (table["intervention"] == "identity")].set_index("layer")
    assert here.loc[7, "value"] == pytest.approx(rows.groupby("scene")["value"].mean().mean())
    assert here.loc[7, "low"] < here.loc[7, "value"] < here.loc[7, "high"]
    assert here.loc[7, "count"] == len(rows)
    assert here.index.tolist() == [2, 7, 10]
    assert "effect_lpips" not in set(table["measure"])  # nothing was counted
    heads = causal.effects_by_head(read_run(folder))
    assert set(heads["head"]) == {1}
    assert heads["value"].abs().max() < table["value"].abs().max()


def test_the_selected_layer_is_compared_pair_by_pair(folder: Path):
    run = read_run(folder)
    table = causal.beside_selected(run)
    rows = table[(table["measure"] == "effect_error") & (table["intervention"] == "identity")].set_index("layer")
    assert rows.index.tolist() == [2, 7]
    # what differs between scenes is the same for all layers, so that paired differences do not vary at all
    np.testing.assert_allclose(rows[["value", "low", "high"]], [[0.38] * 3, [0.3] * 3], atol=1e-9)
    assert causal.verdict(run, "identity") == "more than every other layer"
    assert causal.verdict(run, "true_match") == "less than every other layer"


def test_equal_effects_are_not_called_separable(folder: Path, tmp_path: Path, make: Callable[[Path], Path]):
    other = make(tmp_path / "run")
    scores = pd.read_parquet(folder / "scores.parquet")
    edited = scores["metric"] == "effect_error@identity"
    same = np.random.default_rng(0).standard_normal(int(edited.sum()))
    scores.loc[edited, "value"] = same
    scores.to_parquet(other / "scores.parquet")
    assert causal.verdict(read_run(other), "identity") == "not separable from any other layer"


def test_the_page_shows_table_bars_and_pictures(page: str, folder: Path):
    reader = Reader(page)
    ids = [attrs["id"] for tag, attrs in reader.tags if tag == "section"]
    assert ids.index("causal") == ids.index("matchers") - 1
    assert {"figure-effects", "figure-sampled"} <= {attrs.get("id") for tag, attrs in reader.tags if tag == "figure"}
    heading, *rows = reader.tables["table-effects"]
    assert heading == ["layer", "identity", "true_match"]
    assert [row[0] for row in rows] == ["2", "7", "10"]
    table = causal.effects(read_run(folder)).set_index(["measure", "intervention", "layer"])
    shown = rows[2][1].split("\n")[0]
    assert shown == f"{100 * table.loc[('effect_error', 'identity', 10), 'value']:+.1f}\u00a0%"
    assert rows[2][2].startswith("−")
    heading, *rows = reader.tables["table-edits"]
    assert heading == [
        "edit", "growth of the prediction's error", "change of the prediction", "PSNR, dB", "layer 10 hurts",
    ]  # fmt: skip
    assert rows[0][0] == "identity"
    assert rows[0][-1] == "more than every other layer"
    assert rows[0][3].startswith("−4.0")
    layers = pd.DataFrame(reader.tables["table-layers"][1:], columns=reader.tables["table-layers"][0])
    assert layers["causal effect"].str.split("\n").str[0].tolist() == ["+2.0\u00a0%", "+10.0\u00a0%", "+40.0\u00a0%"]
    assert layers["cost, millions"].tolist() == ["1.5"] * 3
    assert "Correspondence first." in reader.text
    answer = reader.text[reader.text.index("The answer") : reader.text.index("Layer by layer")]
    assert "Breaking layer 10 hurts." in answer


def test_pictures_are_of_the_selected_layer_and_the_extremes(folder: Path):
    found = causal.pictures(read_run(folder))
    assert len(found) == 2  # one intervention was sampled, in two scenes
    assert [panel.title for panel in found[0].panels] == [
        "true view", "unedited", "layer 10: selected, hurts most", "layer 7: hurts next", "layer 2: hurts least",
    ]  # fmt: skip
    assert [panel.note for panel in found[0].panels] == [
        "", "PSNR 19.8\u00a0dB", "PSNR 6.1\u00a0dB", "PSNR 9.1\u00a0dB", "PSNR 19.8\u00a0dB",
    ]  # fmt: skip
    assert [panel.selected for panel in found[0].panels] == [False, False, True, False, False]


def test_changes_are_written_with_sign_and_interval():
    row = {"value": 0.123, "low": -0.0004, "high": 0.2}
    assert causal.change(row, "effect_error") == "+12.3\u00a0%\n(0.0 to +20.0)"
    assert causal.change(row, "effect_psnr") == "+0.12\n(0.00 to +0.20)"
    assert causal.change({"value": -0.5, "low": np.nan, "high": np.nan}, "effect_ssim") == "−0.500"
    assert causal.change({"value": np.nan, "low": np.nan, "high": np.nan}, "effect_x0") == "–"


@pytest.mark.slow
def test_a_page_without_effects_has_no_such_section(run_folder: Path):
    run = read_run(run_folder)
    assert causal.effects(run).empty
    assert causal.pictures(run) == ()
    assert 'id="causal"' not in report.build_report(run_folder).read_text(encoding="utf-8")


@pytest.mark.slow
def test_equal_data_gives_equal_bytes(folder: Path, page: str):
    assert report.build_report(folder).read_text(encoding="utf-8") == page
    assert "<img" in page
    assert page.count("data:image/png") >= 8

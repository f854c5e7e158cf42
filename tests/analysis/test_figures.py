"""Laws of the figures: deterministic, self-contained, themed; and of the match pictures: wrong is shown as wrong."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from analysis import figures
from analysis.blocks import Table, chart
from analysis.probing import pictures, rotation, tables
from analysis.probing.tables import ProbeRun, read_run
from analysis.probing.words import layer_labels, layer_places


@pytest.fixture(scope="module")
def run(run_folder: Path) -> ProbeRun:
    return read_run(run_folder)


def profile_svg(run: ProbeRun, name: str = "profile") -> str:
    return figures.layer_profile(
        tables.profile(run), model=run.model, selected=run.layer, mark="selected", labels=layer_labels(run),
        rivals=tables.rivals(run), name=name, alt="one < two & three",
    )  # fmt: skip


def rotation_svg(run: ProbeRun) -> str:
    captions = {name: name for name in rotation.bins(run)}
    return figures.rotation_bins(rotation.rotation(run), captions=captions, rivals=tables.rivals(run), alt="rotation")


def emergence_svg(run: ProbeRun) -> str:
    assert run.emergence is not None
    return figures.emergence_curve(run.emergence, highlighted=[10, 2], alt="training")


def attention_svg(run: ProbeRun) -> str:
    titles = {"mass_3x3": "mass", "entropy": "entropy", "cross_entropy": "cross-entropy"}
    labels = layer_labels(run)
    return figures.small_multiples(tables.attention(run), titles=titles, selected=10, labels=labels, alt="attention")


def heat_svg(_: ProbeRun) -> str:
    cells = pd.DataFrame([[0.0, 0.5], [np.nan, 0.9]], index=["<a>", "$b$"], columns=["c", "d"])
    return figures.heat_map(cells, xlabel="x", name="heat", alt="heat")


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize("draw", [profile_svg, rotation_svg, emergence_svg, attention_svg, heat_svg])
def test_a_figure_stands_alone(run: ProbeRun, draw: Callable[[ProbeRun], str]):
    svg = draw(run)
    root = ElementTree.fromstring(svg)  # well formed, and without prefixes that it does not declare
    assert root.tag == "svg"
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert "http" not in svg
    assert "<style" not in svg
    assert not re.search(r'<g id="', svg)


def test_equal_data_gives_equal_text(run: ProbeRun):
    assert profile_svg(run) == profile_svg(run)


def test_identifiers_of_two_figures_do_not_clash(run: ProbeRun):
    first, second = (set(re.findall(r'id="([^"]+)"', profile_svg(run, name))) for name in ("profile", "common"))
    assert first
    assert not first & second


def test_colours_follow_the_page(run: ProbeRun):
    svg = profile_svg(run)
    assert f"var(--blue, {figures.BLUE})" in svg
    assert not re.search(rf"(?<!, ){figures.INK}", svg)


def test_the_profile_names_layers_nulls_and_references(run: ProbeRun):
    words = texts(profile_svg(run))
    assert {"10", "up 2.0", "16x16", "mid", "8x8", "selected", "this model"} <= set(words)
    assert {"random weights", "cameras only", "dsift", "pixels", "ceiling", "chance: uniform"} <= set(words)
    assert words.count("selected") == 1


def test_the_alternative_text_is_escaped(run: ProbeRun):
    assert ElementTree.fromstring(profile_svg(run)).get("aria-label") == "one < two & three"


def test_a_heat_map_leaves_missing_cells_empty(run: ProbeRun):
    words = texts(heat_svg(run))
    assert [word for word in words if word in ("0", "50", "90")] == ["0", "50", "90"]
    assert "<a>" in words
    assert "$b$" in words  # no mathematics in names


def test_a_heat_map_of_small_values_shows_their_digits():
    cells = pd.DataFrame([[0.012, 0.034]], index=["a"], columns=["b", "c"])
    assert {"1.2", "3.4"} <= set(texts(figures.heat_map(cells, xlabel="", name="heat", alt="heat")))


def test_a_coverage_curve_names_layers_and_baselines(ratio_folder: Path):
    run = read_run(ratio_folder)
    svg = figures.coverage_curve(tables.coverage(run), rivals=tables.rivals(run), alt="coverage")
    assert {"layer 10", "dsift", "pixels", "ceiling"} <= set(texts(svg))


# --- match pictures --------------------------------------------------------------------------------------------------


def shifts(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"match_x": [0.5 + v for v in values], "true_x": 0.5, "match_y": 0.5, "true_y": 0.5})


@pytest.mark.parametrize(
    ("metric", "limit"),
    [("precision@5%", 0.05), ("precision@10%", 0.1), ("precision@1token", 1 / 8), ("precision@0.05m", 0.05)],
)
def test_a_match_is_right_strictly_below_the_threshold(metric: str, limit: float):
    rows = shifts(0.0, 0.99 * limit, 1.01 * limit, -1.01 * limit)
    assert pictures.is_right(rows, metric, "8x8", 1.0).tolist() == [True, True, False, False]


def test_the_image_side_is_the_geometric_mean():
    rows = shifts(0.06)
    assert not pictures.is_right(rows, "precision@5%", "8x8", 1.0).item()
    assert pictures.is_right(
        rows, "precision@5%", "8x8", 4.0
    ).item()  # a narrow image: 0.06 of its width is 0.03 of its side


def test_an_unknown_truth_is_not_right():
    assert not pictures.is_right(shifts(np.nan), "precision@5%", "8x8", 1.0).item()


def test_the_best_possible_match_is_the_centre_of_the_true_token():
    rows = pd.DataFrame({"true_x": [0.0, 0.26, 1.0], "true_y": [0.1, 0.5, 0.99], "match_x": 0.0, "match_y": 0.0})
    best = pictures.best_possible(rows, "2x4")
    assert best["match_x"].tolist() == [0.125, 0.375, 0.875]
    assert best["match_y"].tolist() == [0.25, 0.75, 0.75]


def test_corners_have_four_colours():
    assert pictures.colour(0.0, 0.0) == "#ffe25a"
    assert len({pictures.colour(x, y) for x in (0.0, 1.0) for y in (0.0, 1.0)}) == 4


@pytest.mark.parametrize(("side", "left"), [(16, 64), (8, 64), (4, 16), (9, 16)])
def test_at_most_eight_by_eight_tokens_are_drawn(side: int, left: int):
    y, x = (part.ravel() for part in np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2, indexing="ij"))
    assert len(pictures.thinned(pd.DataFrame({"query_x": x, "query_y": y}))) == left


def test_examples_cover_the_bins_before_they_repeat_one(run: ProbeRun):
    examples = pictures.choose_examples(run, count=3)
    every = set(rotation.verdicts(run).query("pairs > 0")["rotation_bin"])
    present = {example.rotation_bin for example in pictures.choose_examples(run, count=99)}
    assert len({example.rotation_bin for example in examples}) == min(3, len(present))
    assert present <= every
    assert all(example.n_ref == 1 and example.query_view > 0 and example.key_view == 0 for example in examples)


def test_without_images_there_are_no_examples(run: ProbeRun):
    assert pictures.choose_examples(replace(run, images={})) == []
    assert pictures.choose_examples(replace(run, matches=None)) == []


def test_panels_count_what_they_draw(run: ProbeRun):
    example = pictures.choose_examples(run, count=1)[0]
    panels = pictures.panels(run, example, layer_places(run))
    assert [panel.title for panel in panels[2:]] == ["layer 2 · down 1.0", "layer 7 · mid", "layer 10 · up 2.0"]
    assert [panel.selected for panel in panels] == [False, False, False, False, True]
    for panel, layer in zip(panels[2:], (2, 7, 10), strict=True):
        rows = example.matches[(example.matches["layer"] == layer) & example.matches["visible"]]
        right = pictures.is_right(rows, run.metric, rows["grid"].iloc[0], 1.0)
        drawn = pictures.thinned(example.matches[example.matches["layer"] == layer]).query("visible").index
        assert panel.note.startswith(f"{right.sum()} of {len(rows)} right")
        assert panel.svg.count('class="dot"') == right[drawn].sum()
        assert panel.svg.count('class="ring"') == panel.svg.count('class="miss"') == (~right[drawn]).sum()


def test_each_image_is_embedded_once(run: ProbeRun):
    examples = pictures.choose_examples(run)
    images = pictures.embedded_images(run, examples)
    used = {match for example in examples for panel in pictures.panels(run, example, layer_places(run))
            for match in re.findall(r'href="#([^"]+)"', panel.svg)}  # fmt: skip
    assert sorted(re.findall(r'<image id="([^"]+)"', images)) == sorted(used)
    assert images.count("data:image/png;base64,") == len(used)
    assert images == pictures.embedded_images(run, examples)


def test_a_figure_and_a_table_show_themselves_in_a_notebook(run: ProbeRun):
    figure = chart("profile", profile_svg(run), "a < b & c", source="from <x>", table=tables.profile(run))
    table = Table(caption="<i>", columns=("a", "b<"), rows=(("1", "&"), ("2", "\n3")))
    shown = figure._repr_html_()
    assert figure.svg in shown
    assert "a &lt; b &amp; c" in shown
    assert "from &lt;x&gt;" in shown
    root = ElementTree.fromstring(table._repr_html_())
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert rows == [["a", "b<"], ["1", "&"], ["2", "\n3"]]
    assert [cell.tag for cell in next(root.iter("tr"))] == ["th", "th"]
    assert root.find("figcaption").text == "<i>"

"""Laws of figures in a paper's column and across two: nothing leaves the canvas, no words meet, no entry is lost."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from arranged import arranged, faults, legends
from matplotlib.figure import Figure
from matplotlib.text import Text
from page_kinds import evaluation_run, study_run, training_run
from papers import make_paper

from analysis import figures
from analysis.blocks import Chart
from analysis.building import _make_page, build_comparison
from analysis.exporting.fit import PANEL, crowded, tick_labels
from analysis.exporting.write import charts_of
from analysis.figures import WIDTH, Drawing, chart

COLUMN, PAGE = 84.0, 174.0
Probe = Callable[..., Path]


def drawing(draw: Callable[[Figure], None], height: int = 300) -> Drawing:
    return chart("toy", "toy", (WIDTH, height), draw)


def check(charts: Iterator[Chart], names: set[str]) -> None:
    """Look at each figure at both widths."""
    drawn = {each.name: each.drawing for each in charts}
    assert names <= set(drawn)
    found = {}
    for name, each in drawn.items():
        for width in (COLUMN, PAGE):
            with arranged(each, width) as figure:
                found[name, width] = faults(figure)
    assert {key: wrong for key, wrong in found.items() if wrong} == {}


# --- by hand ---------------------------------------------------------------------------------------------------------


def draw_panels(figure: Figure) -> None:
    for n, axes in enumerate(figure.subplots(1, 3, sharey=True)):
        axes.plot([0, 1], [0, n], label=f"line {n}")
        axes.set(title=f"panel {n}", xlabel="x", ylabel="y" if n == 0 else "")
    handles = [axes.lines[0] for axes in figure.axes]
    figure.legend(handles, [f"a long name of line {n}" for n in range(3)], loc="outside upper left", ncols=4)


@pytest.mark.parametrize(("width", "columns"), [(COLUMN, 1), (125.0, 2), (PAGE, 3)])
def test_panels_stand_in_as_many_rows_as_they_need(width: float, columns: int):
    with arranged(drawing(draw_panels), width) as figure:
        assert faults(figure) == []
        left = {round(axes.bbox.x0) for axes in figure.axes}
        assert len(left) == columns
        assert figure.bbox.width / columns >= PANEL
        first = [axes for axes in figure.axes if round(axes.bbox.x0) == min(left)]
        assert all(tick_labels(axes.yaxis) for axes in first), "each row has its numbers"


@pytest.mark.parametrize(("width", "below"), [(COLUMN, True), (PAGE, False)])
def test_the_legend_stands_below_where_the_canvas_is_narrow(width: float, below: bool):
    with arranged(drawing(draw_panels), width) as figure:
        legend = legends(figure)[0].get_window_extent()
        assert all((legend.y1 < axes.bbox.y0) == below for axes in figure.axes)
        assert all((legend.y0 > axes.bbox.y1) == (not below) for axes in figure.axes)


def test_an_entry_wider_than_the_canvas_is_wrapped():
    def draw(figure: Figure) -> None:
        figure.subplots().plot([0, 1], [0, 1], label=" ".join(["word"] * 30))
        figure.legend(loc="outside upper left")

    with arranged(drawing(draw), COLUMN) as figure:
        assert faults(figure) == []
        assert legends(figure)[0].get_texts()[0].get_text().count("\n") >= 2


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["a", "b"], ["a", "b"]),
        ([f"{n}\nup_blocks.{n}" for n in range(8)], [str(n) for n in range(8)]),
        ([str(n) for n in range(40)], [str(n) for n in range(0, 40, 3)]),
    ],
)
def test_crowded_names_lose_what_can_be_spared(names: list[str], shown: list[str]):
    def draw(figure: Figure) -> None:
        figure.subplots().set_xticks(range(len(names)), names)

    with arranged(drawing(draw), COLUMN) as figure:
        assert [label.get_text() for label in tick_labels(figure.axes[0].xaxis)] == shown
        assert faults(figure) == []


def test_long_names_are_turned_and_none_is_lost():
    names = [f"variant-{n}" for n in range(9)]

    def draw(figure: Figure) -> None:
        figure.subplots().set_xticks(range(9), names)

    with arranged(drawing(draw), COLUMN) as figure:
        labels = tick_labels(figure.axes[0].xaxis)
        assert [label.get_text() for label in labels] == names
        assert {label.get_rotation() for label in labels} == {90}
        assert faults(figure) == []


def test_names_of_rows_are_all_kept():
    names = [f"variant-{n}" for n in range(30)]

    def draw(figure: Figure) -> None:
        for axes in figure.subplots(1, 3, sharey=True):
            axes.set_yticks(range(30), names)

    with arranged(drawing(draw), COLUMN) as figure:
        rows = [[label.get_text() for label in tick_labels(axes.yaxis)] for axes in figure.axes]
        assert names in rows
        assert all(row in ([], names) for row in rows)
        assert faults(figure) == []


@pytest.mark.parametrize(("columns", "written"), [(3, True), (30, False)])
def test_a_heat_map_has_values_in_cells_or_a_colour_bar(columns: int, written: bool):
    cells = pd.DataFrame(np.full((3, columns), 0.25), index=list("abc"), columns=[str(n) for n in range(columns)])
    with arranged(figures.heat_map(cells, xlabel="head", name="heat", alt="heat"), COLUMN) as figure:
        assert bool(figure.axes[0].texts) == written
        assert (len(figure.axes) == 1) == written
        assert faults(figure) == []


def test_letters_keep_the_size_of_the_style():
    with arranged(drawing(draw_panels), COLUMN) as figure:
        sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}
        assert min(sizes) >= 12  # of 13, which press scales to the size asked for


def test_touching_labels_are_crowded():
    figure = Figure(figsize=(4, 3), dpi=72)
    texts = [figure.text(x, 0.5, "word") for x in (0.1, 0.15, 0.8)]
    assert crowded(texts)
    assert not crowded([texts[0], texts[2]])


# --- every figure ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_figures_of_a_probe(make: Callable[[Path], Path], tmp_path: Path):
    page = _make_page(make(tmp_path / "probe"), (), 0)
    check(charts_of(page), {"common", "rotation", "timesteps", "heads", "emergence", "attention"})


@pytest.mark.slow
def test_figures_of_trainings_evaluations_and_comparisons(make: Callable[[Path], Path], tmp_path: Path):
    pages = [_make_page(run, (), 0) for run in (training_run(tmp_path / "a"), evaluation_run(tmp_path / "evaluation"))]
    pages.append(build_comparison(tmp_path / "a", training_run(tmp_path / "b"), tmp_path)[1])
    pages.append(build_comparison(make(tmp_path / "one"), make(tmp_path / "two"), tmp_path)[1])
    wanted = ({"quality", "tradeoff", "loss", "cost"}, {"rotation-1", "views"}, set(), set())
    for page, names in zip(pages, wanted, strict=True):
        check(charts_of(page), names)


def test_figures_of_a_small_study(tmp_path: Path):
    check(charts_of(_make_page(study_run(tmp_path / "study"), (), 0)), {"convergence", "differences", "reach"})


@pytest.mark.long
@pytest.mark.slow
def test_figures_of_a_study_with_all_claims(make_probe: Probe, tmp_path: Path):
    page = _make_page(make_paper(tmp_path / "paper", make_probe), (), 0)
    names = {"emergence", "reach", "cost", "precision", "differences", "layers"}
    names |= {f"claim-{part}" for part in ("profile", "fragility", "causes", "which-layer", "choices", "rivals")}
    names |= {"claim-controls", "claim-quality"}
    check(charts_of(page), names)


@pytest.mark.slow
def test_figures_of_a_deep_model(make_probe: Probe, tmp_path: Path):
    """Sixteen layers of up to twelve heads, as in Stable Diffusion 2.1."""
    names = {n: f"up_blocks.{n // 3}.attentions.{n % 3}.transformer_blocks.0.attn1" for n in range(16)}
    run = make_probe(
        tmp_path / "deep", names=names, grids=dict.fromkeys(names, "16x16"), heads=dict.fromkeys(names, 12),
        quality={n: 0.1 + 0.03 * n for n in names}, timesteps=(100, 300, 500, 700, 900),
    )  # fmt: skip
    check(charts_of(_make_page(run, (), 0)), {"heads", "timesteps", "profile"})

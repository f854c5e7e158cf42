"""Laws of files for papers: sizes and colours are those asked for, LaTeX runs nothing, every figure is there."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from page_kinds import evaluation_run, study_run, training_run
from PIL import Image

from analysis import report
from analysis.blocks import Table
from analysis.exporting.latex import SIGNS, latex_table, latex_text
from analysis.exporting.press import press, scaled_pdf
from analysis.exporting.style import FigureStyle, formats_of
from analysis.figures import BLUE, INK, WIDTH


def draw(figure: Figure) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o-", color=BLUE, label="line")
    axes.scatter([0.5], [0.2], c=[INK], s=60)
    axes.bar([0.2], [0.5], color=BLUE, width=0.1)
    figure.legend(loc="outside upper left")


def page_size(pdf: bytes) -> tuple[float, float]:
    sides = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)[-1]
    return float(sides[0]), float(sides[1])


@pytest.mark.parametrize("width", [3.25, 5.5, 12.0])
@pytest.mark.parametrize("font_size", [6.0, 8.0, 11.0])
def test_a_pdf_page_is_as_wide_as_asked_for(width: float, font_size: float):
    style = FigureStyle(width=width, font_size=font_size)
    assert page_size(press((WIDTH, 400), draw, "pdf", style))[0] == pytest.approx(72 * width, abs=0.01)
    half = page_size(press((WIDTH // 2, 400), draw, "pdf", style))
    assert half == pytest.approx((36 * width, 36 * width * 400 / (WIDTH // 2)), abs=0.01)


def test_letters_have_the_size_asked_for_where_there_is_room():
    pdf = press((WIDTH, 400), draw, "pdf", FigureStyle(width=6.0, font_size=8.0))
    matrix = re.search(rb"([\d.]+) 0 0 ([\d.]+) 0 0 cm\nendstream", pdf)
    assert matrix is not None
    assert 13 * float(matrix[1]) == pytest.approx(8, abs=1e-4)
    assert matrix[1] == matrix[2]


def test_a_scaled_pdf_finds_its_objects():
    buffer = io.BytesIO()
    figure = Figure(figsize=(4, 3))
    draw(figure)
    figure.savefig(buffer, format="pdf")
    scaled = scaled_pdf(buffer.getvalue(), 0.5)
    assert page_size(scaled) == (144, 108)
    assert scaled.startswith(buffer.getvalue()), "an update stands behind the file"
    start = int(re.findall(rb"startxref\n(\d+)\n%%EOF", scaled)[-1])
    table = re.match(rb"xref\n(\d+) 1\n(\d{10}) 00000 n \n(\d+) 1\n(\d{10}) 00000 n \ntrailer\n", scaled[start:])
    assert table is not None
    for number, place in (table.group(1, 2), table.group(3, 4)):
        assert scaled[int(place) :].startswith(b"%s 0 obj\n" % number)
    previous = re.findall(rb"/Prev (\d+)", scaled)[-1]
    assert scaled[int(previous) :].startswith(b"xref\n")


def test_a_png_has_the_pixels_asked_for():
    image = Image.open(io.BytesIO(press((WIDTH, 400), draw, "png", FigureStyle(width=5.0, dpi=100))))
    assert image.width == pytest.approx(500, abs=1)


@pytest.mark.parametrize("format", ["pdf", "png"])
def test_equal_data_gives_equal_files(format: str):
    assert press((WIDTH, 300), draw, format, FigureStyle()) == press((WIDTH, 300), draw, format, FigureStyle())


def test_palettes_recolour_lines_marks_bars_axes_and_ground():
    def pixels(colours: str) -> np.ndarray:
        png = press((WIDTH, 300), draw, "png", FigureStyle(colours=colours, dpi=60))
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def chroma(image: np.ndarray) -> int:
        return int((image.max(-1) - image.min(-1)).max())

    assert chroma(pixels("page")) > 100
    assert chroma(pixels("grey")) == 0
    dark = pixels("dark")
    assert dark[0, 0].tolist() == [0x14, 0x17, 0x1B]
    assert (abs(dark - [0x62, 0xB2, 0xFF]).sum(-1) < 6).any(), "the line in the dark theme's blue"
    assert not (abs(dark - [0x1D, 0x21, 0x27]).sum(-1) < 3).all(-1).any()


@pytest.mark.parametrize(
    ("style", "message"),
    [
        (FigureStyle(width=0.1), "--width 0.1: expected a number from 1 to 40"),
        (FigureStyle(font_size=100.0), "--font-size 100: expected a number from 3 to 40"),
        (FigureStyle(dpi=5), "--dpi 5: expected a number from 30 to 1200"),
    ],
)
def test_what_cannot_be_drawn_is_refused(style: FigureStyle, message: str):
    with pytest.raises(ValueError, match=message):
        style.check()


def test_formats():
    assert formats_of("pdf, png,pdf") == ("pdf", "png")
    assert formats_of("") == ()
    with pytest.raises(ValueError, match="--figures pdf,gif: gif is unknown; expected pdf, png or pdf,png"):
        formats_of("pdf,gif")


def test_latex_by_hand():
    assert latex_text("a_b & 5 % of $x$ {y} #1 ~") == r"a\_b \& 5 \% of \$x\$ \{y\} \#1 \textasciitilde{}"
    assert latex_text(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert latex_text("27.0\u00a0% (−1.2–3, ᾱ)") == r"27.0~\% ($-$1.2--3, $\bar\alpha$)"


@given(st.text())
def test_latex_runs_nothing_of_a_text(text: str):
    """What is left without our own commands has no sign that LaTeX acts on."""
    rest = latex_text(text)
    for own in sorted((own for sign, own in SIGNS.items() if own != sign), key=len, reverse=True):
        rest = rest.replace(own, "")
    assert not set(rest) & set("\\{}$&#%_^")


def test_a_table_in_latex():
    table = Table(caption="5 % of _x_", columns=("run", "value"), rows=(("[a]", "1"), ("b", "")), marked=(1,))
    lines = latex_table("my table", table).splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs}"
    assert r"\caption{5 \% of \_x\_}" in lines
    assert r"\label{tab:my-table}" in lines
    assert r"\begin{tabular}{@{}lr@{}}" in lines
    assert lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")] == [r"{}[a] & 1 \\", r"\textbf{b} &  \\"]


def test_a_wide_table_is_fitted():
    table = Table(caption="", columns=("a",), rows=(("1",),), wide=True)
    assert r"\resizebox{\linewidth}{!}{%\begin{tabular}" in latex_table("x", table)
    assert r"\end{tabular}}" in latex_table("x", table)


def figures_on(page: str) -> set[str]:
    samples = {"samples"} if 'aria-label="Picture of samples' in page else set()
    return set(re.findall(r'<figure id="figure-([^"]+)"', page)) | samples


@pytest.mark.parametrize("kind", ["probe", "study", "training", "evaluation"])
def test_every_figure_and_table_of_a_page_becomes_a_file(
    kind: str, make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    makers = {"probe": make, "study": study_run, "training": training_run, "evaluation": evaluation_run}
    makers[kind](Path("runs/one"))
    assert report.main(["runs/one", "--figures", "pdf", "--width", "3.25"]) == 0
    page = Path("runs/one/report.html").read_text(encoding="utf-8")
    figures = figures_on(page)
    assert figures
    assert {path.stem for path in Path("runs/one/figures").glob("*.pdf")} == figures
    assert {path.stem for path in Path("runs/one/tables").glob("*.tex")} == set(
        re.findall(r'<table id="table-([^"]+)"', page)
    )
    captions = Path("runs/one/figures/captions.txt").read_text(encoding="utf-8")
    assert {block.partition(":")[0] for block in captions.split("\n\n")} == figures
    assert "captions in runs/one/figures/captions.txt" in capsys.readouterr().out


def test_a_comparison_has_files_too(make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        make(Path("runs") / name)
    assert report.main(["runs/a", "runs/b", "--compare", "--figures", "png", "--dpi", "40"]) == 0
    folder = Path("reports/compare-a-b")
    assert {path.stem for path in (folder / "figures").glob("*.png")} == figures_on(
        folder.with_suffix(".html").read_text(encoding="utf-8")
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--figures", "svg"], "--figures svg: svg is unknown"),
        (["--figures", "pdf", "--width", "90"], "--width 90: expected a number from 1 to 40"),
    ],
)
def test_refusals_write_nothing(
    flags: list[str], message: str, make: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = make(tmp_path / "run")
    before = set(run.rglob("*"))
    assert report.main([str(run), *flags]) == 2
    assert message in capsys.readouterr().err
    assert set(run.rglob("*")) == before

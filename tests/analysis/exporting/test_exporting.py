"""Laws of files for papers: sizes and colours are those asked for, LaTeX runs nothing, every figure is there."""

import io
import re
import shutil
import subprocess
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from page_kinds import evaluation_run, study_run, training_run
from papers import make_paper
from PIL import Image

from analysis import report
from analysis.blocks import Table
from analysis.building import _make_page
from analysis.exporting.latex import ACCENTS, SIGNS, latex_table, latex_text
from analysis.exporting.press import press, scaled_pdf
from analysis.exporting.style import LETTERS, FigureStyle, formats_of
from analysis.exporting.write import tables_of
from analysis.figures import BLUE, INK, STYLE, WIDTH


def draw(figure: Figure) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o-", color=BLUE, label="line")
    axes.scatter([0.5], [0.2], c=[INK], s=60)
    axes.bar([0.2], [0.5], color=BLUE, width=0.1)
    figure.legend(loc="outside upper left")


def page_size(pdf: bytes) -> tuple[float, float]:
    sides = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)[-1]
    return float(sides[0]), float(sides[1])


def test_lengths_are_those_of_the_page():
    assert STYLE["font.size"] == LETTERS
    assert FigureStyle(width=25.4 * WIDTH / 72, font_size=LETTERS).canvas == pytest.approx(WIDTH)


@pytest.mark.parametrize("width", [84.0, 140.0, 300.0])
@pytest.mark.parametrize("font_size", [6.0, 8.0, 11.0])
@pytest.mark.parametrize("size", [(WIDTH, 400), (WIDTH // 2, 400), (2 * WIDTH, 400)])
def test_a_pdf_page_is_as_wide_as_asked_for(width: float, font_size: float, size: tuple[int, int]):
    page = page_size(press(size, draw, "pdf", FigureStyle(width=width, font_size=font_size)))
    assert page[0] / 72 * 25.4 == pytest.approx(width, abs=0.01)


@pytest.mark.parametrize(("width", "font_size"), [(152.4, 8.0), (84.0, 8.0), (84.0, 6.0)])
def test_letters_have_the_size_asked_for(width: float, font_size: float):
    pdf = press((WIDTH, 400), draw, "pdf", FigureStyle(width=width, font_size=font_size))
    matrix = re.search(rb"([\d.]+) 0 0 ([\d.]+) 0 0 cm\nendstream", pdf)
    assert matrix is not None
    assert 13 * float(matrix[1]) == pytest.approx(font_size, abs=1e-4)
    assert matrix[1] == matrix[2]


def test_text_of_a_pdf_stays_text_in_fonts_that_are_in_the_file():
    pdf = press((WIDTH, 400), draw, "pdf", FigureStyle(width=84.0))
    assert b"/Subtype /Type3" not in pdf
    assert re.search(rb"/Subtype /(TrueType|CIDFontType2)", pdf)
    assert b"/FontFile2" in pdf
    streams = re.findall(rb"stream\n(.*?)\nendstream", pdf, re.DOTALL)
    shown = b"\n".join(zlib.decompress(stream) for stream in streams if stream[:1] == b"x")
    parts = (re.findall(rb"\((.*?)\)", words, re.DOTALL) for words in re.findall(rb"BT\n(.*?)ET", shown, re.DOTALL))
    assert b"line" in {b"".join(part).replace(b"\0", b"") for part in parts}


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
    image = Image.open(io.BytesIO(press((WIDTH, 400), draw, "png", FigureStyle(width=127.0, dpi=100))))
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
        (FigureStyle(width=5.5), "--width 5.5: expected 25 to 1000 millimetres"),
        (FigureStyle(font_size=100.0), "--font-size 100: expected 3 to 40 points"),
        (FigureStyle(dpi=5), "--dpi 5: expected 30 to 1200 pixels per inch"),
        (
            FigureStyle(width=84.0, font_size=20.0),
            "--font-size 20 on --width 84: .* at most 12.8 points there",
        ),
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
    assert latex_text("--out -- a-b") == "-{}-out -{}- a-b"
    assert latex_text("Zoë, Łódź, ß") == r"Zo\"{e}, \L{}\'{o}d\'{z}, \ss{}"


def test_a_letter_that_is_not_known_becomes_its_number():
    assert latex_text("room 中 🙂 \x00 ą") == "room [U+4E2D] [U+1F642] [U+0000] [U+0105]"


@given(st.text())
def test_latex_is_written_in_ascii_that_is_seen(text: str):
    assert re.fullmatch(r"[ -~]*", latex_text(text))


def test_every_sign_of_the_list_is_one_letter():
    assert all(len(sign) == len(unicodedata.normalize("NFC", sign)) == 1 for sign in SIGNS)


@given(st.text())
def test_latex_runs_nothing_of_a_text(text: str):
    """What is left without our own commands has no sign that LaTeX acts on."""
    rest = latex_text(text)
    for accent in ACCENTS.values():
        rest = re.sub(re.escape(accent) + r"\{[A-Za-z]\}", "", rest)
    for own in sorted((own for sign, own in SIGNS.items() if own != sign), key=len, reverse=True):
        rest = rest.replace(own, "")
    assert not set(rest.replace("{}", "")) & set("\\{}$&#%_^")


def test_a_table_in_latex():
    table = Table(caption="5 % of _x_", columns=("run", "value"), rows=(("[a]", "1"), ("b", "")), marked=(1,))
    lines = latex_table("my table", table).splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs} and \usepackage{graphicx}"
    assert r"\caption{5 \% of \_x\_}" in lines
    assert r"\label{tab:my-table}" in lines
    assert r"\begin{tabular}{@{}lr@{}}" in lines
    assert lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")] == [r"{}[a] & 1 \\", r"\textbf{b} &  \\"]


PREAMBLE = r"\documentclass{article}\usepackage{booktabs}\usepackage{graphicx}\begin{document}"


@pytest.mark.parametrize(("width", "parts"), [(84.0, 3), (174.0, 2), (1000.0, 1)])
def test_a_broad_table_is_divided_where_its_letters_would_shrink_too_far(width: float, parts: int):
    columns = ("layer", *(f"score {n}" for n in range(20)))
    table = Table(columns=columns, rows=(("up.0", *["12.3 %"] * 20), ("up.1", *["45.6 %"] * 20)), caption="Many")
    text = latex_table("broad", table, width)
    heads = [line for line in text.splitlines() if line.startswith("layer & ")]
    assert text.count(r"\begin{tabular}") == text.count(r"\resizebox") == len(heads) == parts
    assert text.count(r"\begin{table}") == text.count(r"\label") == 1
    assert [name for line in heads for name in line.removesuffix(r" \\").split(" & ")[1:]] == list(columns[1:])
    assert text.count("12.3") == text.count("45.6") == 20
    assert text.count("up.0") == text.count("up.1") == parts


@pytest.mark.slow
def test_every_table_compiles(make: Callable[[Path], Path], make_probe: Callable[..., Path], tmp_path: Path):
    """Of all kinds of pages, and one of every sign."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-base texlive-latex-recommended")
    runs = [make(tmp_path / "probe"), study_run(tmp_path / "study"), training_run(tmp_path / "training"),
            evaluation_run(tmp_path / "evaluation"), make_paper(tmp_path / "paper", make_probe)]  # fmt: skip
    tables = {f"{run.name}-{name}": table for run in runs for name, table in tables_of(_make_page(run, (), 0)).items()}
    signs = "".join(chr(n) for n in range(0x180)) + "".join(SIGNS)
    rows = tuple((f"[{sign}", sign) for sign in (*signs, "--", "?`", "中🙂"))
    for start in range(0, len(rows), 40):
        part = rows[start : start + 40]
        tables[f"signs-{start}"] = Table(caption=" ".join(signs), columns=("a", "b"), rows=part, marked=(0,))
    assert len(tables) > 30
    text = "\\clearpage\n".join(latex_table(name, table) for name, table in tables.items())
    (tmp_path / "all.tex").write_text(f"{PREAMBLE}\n{text}\n\\end{{document}}\n", encoding="ascii")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "all.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300, check=False
    )
    assert done.returncode == 0, [line for line in done.stdout.splitlines() if line.startswith(("!", "l."))]
    assert "Missing character" not in (tmp_path / "all.log").read_text(errors="replace")
    assert not re.findall(r"Overfull \\hbox.*", done.stdout), "each table fits the line"


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
    assert report.main(["runs/one", "--figures", "pdf", "--width", "84"]) == 0
    page = Path("runs/one/report.html").read_text(encoding="utf-8")
    figures = figures_on(page)
    assert figures
    assert {path.stem for path in Path("runs/one/figures").glob("*.pdf")} == figures
    assert {path.stem for path in Path("runs/one/tables").glob("*.tex")} == set(
        re.findall(r'<table id="table-([^"]+)"', page)
    )
    captions = Path("runs/one/figures/captions.txt").read_text(encoding="utf-8")
    command, *blocks = captions.rstrip().split("\n\n")
    assert command.startswith("Made by: python -m ")
    assert {block.partition(":")[0] for block in blocks} == figures
    latex = Path("runs/one/figures/captions.tex").read_text(encoding="ascii")
    assert latex.startswith("% Made by: python -m ")
    assert set(re.findall(r"\\includegraphics\[width=\\linewidth\]\{figures/([^}]+)\}", latex)) == figures
    assert latex.count("\\caption{") == latex.count("\\label{fig:") == len(figures)
    assert "captions in runs/one/figures/captions.txt and .tex" in capsys.readouterr().out


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
        (["--figures", "pdf", "--width", "5.5"], "--width 5.5: expected 25 to 1000 millimetres"),
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

"""The figures, tables and captions of a page -> files beside it."""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from analysis.blocks import Chart, Section, SectionPage, Table
from analysis.exporting.latex import latex_figure, latex_table
from analysis.exporting.press import press
from analysis.exporting.style import FigureStyle
from analysis.probing.page import Page
from probe.records import write, write_text

PNG_LINK = "data:image/png;base64,"


def write_files(page: Page | SectionPage, folder: Path, formats: Sequence[str], style: FigureStyle) -> list[Path]:
    """Write what a page shows as files for a paper.

    Figures become ``figures/NAME.pdf`` or ``.png``, tables ``tables/NAME.tex``; ``figures/captions.txt`` holds what to
    write under each figure and the command that made them, ``figures/captions.tex`` the same as figures of LaTeX. Match
    pictures and the explorer stay on the page.

    Args:
        page: The page.
        folder: Where to write; its folders are made.
        formats: Of figures: pdf, png.
        style: How figures look.

    Returns:
        The paths, captions last.

    Raises:
        ValueError: If the style cannot be drawn.
    """
    style.check()
    figures, tables = folder / "figures", folder / "tables"
    for made in (figures, tables):
        made.mkdir(parents=True, exist_ok=True)
    paths, captions = [], {}
    for chart in charts_of(page):
        drawn = chart.drawing
        files = {name: press(drawn.size, drawn.draw, name, style) for name in formats}
        paths += _write(figures / chart.name, files)
        captions[chart.name] = f"{chart.caption}\n{chart.source}"
    for section in sections_of(page):
        if section.picture is not None:
            paths += _write(figures / section.name, _picture(section.picture, formats, style))
            captions[section.name] = section.text
    for name, table in tables_of(page).items():
        paths.append(tables / f"{name}.tex")
        write_text(paths[-1], latex_table(name, table, style.width))
    command = re.sub(r"\s*\\\n\s*", " ", page.command or page.rebuild)
    blocks = [f"{name}: {caption}" for name, caption in captions.items()]
    write_text(figures / "captions.txt", "\n\n".join([f"Made by: {command}", *blocks]) + "\n")
    environments = [latex_figure(name, caption) for name, caption in captions.items()]
    write_text(figures / "captions.tex", "\n".join([f"% Made by: {_ascii(command)}\n", *environments]))
    return [*paths, figures / "captions.txt", figures / "captions.tex"]


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _write(stem: Path, files: dict[str, bytes]) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.{name}") for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        write(path, partial(Path.write_bytes, data=content))
    return paths


def _picture(link: str, formats: Sequence[str], style: FigureStyle) -> dict[str, bytes]:
    """Return a PNG picture of the page as it is, and as a PDF page as wide as asked for."""
    png = base64.b64decode(link.removeprefix(PNG_LINK))
    files = {}
    for name in formats:
        buffer = io.BytesIO(png if name == "png" else b"")
        if name == "pdf":
            image = Image.open(io.BytesIO(png)).convert("RGB")
            plain = {"creationDate": None, "modDate": None, "producer": ""}
            image.save(buffer, "pdf", resolution=image.width / style.width, **plain)
        files[name] = buffer.getvalue()
    return files


def sections_of(page: Page | SectionPage) -> tuple[Section, ...]:
    """Return a page's sections that are made of blocks.

    Args:
        page: The page.
    """
    if isinstance(page, Page):
        return (page.paper,)
    return (*((page.lead,) if page.lead else ()), *page.sections)


def charts_of(page: Page | SectionPage) -> Iterator[Chart]:
    """Return a page's figures in order.

    Args:
        page: The page.
    """
    if isinstance(page, Page):
        yield from page.figures.values()
    for section in sections_of(page):
        yield from section.charts


def tables_of(page: Page | SectionPage) -> dict[str, Table]:
    """Return a page's tables by name.

    Args:
        page: The page.
    """
    tables = dict(page.tables) if isinstance(page, Page) else {}
    for section in sections_of(page):
        tables |= section.tables
    return tables

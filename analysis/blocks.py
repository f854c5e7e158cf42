"""What pages are made of: figures with their table and source, tables as text, sections, whole pages. All finished."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from markupsafe import Markup, escape

from analysis.figures import Drawing

NOTEBOOK = "margin:1em 0;padding:1em;max-width:60em;background:#fefefd;color:#1d2127"
"""Style of figures and tables in a notebook: the colours of the page's light theme."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as finished text.

    Attributes:
        caption: What it shows and how to read it.
        columns: Headings.
        rows: Cells.
        marked: Positions of rows to set off.
        texts: How many leading columns are text, set left.
        wide: Whether it may be wider than the text.
        links: Of each row, the section of the page that its first cell links to; empty where there is none.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: tuple[int, ...] = ()
    texts: int = 1
    wide: bool = False
    links: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """Show the table and its caption in a notebook."""
        rows = ((self.columns, "th"), *((row, "td") for row in self.rows))
        lines = "".join(f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>" for row, tag in rows)
        table = f'<table style="white-space:pre-line;color:inherit">{lines}</table>'
        return f'<figure style="{NOTEBOOK}">{table}<figcaption>{escape(self.caption)}</figcaption></figure>'


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure with all that a reader needs to trust and to repeat it.

    Attributes:
        name: Tells it from the page's other figures.
        drawing: The figure.
        caption: What it shows, how to read it, what was counted.
        source: By what protocol and on which pairs it was measured.
        csv: A link that holds the table it is drawn from.
        file: Under which the table is downloaded.
    """

    name: str
    drawing: Drawing
    caption: str
    source: str
    csv: str
    file: str

    @property
    def svg(self) -> Markup:
        """The figure as part of a page."""
        return Markup(self.drawing)

    def _repr_html_(self) -> str:
        """Show the figure, its caption and its source in a notebook."""
        words = f"{escape(self.caption)}<br><small>{escape(self.source)}</small>"
        return f'<figure style="{NOTEBOOK}">{self.svg}<figcaption>{words}</figcaption></figure>'


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a page.

    Attributes:
        name: Tells it from the page's other sections.
        title: Above it.
        claim: What it shows, in a sentence that stands above all else; empty where it claims nothing.
        text: Below that; what the picture shows, where there is one.
        picture: A link that holds a PNG, if there is one.
        charts: Its figures.
        tables: Its tables, by name.
    """

    name: str
    title: str
    claim: str = ""
    text: str = ""
    picture: str | None = None
    charts: tuple[Chart, ...] = ()
    tables: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SectionPage:
    """All that a page of sections shows, such as that of a training run; what a run cannot fill is absent.

    Attributes:
        kind: What it is the page of.
        lead: What stands above the answer: a picture.
        rebuild: The command that makes the page again.
        command: The command that makes what the page shows; empty where there is no single one.
    """

    kind: str
    title: str
    subtitle: str
    answer: tuple[str, ...]
    facts: tuple[tuple[str, str, str], ...]
    caveats: tuple[str, ...]
    sections: tuple[Section, ...]
    settings: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    command: str
    rebuild: str
    downloads: tuple[tuple[str, str], ...]
    lead: Section | None = None


def chart(name: str, svg: Drawing, caption: str, *, source: str, table: pd.DataFrame, file: str = "") -> Chart:
    """Put a figure together with its table.

    Args:
        name: See :class:`Chart`.
        svg: The figure, as :func:`analysis.figures.chart` gives it.
        caption: See :class:`Chart`.
        source: See :class:`Chart`.
        table: What the figure is drawn from.
        file: See :class:`Chart`; default NAME.csv.
    """
    file = file or f"{name}.csv"
    return Chart(name=name, drawing=svg, caption=caption, source=source, csv=csv_link(table), file=file)


def present(sections: Sequence[Section | None]) -> tuple[Section, ...]:
    """Keep the sections that there are."""
    return tuple(section for section in sections if section is not None)


def picture_first(sections: Sequence[Section]) -> tuple[Section | None, tuple[Section, ...]]:
    """Take out the section that stands above the answer: the first with a picture, else the first with a figure.

    Args:
        sections: In the page's order.

    Returns:
        That section, or None, and the others.
    """
    drawn = [*(one for one in sections if one.picture), *(one for one in sections if one.charts)]
    lead = drawn[0] if drawn else None
    return lead, tuple(section for section in sections if section is not lead)


def csv_link(frame: pd.DataFrame) -> str:
    """Write a table as a link that holds it as a CSV file.

    Args:
        frame: The table; its index is left out.
    """
    text = frame.to_csv(index=False, lineterminator="\n")
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()

"""Tables of pages -> LaTeX with booktabs. Pure."""

import unicodedata
from collections.abc import Sequence

from analysis.blocks import Table
from analysis.exporting.style import INCH, POINTS

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", "\"": "''",
    "`": r"\textasciigrave{}", "\n": " ", "\t": " ",
    "\u00a0": "~", "\u202f": r"\,", "\u2009": r"\,", "\u2011": "-", "−": "$-$", "–": "--", "—": "---",
    "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "÷": r"$\div$", "≤": r"$\le$", "≥": r"$\ge$", "≈": r"$\approx$",
    "≠": r"$\ne$", "∈": r"$\in$", "√": r"$\surd$", "∞": r"$\infty$", "°": r"$^\circ$", "²": r"$^2$", "³": r"$^3$",
    "½": r"$\frac12$", "¼": r"$\frac14$", "⅛": r"$\frac18$", "→": r"$\to$", "←": r"$\gets$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "◂": r"$\triangleleft$", "▸": r"$\triangleright$", "●": r"$\bullet$", "○": r"$\circ$",
    "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "…": r"\ldots{}", "“": "``", "”": "''", "‘": "`", "’": "'",
    "ᾱ": r"$\bar\alpha$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "Δ": r"$\Delta$",
    "ε": r"$\varepsilon$", "θ": r"$\theta$", "λ": r"$\lambda$", "μ": r"$\mu$", "µ": r"$\mu$", "π": r"$\pi$",
    "ρ": r"$\rho$", "σ": r"$\sigma$", "Σ": r"$\Sigma$", "τ": r"$\tau$", "φ": r"$\varphi$", "ω": r"$\omega$",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}",
}  # fmt: skip
"""Signs that LaTeX reads otherwise, or that its fonts lack."""
ACCENTS = {
    "\u0300": "\\`", "\u0301": r"\'", "\u0302": r"\^", "\u0303": r"\~", "\u0304": r"\=", "\u0306": r"\u",
    "\u0307": r"\.", "\u0308": "\\\"", "\u030a": r"\r", "\u030b": r"\H", "\u030c": r"\v", "\u0323": r"\d",
    "\u0327": r"\c",
}  # fmt: skip
"""Marks that join a letter, and LaTeX's commands for them."""
LIGATURES = ("--", "''", ",,", "?`", "!`")
"""Pairs that LaTeX's fonts join to another sign, such as the hyphens of a flag to a dash."""
FITTED = r"\ifdim\width>\linewidth\linewidth\else\width\fi"
"""The table's own width, or the line's where that is less."""
BODY, LEAST = 10.0, 6.0
"""Size of letters in points: of a paper's text, and below which a table is divided."""
LETTER, GAP = 0.5, 12.0
"""Width of a letter of Computer Modern as a share of its size, and between columns in points (twice tabcolsep)."""


def latex_text(text: str) -> str:
    """Write text so that LaTeX shows it and runs nothing of it, in ASCII alone: no package need know its letters.

    Args:
        text: Any; a letter that is not known becomes its number, such as [U+4E2D], for a person to see.
    """
    text = unicodedata.normalize("NFC", text)
    pairs = zip(text, f"{text[1:]} ", strict=False)
    return "".join(_sign(sign) + "{}" * (sign + after in LIGATURES) for sign, after in pairs)


def _sign(sign: str) -> str:
    if sign in SIGNS:
        return SIGNS[sign]
    if " " <= sign <= "~":
        return sign
    parts = unicodedata.normalize("NFD", sign)
    letter, marks = parts[0], parts[1:]
    if letter.isascii() and letter.isalpha() and marks in ACCENTS:
        return f"{ACCENTS[marks]}{{{letter}}}"
    return f"[U+{ord(sign):04X}]"


def latex_table(name: str, table: Table, width: float = 140.0) -> str:
    r"""Write a table for ``\input``; it needs the packages booktabs, and graphicx, which shrinks it to the line.

    Where its letters would shrink below :data:`LEAST`, its columns are divided: parts stand one below the other, and
    each begins with the table's first column.

    Args:
        name: Of its label.
        table: The table; rows set off on the page are bold.
        width: Of the line in millimetres.
    """
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage{graphicx}",
        r"\begin{table}", r"\centering",
        rf"\caption{{{latex_text(table.caption)}}}", r"\smallskip",
        rf"\label{{tab:{_label(name)}}}",
        *"\n\\par\\medskip\n".join(_tabular(table, columns) for columns in _parts(table, width)).split("\n"),
        r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _parts(table: Table, width: float) -> list[list[int]]:
    """Divide the columns so that each part, the first column before it, keeps letters that can be read."""
    room = width / INCH * POINTS * BODY / LEAST
    longest = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    widths = [LETTER * BODY * length + GAP for length in longest]
    parts = [[0]]
    for column in range(1, len(widths)):
        if parts[-1] != [0] and sum(widths[n] for n in parts[-1]) + widths[column] > room:
            parts.append([0])
        parts[-1].append(column)
    return parts


def _tabular(table: Table, columns: list[int]) -> str:
    """Write some columns of a table, shrunk to the line where they are broader."""
    kinds = "".join("l" if n < table.texts else "r" for n in columns)
    rows = [_row([row[n] for n in columns], bold=number in table.marked) for number, row in enumerate(table.rows)]
    lines = [
        rf"\resizebox{{{FITTED}}}{{!}}{{%", rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}", r"\toprule",
        _row([table.columns[n] for n in columns]), r"\midrule", *rows, r"\bottomrule", r"\end{tabular}}",
    ]  # fmt: skip
    return "\n".join(lines)


def latex_figure(name: str, caption: str) -> str:
    r"""Write a figure and its caption for ``\input``; it needs the package graphicx.

    Args:
        name: Of its file, in the folder ``figures``.
        caption: What is written under it.
    """
    lines = [
        r"\begin{figure}", r"\centering", rf"\includegraphics[width=\linewidth]{{figures/{name}}}",
        rf"\caption{{{latex_text(caption)}}}", rf"\label{{fig:{_label(name)}}}", r"\end{figure}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str], *, bold: bool = False) -> str:
    texts = [latex_text(cell) for cell in cells]
    shown = [rf"\textbf{{{text}}}" if bold and text else text for text in texts]
    guard = "{}" if shown and shown[0].startswith("[") else ""  # [ behind \\ would be read as its argument
    return guard + " & ".join(shown) + r" \\"


def _label(name: str) -> str:
    return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name)

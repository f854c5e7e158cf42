"""Tables of pages -> LaTeX with booktabs. Pure."""

from analysis.blocks import Table

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", "\"": "''",
    "\u00a0": "~", "\u202f": r"\,", "\u2009": r"\,", "−": "$-$", "–": "--", "—": "---", "×": r"$\times$", "±": r"$\pm$",
    "·": r"$\cdot$", "≤": r"$\le$", "≥": r"$\ge$", "≈": r"$\approx$", "√": r"$\surd$", "°": r"$^\circ$", "†": r"\dag{}",
    "→": r"$\to$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "ᾱ": r"$\bar\alpha$", "α": r"$\alpha$", "σ": r"$\sigma$",
    "∞": r"$\infty$", "…": r"\ldots{}", "“": "``", "”": "''", "‘": "`", "’": "'", "●": r"$\bullet$", "\n": " ",
    "²": r"$^2$", "½": r"$\frac12$", "µ": r"$\mu$",
}  # fmt: skip
"""Signs that LaTeX reads otherwise, or that its fonts lack."""


def latex_text(text: str) -> str:
    """Write text so that LaTeX shows it and runs nothing of it; letters of other scripts stay as they are.

    Args:
        text: Any.
    """
    return "".join(SIGNS.get(sign, sign) for sign in text)


def latex_table(name: str, table: Table) -> str:
    r"""Write a table for ``\input``; it needs the package booktabs, and graphicx where it is wide.

    Args:
        name: Of its label.
        table: The table; rows set off on the page are bold.
    """
    columns = "".join("l" if n < table.texts else "r" for n in range(len(table.columns)))
    rows = [_row(row, bold=n in table.marked) for n, row in enumerate(table.rows)]
    fit, end = (r"\resizebox{\linewidth}{!}{%", "}") if table.wide else ("", "")
    needs = r"% needs \usepackage{booktabs}" + (r" and \usepackage{graphicx}" if table.wide else "")
    lines = [
        needs, r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.caption)}}}",
        rf"\label{{tab:{_label(name)}}}", rf"{fit}\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule",
        _row(table.columns), r"\midrule", *rows, r"\bottomrule", r"\end{tabular}" + end, r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(cells: tuple[str, ...], *, bold: bool = False) -> str:
    texts = [latex_text(cell) for cell in cells]
    shown = [rf"\textbf{{{text}}}" if bold and text else text for text in texts]
    guard = "{}" if shown and shown[0].startswith("[") else ""  # [ behind \\ would be read as its argument
    return guard + " & ".join(shown) + r" \\"


def _label(name: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in name)

"""The section of a study's page that stands beside the paper's curves, ablation and rivals. Pure."""

import pandas as pd

from analysis import paper
from analysis.blocks import Section, Table
from analysis.study import words
from analysis.study.run import StudyRun
from analysis.study.seeds import first_reach
from analysis.study.soon import how_soon
from analysis.study.words import difference_text, title
from analysis.words import MISSING, number
from probe.records import better


def beside_paper(run: StudyRun) -> Section:
    """Put the paper's numbers beside a study: what means the same in one table, the rest apart.

    Args:
        run: The study.
    """
    table = published_reach()
    ours = how_soon(run)
    rows = [
        (
            "paper",
            row.dataset,
            title(row.metric),
            f"{row.ratio:.2f}",
            f"{number(round(row.step, -3))} of {number(row.steps)} steps",
        )
        for row in table.itertuples()
    ]
    rows += [
        (f"here, {row.variant}", "its own", title(row.metric), words.share_text(row),
         f"{words.null_text(row)} for plain itself; {row.verdict}")
        for row in ours[(ours["variant"] == "cameo") & (ours["metric"].isin(["psnr", "ssim"]))].itertuples()
    ]  # fmt: skip
    soon = Table(
        caption="The share of the baseline's steps after which CAMEO is where the baseline ends.",
        columns=("whose", "scenes", "metric", "share of the steps", "note"),
        rows=tuple(rows),
        texts=3,
    )
    return Section(
        name="paper",
        title="Compared with the paper",
        text=words.paper_words(run),
        tables={"paper-reach": soon, "paper-layers": _paper_layers(), "paper-rivals": _paper_rivals()},
    )


def published_reach() -> pd.DataFrame:
    """Return when CAMEO's published curves reach the baseline's last published value.

    Returns:
        Columns dataset, metric, goal, step, steps (of the baseline), ratio; linear between published points.
    """
    rows = []
    for (dataset, metric), part in paper.experiment("convergence").groupby(["dataset", "metric"], sort=False):
        lines = {
            name: line.assign(x=line["x"].astype(float)).sort_values("x") for name, line in part.groupby("variant")
        }
        plain, cameo = lines["baseline"], lines["cameo"]
        goal, steps = float(plain["value"].iloc[-1]), float(plain["x"].iloc[-1])
        higher = better(str(metric)) > 0
        step, _ = first_reach(cameo["x"].to_numpy(), cameo["value"].to_numpy(), goal, higher=higher)
        if len(plain) > 1:
            rows.append((dataset, metric, goal, step, steps, step / steps))
    return pd.DataFrame(rows, columns=["dataset", "metric", "goal", "step", "steps", "ratio"])


def _paper_layers() -> Table:
    table = paper.experiment("layer_ablation")
    table = table.assign(layer=table["variant"].str.rpartition("-")[2], x=table["x"].astype(int))
    plain = paper.experiment("convergence")
    plain = plain[(plain["dataset"] == "re10k") & (plain["metric"] == "psnr") & (plain["variant"] == "baseline")]
    base = dict(zip(plain["x"].astype(int), plain["value"], strict=True))
    wide = table.pivot_table(index="layer", columns="x", values="value", sort=False)
    rows = tuple(
        (str(layer), *(f"{row[x]:.2f} ({difference_text('psnr', row[x] - base[x])})" for x in wide.columns))
        for layer, row in wide.iterrows()
    )
    return Table(
        caption="Published: PSNR in dB on RealEstate10K when one layer of SD 2.1's U-Net is supervised, and its "
        "difference to the unsupervised baseline read off another figure. One run each, no intervals. In our terms the "
        "baseline's row is plain; the heights mean nothing here, the order of layers may be compared.",
        columns=("supervised layer", *(f"{number(x)} steps" for x in wide.columns)),
        rows=rows,
    )


def _paper_rivals() -> Table:
    table = pd.concat([paper.experiment("rivals"), paper.experiment("retest-gld")], ignore_index=True)
    rows = tuple(
        (row.who if row.source != "note" else row.variant, row.metric.upper() if row.metric == "psnr" else row.metric,
         f"{row.value:.2f}" if row.metric == "psnr" else f"{row.value:.3f}",
         f"{number(float(row.x))} steps" if pd.notna(row.x) else MISSING, row.source)
        for row in table.itertuples()
    )  # fmt: skip
    return Table(
        caption="Published rivals on RealEstate10K, and a later re-test by others. Their settings are not public, so "
        "they stand apart from the rivals measured here.",
        columns=("what", "metric", "value", "after", "source"),
        rows=rows,
    )

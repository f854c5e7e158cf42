"""The section of a probe's page that stands beside the paper's figures: profile, rotation, emergence. Pure."""

import numpy as np
import pandas as pd

from analysis import paper
from analysis.blocks import Chart, Section, Table, chart
from analysis.probing import rotation, tables
from analysis.probing.cells import source
from analysis.probing.tables import ProbeRun
from analysis.study import figures
from analysis.training import words
from analysis.words import MISSING, NBSP, bin_words, listing, metric_words, number, percent, with_interval
from probe.records.intervals import LEAST_UNITS
from probe.records.words import shorten

SD21_LAYERS = "up_blocks.2.attentions.0"
"""Where layer 10 sits in the U-Net of Stable Diffusion 2.1; a model that has it there shares the paper's indexes."""
PUBLISHED, OURS = "published: NAVI, 2 cm in 3D", "here: {}"
LETTERS = 48
"""Of a title that fit over a frame."""


def beside_paper(run: ProbeRun) -> Section:
    """Put the paper's numbers beside a probe's: each in a frame of its own unless they mean the same.

    Args:
        run: The probe run.
    """
    same = paper.same_measure(str(run.settings.get("scenes", "")), run.metric)
    scenes = str(run.settings.get("scenes", "unnamed scenes"))
    text = paper.measure_words(run.model, scenes, metric_words(run.metric), same)
    charts = (_profile(run), _rotation(run), _emergence(run))
    return Section(
        name="paper",
        title="Compared with the paper",
        text=f"{text} Source: {paper.note()}",
        charts=tuple(drawn for drawn in charts if drawn is not None),
        tables={"paper": _table(run)},
    )


def _beside(
    run: ProbeRun, name: str, published: pd.DataFrame, ours: pd.DataFrame, xlabel: str, caption: str, basis: str = ""
) -> Chart:
    """Draw both in frames of their own, and keep both in one table that says whose each row is."""
    titles = (PUBLISHED, _title(run))
    frames = [(title, xlabel, table) for title, table in zip(titles, (published, ours), strict=True)]
    alt = f"Two frames. {titles[0]}: {_spoken(published)}. {titles[1]}: {_spoken(ours)}"
    svg = figures.columns_beside(frames, name=f"paper-{name}", alt=alt)
    both = pd.concat([published.assign(whose="paper"), ours.assign(whose=run.name)], ignore_index=True)
    sentences = (
        f"{caption} {_bars(ours)} One frame has the published numbers, without intervals or counts, the other this "
        "run; each on a scale of its own."
    )
    basis = f"This run: {basis or source(run)}"
    return chart(f"paper-{name}", svg, sentences, source=basis, table=both, file=f"paper_{name}.csv")


def _title(run: ProbeRun) -> str:
    """Return what was measured here, on which data; a long name is cut in its middle."""
    start = OURS.format(f"{run.metric}, ")
    return start + shorten(str(run.settings.get("scenes", MISSING)), LETTERS - len(start))


def _bars(table: pd.DataFrame) -> str:
    if table["low"].notna().any():
        return f"Bars in the frame of this run: 95{NBSP}% intervals."
    return f"No intervals in the frame of this run: they need {LEAST_UNITS} independent units."


def _spoken(table: pd.DataFrame) -> str:
    return ", ".join(f"{row.who} at {_place(row.x)} {percent(row.value)}" for row in table.itertuples())


def _place(x: object) -> str:
    return number(x) if isinstance(x, float) else str(x)


def _published(name: str) -> pd.DataFrame:
    table = paper.experiment(name).dropna(subset=["x"])
    return table.assign(low=np.nan, high=np.nan)[["x", "who", "value", "low", "high"]]


def _shares_indexes(run: ProbeRun) -> bool:
    names = dict(zip(run.layers["layer"], run.layers["name"].astype(str), strict=True))
    return names.get(10, "").startswith(SD21_LAYERS)


def _profile(run: ProbeRun) -> Chart:
    ours = tables.profile(run)
    ours = ours[ours["model"] == run.model].sort_values("layer")
    shown = ours.assign(x=ours["layer"].astype(str), who=_model_here(run))[["x", "who", "value", "low", "high"]]
    known = (
        "Layer indexes mean the same place in the network on both sides: the model here has the layout of Stable "
        "Diffusion 2.1's U-Net."
        if _shares_indexes(run)
        else "Layer indexes do not mean the same place: this model has another layout."
    )
    caption = f"Precision layer by layer. {known}"
    return _beside(run, "profile", _published("layer_profile"), shown, "layer", caption)


def _model_here(run: ProbeRun) -> str:
    return f"{run.model} (here)"


def _rotation(run: ProbeRun) -> Chart:
    ours = rotation.rotation(run)
    ours = ours[(ours["who"] == f"layer {run.layer}") & ours["value"].notna()]
    shown = ours.assign(x=ours["rotation_bin"], who=_model_here(run))[["x", "who", "value", "low", "high"]]
    caption = (
        f"Precision by rotation between the cameras in degrees; here of layer {run.layer}. On both sides it should "
        "fall to the right: the published claim is that the signal is fragile."
    )
    return _beside(run, "rotation", _published("viewpoint"), shown, "rotation in degrees", caption)


def _emergence(run: ProbeRun) -> Chart | None:
    if run.emergence is None or run.emergence["step"].nunique() < 2:
        return None
    own = run.emergence[run.emergence["layer"] == run.layer].sort_values("step")
    shown = own.assign(x=own["step"].astype(float), who=_model_here(run))[["x", "who", "value", "low", "high"]]
    published = _published("emergence")
    caption = (
        f"Precision over training iterations; here of layer {run.layer}. Iterations do not compare: batch, size and "
        f"data differ. What may be compared is that both grow."
    )
    return _beside(run, "emergence", published.assign(x=published["x"].astype(float)), shown, "iterations", caption,
                   basis=words.probe_source(own))  # fmt: skip


def _table(run: ProbeRun) -> Table:
    """List the published viewpoint bins and, in a column of their own, the run's."""
    published = paper.experiment("viewpoint").pivot_table(index="x", columns="who", values="value", sort=False)
    table = rotation.rotation(run)
    own = table[table["who"] == f"layer {run.layer}"].set_index("rotation_bin")
    rows = [
        (
            bin_words(str(name)),
            *(percent(row[who]) for who in published.columns),
            with_interval(*own.loc[name, ["value", "low", "high"]]) if name in own.index else MISSING,
        )
        for name, row in published.iterrows()
    ]
    return Table(
        caption=f"Published precision at 2 cm on NAVI by rotation ({listing(published.columns)}), and in the last "
        f"column this run's by its own measure ({metric_words(run.metric)}).",
        columns=("rotation", *map(str, published.columns), f"here, layer {run.layer}"),
        rows=tuple(rows),
        wide=True,
    )

"""A training run in words: what was trained, how far, what it reached beside trivial baselines. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.training import run as training
from analysis.training.run import TrainingRun
from analysis.trivial import BEST, beats, best_in_row, marked
from analysis.words import (
    ANSWERS,
    MISSING,
    NBSP,
    amount,
    listing,
    number,
    percent,
    plural,
    points,
    short_name,
    with_interval,
)
from probe.records import (
    ATTENTION,
    HIGH_NOISE,
    IMAGE_METRICS,
    LOSS,
    METRICS,
    READOUT,
    better,
    digest,
    layer_column,
)

OBJECTIVES = {
    "cameo": "supervised by true matches (CAMEO",
    "repa-dsift": "trained to predict frozen DSIFT features (DSIFT in the place of REPA's encoder",
    "repa-dinov2": "trained to predict frozen DINOv2 features (REPA",
    "geometry": "trained to predict an encoding of the true points (geometry",
}


# --- names and numbers -----------------------------------------------------------------------------------------------


def loss_text(value: Any) -> str:
    """Write a loss with three significant digits, zeros too; a dash where it is missing.

    Args:
        value: A number, or None.
    """
    return MISSING if value is None or not np.isfinite(value) else f"{value:#.3g}".rstrip(".")


def model_words(run: TrainingRun) -> str:
    """Return the model's name, with a note if it began from random weights."""
    name = str(run.settings.get("model", "an unnamed model"))
    return f"{name.removesuffix(':random')}, from random weights," if name.endswith(":random") else name


def emergence_caption(run: TrainingRun, table: pd.DataFrame, layers: Sequence[int]) -> str:
    """Return how to read the curves of precision over iterations."""
    who = "the supervised" if set(layers) & set(run.supervised) else "the best at the last probe,"
    scenes = sorted(set(table["scenes"].astype(str))) if "scenes" in table else []
    probed = f"Always probed on the scenes \u201c{', '.join(scenes)}\u201d. " if scenes else ""
    return (
        "The share of query points of generated views for which a layer's strongest attention in a reference view "
        f"lies at the corresponding point. {probed}In colour: {who} {layer_words(run, layers)}; grey: the other 3D "
        f"layers; bands: 95{NBSP}% intervals; dotted: a uniform guess on the grid of layer {layers[0]}. "
        "Coarser grids have another chance level: see the table."
    )


def source(run: TrainingRun) -> str:
    """Return what the run's own evaluations are based on, for the line under their figures."""
    if run.worst is not None:
        views = run.worst[training.VIEW_COLUMNS].sort_values(training.VIEW_COLUMNS[:3])
        return (
            f"View list {digest(views)}: {plural(len(views), 'target view')} in "
            f"{plural(views['scene'].nunique(), 'held-out scene')} of {scenes_words(run)}, the same at each "
            f"evaluation, seed {run.settings.get('seed', MISSING)}. Evaluations while training follow no protocol of "
            "pairs and have no intervals; python -m train.evaluate gives them."
        )
    count = run.settings.get("evaluate_scenes")
    scenes = f"{plural(count, 'held-out scene')}" if isinstance(count, int) else "Held-out scenes"
    return (
        f"{scenes} of {scenes_words(run)}, the same at each evaluation, one value each; seed "
        f"{run.settings.get('seed', MISSING)}. Evaluations while training have no pair list and no intervals."
    )


def probe_source(table: pd.DataFrame) -> str:
    """Return what a curve of precision over iterations is based on, for the line under its figure."""
    scenes = sorted(set(table["scenes"].astype(str))) if "scenes" in table else [MISSING]
    if "pair_list" in table and table["pair_list"].notna().any():
        known = table[table["pair_list"].notna()]
        least, most = (number(end) for end in (known["count"].min(), known["count"].max()))
        return (
            f"Protocol {listing(sorted(set(known['protocol'])))}, {listing(sorted(set(known['metric'])))}, pair list "
            f"{listing(sorted(set(known['pair_list'])))} ({plural(int(known['scene_count'].max()), 'scene')} "
            f"\u201c{listing(scenes)}\u201d), intervals; counted points per layer: "
            f"{least if least == most else f'{least} to {most}'}."
        )
    return (
        f"Protocol attention-v1, scenes \u201c{listing(scenes)}\u201d, intervals; emergence.csv does "
        "not record the pair list or how many points were counted."
    )


def scenes_words(run: TrainingRun) -> str:
    """Return what was trained on: "plain scenes", or "the recording FOLDER"."""
    kind, _, root = str(run.settings.get("scenes", "unnamed")).partition(":")
    if kind == "rgbd":
        return f"the recording {root}"
    rooms = {"shapes": "scenes", "shapes-v1": "scenes of shapes-v1"}
    return f"{root or 'plain'} {rooms[kind]}" if kind in rooms else f"{kind} scenes"


def layer_words(run: TrainingRun, layers: Sequence[int]) -> str:
    """Return layers as in a sentence: "layer 10 (up 2.0)", with their place where a probe recorded it."""
    names = {} if run.emergence is None else dict(zip(run.emergence["layer"], run.emergence["layer_name"], strict=True))
    each = [f"{n} ({short_name(str(names[n]))})" if n in names else str(n) for n in layers]
    return f"layer{'' if len(each) == 1 else 's'} {listing(each)}"


def supervision(run: TrainingRun) -> str:
    """Return in a few words which layers were supervised and how, as the index shows it."""
    if not run.trains_layers:
        return "none"
    control = run.settings.get("control", "none")
    parts = [str(run.settings.get("objective", "cameo")), "" if control == "none" else f"{control} truth"]
    layers = listing(run.supervised) or str(run.settings["layer"])
    return ", ".join(part for part in parts if part) + f" at {layers}"


def progress(run: TrainingRun) -> str:
    """Return how far the training went: "4 000 iterations", "1 500 of 4 000 iterations"."""
    planned = run.settings.get("steps")
    short = isinstance(planned, int) and run.step < planned
    return f"{number(run.step)} of {plural(int(planned or 0), 'iteration')}" if short else plural(run.step, "iteration")


# --- the answer ------------------------------------------------------------------------------------------------------


def answer(run: TrainingRun) -> list[str]:
    """Return in sentences what was trained, how far, and what it reached; empty ones where nothing was measured."""
    return [
        _trained(run),
        _quality(run),
        _precision(run),
        _gap(run),
        _losses(run),
    ]


def _trained(run: TrainingRun) -> str:
    began = f"{model_words(run)} was trained on {scenes_words(run)} for {progress(run)}"
    if not run.trains_layers:
        single = ", one view at a time," if _single(run) else ""
        return f"{began}{single} on the diffusion objective alone; no layer was supervised."
    objective = str(run.settings.get("objective", "cameo"))
    layers = layer_words(run, run.supervised) if run.supervised else f"layer {run.settings['layer']}"
    texts = [f"{name} {str(run.settings[name]).replace('_', ' ')}" for name in ("weight", "mixing", "truth", "target")
            if name in run.settings and (name == "weight" or objective == "cameo")]  # fmt: skip
    how = OBJECTIVES.get(objective, f"under an added objective ({objective}")
    return f"{began}, with {layers} {how}{'; ' if texts else ''}{', '.join(texts)}).{_control(run)}"


def _single(run: TrainingRun) -> bool:
    return bool(run.settings.get("views") == 1)


def _control(run: TrainingRun) -> str:
    control = run.settings.get("control", "none")
    if control == "shuffled":
        return " This is a control: every scene was given another scene's matches, which must not help."
    return "" if control == "none" else f" This is a control: {control}."


def _quality(run: TrainingRun) -> str:
    names = training.measured(run)
    if not names and _single(run):
        return "Single views have no reference, so its samples have no true views to be compared with."
    if not names:
        return "Its samples have not been measured yet." if run.step else "No step has been logged yet."
    first, *others = [(name, row) for name in names if (row := training.last_row(run, name)) is not None]
    name, row = first
    texts = [f"{METRICS[name].title} {with_mark(name, row)} {beside(name, row)}".strip() for name, row in others]
    rest = f" Further: {listing(texts)}." if texts else ""
    return (
        f"At iteration {number(row['step'])} its samples of held-out scenes have a {METRICS[name].title} of "
        f"{amount(name, row[name])}: {_against(name, row)}.{rest}{_judgement([first, *others])}"
    )


def with_mark(name: str, row: pd.Series) -> str:
    """Write an image metric, marked where it does not beat the best trivial baseline: "12.1 dB †".

    Args:
        name: Of the metric.
        row: Of the evaluation.
    """
    return marked(amount(name, row[name]), name, row[name], best_in_row(name, row))


def beside(name: str, row: pd.Series) -> str:
    """Write the best trivial baseline of a metric: "(best trivial baseline 12.3 dB, mean colour)"; else nothing.

    Args:
        name: Of the metric.
        row: Of the evaluation.
    """
    best = best_in_row(name, row)
    return "" if best is None else f"({BEST} {amount(name, best.value)}, {best.method})"


def with_trivial(name: str, row: pd.Series | dict[Any, Any]) -> str:
    """Write a metric with the best trivial baseline, short: "15.0 (12.3)"; marked where it does not beat it.

    Args:
        name: Of the metric.
        row: Of the evaluation.
    """
    digits, best = METRICS[name].digits, best_in_row(name, row)
    trivial = MISSING if best is None else f"{best.value:.{digits}f}"
    return marked(f"{row[name]:.{digits}f} ({trivial})", name, row[name], best)


def _against(name: str, row: pd.Series) -> str:
    best = best_in_row(name, row)
    if best is None:
        return "no trivial baseline was measured beside it"
    lead = better(name) * (float(row[name]) - best.value)
    order = "better than" if lead > 0 else "worse than" if lead < 0 else "equal to"
    return f"{order} the {BEST}, {ANSWERS[best.method]} ({amount(name, best.value)})"


def _judgement(measured: Sequence[tuple[str, pd.Series]]) -> str:
    """Name the measures by which a trivial baseline is as good; say so too where none is."""
    compared = [(name, row) for name, row in measured if best_in_row(name, row)]
    lost = [METRICS[name].title for name, row in compared if not beats(name, row[name], best_in_row(name, row))]
    if lost:
        return f" By {listing(lost)} a trivial baseline is as good or better."
    return " They beat the trivial baselines by every measure taken." if len(compared) == len(measured) else ""


def _precision(run: TrainingRun) -> str:
    layers = training.shown_layers(run)
    if run.emergence is None or not layers:
        return ""
    table = run.emergence[run.emergence["step"] == run.emergence["step"].max()].set_index("layer")
    layer = table.loc[layers, "value"].idxmax() if table.loc[layers, "value"].notna().any() else layers[0]
    row = table.loc[layer]
    name = layer_words(run, [int(layer)])
    finds = "finds the corresponding point"
    began = f"The supervised {name} {finds}" if layer in run.supervised else f"Of all layers {name} {finds} most often:"
    text = (
        f"{began} for {with_interval(row['value'], row['low'], row['high'])} of the query points, where a uniform "
        f"guess finds {percent(row['chance'])}."
    )
    return text + ("" if row["low"] > row["chance"] else " Its interval does not lie above that guess.")


def _gap(run: TrainingRun) -> str:
    gaps = readout_gaps(run)
    if not gaps:
        return ""
    each = [
        f"at layer {layer} the readout is right for {percent(readout)} of the queries and the attention for "
        f"{percent(attention)}, a gap of {points(readout - attention)} points"
        for layer, (readout, attention) in gaps.items()
    ]
    ahead = max(readout - attention for readout, attention in gaps.values()) > 0
    texts = (
        "That lead is due to the loss's own mixing of the heads, not the attention that the model uses."
        if ahead
        else "The attention that the model uses is as good as what the loss reads out of it."
    )
    return f"Readout gap: {'; '.join(each)}. {texts}"


def readout_gaps(run: TrainingRun) -> dict[int, tuple[float, float]]:
    """Return the last precision of each supervised layer, by readout and by attention, where both are known."""
    gaps = {}
    for layer in run.supervised:
        row = training.last_row(run, layer_column(READOUT, layer))
        if row is not None and np.isfinite(row.get(layer_column(ATTENTION, layer), np.nan)):
            gaps[layer] = (float(row[layer_column(READOUT, layer)]), float(row[layer_column(ATTENTION, layer)]))
    return gaps


def _losses(run: TrainingRun) -> str:
    last = training.last_row(run, LOSS)
    if last is None:
        return ""
    first = run.evaluation.dropna(subset=["loss"]).iloc[0]
    text = f"The mean error on held-out scenes {_moved(first, last, 'loss')}"
    if np.isfinite(last.get(HIGH_NOISE, np.nan)):
        text += f"; at high noise (t{NBSP}={NBSP}900) it {_moved(first, last, HIGH_NOISE)}"
    return text + "."


def _moved(first: pd.Series, last: pd.Series, column: str) -> str:
    if first["step"] == last["step"] or not np.isfinite(first[column]):
        return f"is {loss_text(last[column])} at iteration {number(last['step'])}"
    verb = "fell" if last[column] < first[column] else "rose" if last[column] > first[column] else "stayed"
    since = f"(iteration {number(first['step'])})"
    return f"{verb} from {loss_text(first[column])} {since} to {loss_text(last[column])}"


# --- caveats ---------------------------------------------------------------------------------------------------------


def caveats(run: TrainingRun) -> list[str]:
    """Return the limits of the numbers, in sentences."""
    sentences = [
        f"This is one run with seed {run.settings.get('seed', MISSING)}: a difference to another run means little "
        "until both are repeated with more seeds."
    ]
    sentences += [f"The last line of {name} was cut off and is left out." for name in run.torn]
    planned = run.settings.get("steps")
    if not run.finished and isinstance(planned, int) and run.step < planned:
        sentences.append(f"The run is not finished: {progress(run)} so far.")
    if len(run.evaluation) == 1:
        sentences.append("There is one evaluation only, so nothing can be said of where it is going.")
    if training.measured(run):
        count = run.settings.get("evaluate_scenes")
        scenes = f"{plural(count, 'held-out scene')}" if isinstance(count, int) else "a few held-out scenes"
        sentences.append(f"Image quality is a mean over {scenes}, without intervals.")
        lost = [METRICS[name].title for name in IMAGE_METRICS if training.last_row(run, name) is None]
        sentences += [f"Not measured: {listing(lost)}."] if lost else []
    if run.trains_layers and run.emergence is None:
        sentences.append("No layer was probed (emergence.csv is absent), so precision has no chance level beside it.")
    if HIGH_NOISE in run.evaluation:
        sentences.append("The mean loss is dominated by small t, where the image shows through the noise; what a model "
                    "takes from other views shows at high noise.")  # fmt: skip
    return sentences

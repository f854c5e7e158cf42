"""Image quality by rotation: plain, supervised, and what needs no model at all."""

import numpy as np
import pandas as pd

from analysis.blocks import Section
from analysis.blocks import chart as with_table
from analysis.study.claims import figures
from analysis.study.claims.claim import NOT_SHOWN, SHOWN, Claim, judge, together
from analysis.study.claims.figures import Panel
from analysis.study.claims.parts import Parts
from analysis.study.run import StudyRun
from analysis.study.seeds import LEAST_SEEDS, half_interval
from analysis.study.words import difference_text
from analysis.trivial import BEST
from analysis.words import METHOD_LABELS, MISSING, NBSP, bin_words, listing, number, plural
from probe.records import ALL_ROTATIONS, MATCH_ERROR, METRICS, MODEL, PSNR, SSIM, TRIVIAL, better, rotation_bin_names
from probe.records.names import PLAIN

SHOWN_METRICS = (PSNR, SSIM, MATCH_ERROR)


def quality_claim(run: StudyRun, parts: Parts) -> Claim | None:
    """Draw image quality by rotation; compare it with plain over seeds, and with trivial baselines over scenes."""
    rows = parts.summaries
    rows = rows[(rows["n_ref"] == rows["n_ref"].min()) & rows["metric"].isin(SHOWN_METRICS) & rows["value"].notna()]
    if rows.empty:
        return None
    table = pd.concat([_models(rows), _trivial(rows)], ignore_index=True)
    bins = [name for name in rotation_bin_names() if name in set(rows["rotation_bin"])]
    metrics = [name for name in SHOWN_METRICS if name in set(table["panel"])]
    frames = [Panel(title=METRICS[name].heading, xlabel="rotation against view 0", table=_frame(table, name, bins),
                    percent=False) for name in metrics]  # fmt: skip
    whos = list(dict.fromkeys(table["who"]))
    svg = figures.grouped(
        frames, styles={who: figures.style_of(who) for who in whos}, name="claim-quality", columns=3,
        alt="Image quality by rotation. " + "; ".join(
            f"{METRICS[row.panel].title}, {row.who}, {row.x}: {row.value:.3g}"
            for row in table[table["x"] == ALL_ROTATIONS].itertuples()
        ),
    )  # fmt: skip
    seeds = rows.groupby("variant", sort=False)["seed"].nunique()
    scenes = int(rows.loc[rows["rotation_bin"].isin(bins), "scenes"].min()) if bins else 0
    caption = (
        f"Means over seeds with 95{NBSP}% intervals over seeds, where there are {LEAST_SEEDS}; the scenes are the same "
        "for all. Strokes: trivial baselines on these scenes, which need no model."
    )
    each = listing(f"{plural(int(count), 'seed')} of {name}" for name, count in seeds.items())
    source = (
        f"python -m train.evaluate of final weights: {each}; "
        f"at least {plural(scenes, 'scene')} in each rotation bin, {plural(int(rows['n_ref'].min()), 'reference')}."
    )
    gains = _gains(rows, bins, run.names)
    return Claim(
        verdict=together(judge(row.low, row.high) for row in gains.itertuples()),
        number=_number(gains),
        section=Section(
            name="quality",
            title="Image quality by rotation",
            claim=_gain_words(gains) or _lead_words(parts.leads, rows),
            text=_lead_words(parts.leads, rows) if len(gains) else "",
            charts=(with_table("claim-quality", svg, caption, source=source, table=table, file="study_quality.csv"),),
        ),
    )


def _models(rows: pd.DataFrame) -> pd.DataFrame:
    """Average each variant over seeds: columns panel, who, x, value, low, high."""
    own = rows[rows["method"] == MODEL].groupby(["metric", "variant", "rotation_bin"], sort=False)["value"]
    table = own.agg(["mean", "std", "count"]).reset_index()
    half = half_interval(table["std"].to_numpy(), table["count"].to_numpy())
    table = table.assign(low=table["mean"] - half, high=table["mean"] + half)
    return table.rename(columns={"metric": "panel", "variant": "who", "rotation_bin": "x", "mean": "value"})[
        ["panel", "who", "x", "value", "low", "high"]
    ].sort_values("who", key=lambda who: who != PLAIN, kind="stable")


def _trivial(rows: pd.DataFrame) -> pd.DataFrame:
    first = rows[(rows["variant"] == rows["variant"].iloc[0]) & (rows["seed"] == rows["seed"].iloc[0])]
    first = first[first["method"].isin(TRIVIAL)]
    table = first.assign(panel=first["metric"], who=first["method"].map(METHOD_LABELS), low=np.nan, high=np.nan)
    return table.rename(columns={"rotation_bin": "x"})[["panel", "who", "x", "value", "low", "high"]]


def _frame(table: pd.DataFrame, name: str, bins: list[str]) -> pd.DataFrame:
    order = {place: n for n, place in enumerate([*bins, ALL_ROTATIONS])}
    part = table[(table["panel"] == name) & table["x"].isin(order)]
    part = part.sort_values("x", key=lambda x: x.map(order), kind="stable")
    return part.assign(x=[place if place == ALL_ROTATIONS else bin_words(place) for place in part["x"]])


# --- what is said ----------------------------------------------------------------------------------------------------


def _gains(rows: pd.DataFrame, bins: list[str], names: list[str]) -> pd.DataFrame:
    """Compare PSNR with plain's of the same seed in each bin: ends for all bins and variants at once.

    Columns who, rotation_bin, value, low, high, seeds.
    """
    own = rows[(rows["method"] == MODEL) & (rows["metric"] == PSNR)]
    wide = own.pivot_table(index=["seed", "rotation_bin"], columns="variant", values="value", sort=False)
    others = [name for name in names if name in wide and name != PLAIN] if PLAIN in wide else []
    found = []
    for name in others:
        for place in bins:
            gap = (wide[name] - wide[PLAIN]).xs(place, level="rotation_bin").dropna() * better(PSNR)
            half = float(half_interval(gap.std(), len(gap), max(1, len(bins) * len(others))))
            found.append((name, place, gap.mean(), gap.mean() - half, gap.mean() + half, len(gap)))
    columns = ["who", "rotation_bin", "value", "low", "high", "seeds"]
    return pd.DataFrame(found, columns=columns)


def _amount(row: pd.Series) -> str:
    spread = (
        f" ({difference_text(PSNR, row['low'])} to {difference_text(PSNR, row['high'])})"
        if np.isfinite(row["low"])
        else ""
    )
    return f"{difference_text(PSNR, row['value'])}{NBSP}dB{spread}"


def _number(gains: pd.DataFrame) -> str:
    if gains.empty:
        return MISSING
    least = gains.sort_values("value", kind="stable").iloc[0]
    return f"{least['who']}, {bin_words(least['rotation_bin'])}: {_amount(least)}"


def _gain_words(gains: pd.DataFrame) -> str:
    texts = []
    for who, part in gains.groupby("who", sort=False):
        verdicts = [judge(row.low, row.high) for row in part.itertuples()]
        least = part.sort_values("value", kind="stable").iloc[0]
        texts.append(
            f"{who} is shown to be better than {PLAIN} in {verdicts.count(SHOWN)} of {len(part)} rotation bins"
            f"{_worse(len(part) - verdicts.count(SHOWN) - verdicts.count(NOT_SHOWN))}, least at "
            f"{bin_words(least['rotation_bin'])}: {_amount(least)}"
        )
    if not texts:
        return ""
    seeds = number(gains["seeds"].min()) if gains["seeds"].min() == gains["seeds"].max() else (
        f"{gains['seeds'].min()} to {gains['seeds'].max()}"
    )  # fmt: skip
    return f"By PSNR {'; '.join(texts)}. Paired by seed ({seeds}), for all bins and variants at once."


def _worse(count: int) -> str:
    return f" and worse in {count}" if count else ""


def _lead_words(leads: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Write in which bins plain beats the best trivial baseline, over scenes; the ends are means over seeds."""
    own = leads[(leads["variant"] == PLAIN) & (leads["metric"] == PSNR) & (leads["n_ref"] == rows["n_ref"].min())]
    if own.empty:
        return ""
    each = own.groupby(["rotation_bin", "method"], sort=False)[["value", "low", "high"]].mean().reset_index()
    least = each.sort_values("value", kind="stable").groupby("rotation_bin", sort=False).first()
    surest = each.groupby("rotation_bin")["low"].min()  # above the better of the two only if above both
    beaten = [name for name in rotation_bin_names() if surest.get(name, 0) > 0]
    shown = listing(f"{bin_words(name)} ({_amount(least.loc[name])})" for name in beaten) or "no bin"
    scenes = plural(int(own["units"].min()), "scene")
    return f"{PLAIN} is above the {BEST} in {shown}; over at least {scenes} in each bin, for all bins at once."

"""The study of variants and seeds, on hand-made run folders: no training."""

import json
import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from probe.cli import parse
from probe.correspondence.noise import read_noise
from train.flags import Command
from train.study import cli
from train.studying import running
from train.studying.comparison import (
    BY_THE_FIRST,
    NEVER,
    NO_GOAL,
    NO_PLAIN,
    Finished,
    average_reach,
    average_seeds,
    compare,
    first_reach,
    higher_is_better,
    is_finished,
    last_step,
    reach_table,
    read_finished,
    settings_table,
    styles,
)
from train.studying.running import last_words
from train.studying.running import run_study as main
from train.studying.variants import NOISE, VARIANTS, Run, Study, arguments, plan

STEPS = (10, 20, 30)
TRIVIAL = {"copy_psnr": 11.0, "mean_colour_psnr": 12.0, "copy_ssim": 0.4, "mean_colour_ssim": 0.5}


def make_run(folder: Path, psnr: Sequence[float], steps: Sequence[int] = STEPS, **settings: object) -> None:
    """Write a finished run whose PSNR is given; its loss falls as PSNR rises, its layer 12 matches at psnr / 100."""
    (folder / "final").mkdir(parents=True)
    (folder / "final" / "card.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"settings": {"out": str(folder), **settings}}))
    own = [{"loss": 1 / value, "loss_t900": 2 / value, "psnr": value, "ssim": value / 20} for value in psnr]
    rows = [{"step": step, "loss_t100": 0.5, **row, **TRIVIAL} for step, row in zip(steps, own, strict=True)]
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    precision = [
        f"{step},{layer},{value / 100}\n" for step, value in zip(steps, psnr, strict=True) for layer in (10, 12)
    ]
    (folder / "emergence.csv").write_text("step,layer,value\n" + "".join(precision))


def finished(variant: str, seed: int, curves: dict[str, Sequence[float]], steps: Sequence[int] = STEPS, **own: object):
    rows = [
        {"step": step, "metric": metric, "value": value}
        for metric, values in curves.items()
        for step, value in zip(steps, values, strict=True)
    ]
    return Finished(variant=variant, seed=seed, settings={"seed": seed, **own}, values=pd.DataFrame(rows))


def table(*runs: Finished) -> pd.DataFrame:
    return compare(runs).study


def reach_of(reach: pd.DataFrame, variant: str, metric: str, seed: int = 0) -> pd.Series:
    found = reach[(reach["variant"] == variant) & (reach["metric"] == metric) & (reach["seed"] == seed)]
    assert len(found) == 1
    return found.iloc[0]


# --- when a curve reaches a goal -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "goal", "higher", "expected", "note"),
    [
        ((8, 10, 14), 11, True, 22.5, ""),  # a quarter of the way from 20 to 30
        ((0.8, 0.5, 0.1), 0.2, False, 27.5, ""),  # three quarters of it, downwards
        ((8, 10, 14), 10, True, 20, ""),  # a tie reaches
        ((8, 10, 14), 8, True, 10, BY_THE_FIRST),
        ((8, 10, 14), 5, True, 10, BY_THE_FIRST),
        ((8, 12, 9), 11, True, 17.5, ""),  # the first time counts, though it falls again
        ((8, math.nan, 12), 10, True, 20, ""),  # what was not measured is bridged
        ((math.nan, 8, 12), 8, True, 20, BY_THE_FIRST),
    ],
)
def test_reach_by_hand(values: Sequence[float], goal: float, higher: bool, expected: float, note: str):
    step, found = first_reach(np.array(STEPS), np.array(values, dtype=float), float(goal), higher=higher)
    assert step == pytest.approx(expected, abs=1e-12)
    assert found == note


@pytest.mark.parametrize(("values", "higher"), [((8, 9, 10), True), ((5, 4, 12), False), ((math.nan,) * 3, True)])
def test_a_goal_that_is_never_reached_is_nan_with_its_reason(values: Sequence[float], higher: bool):
    step, note = first_reach(np.array(STEPS), np.array(values, dtype=float), 11.0 if higher else 3.0, higher=higher)
    assert math.isnan(step)
    assert note == NEVER


def test_every_metric_knows_its_better_way():
    better = {name: higher_is_better(name) for name in ("psnr", "ssim", "precision_12", "precision_3")}
    worse = {name: higher_is_better(name) for name in ("loss", "loss_t900", "match_error")}
    assert set(better.values()) == {True}
    assert set(worse.values()) == {False}
    assert {higher_is_better(name) for name in ("readout_12", "attention_12", "copy_psnr")} == {None}


def test_reach_is_measured_against_the_plain_run_of_the_same_seed():
    reach = reach_table(
        table(
            finished("plain", 0, {"psnr": (6, 8, 10), "loss": (5, 4, 3)}),
            finished("plain", 1, {"psnr": (6, 8, 20), "loss": (5, 4, 1)}),
            finished("cameo", 0, {"psnr": (8, 12, 14), "loss": (4, 2, 1)}),
            finished("cameo", 1, {"psnr": (8, 12, 14), "loss": (4, 2, 1)}),
        )
    )
    first, second = (reach_of(reach, "cameo", "psnr", seed) for seed in (0, 1))
    assert (first["goal"], first["step"], first["ratio"], first["note"]) == (10, 15, 0.5, "")
    assert second["goal"] == 20
    assert second["note"] == NEVER
    assert np.isnan([second["step"], second["ratio"]]).all()
    assert reach_of(reach, "cameo", "loss")["ratio"] == 0.5
    assert reach_of(reach, "cameo", "loss", 1)["ratio"] == 1.0  # a tie at the last step
    assert reach_of(reach, "plain", "psnr", 1)["ratio"] == 1.0


def test_reach_says_why_it_is_missing():
    reach = reach_table(
        table(
            finished("plain", 0, {"psnr": (6, 8, 10), "loss": (5, 4, math.nan)}),
            finished("cameo", 0, {"psnr": (6, 8, 9), "loss": (5, 4, 3), "readout_12": (0.1, 0.2, 0.3)}),
            finished("cameo", 1, {"psnr": (6, 8, 9)}),
        )
    )
    assert reach_of(reach, "cameo", "loss")["note"] == NO_GOAL
    assert reach_of(reach, "cameo", "psnr", 1)["note"] == NO_PLAIN
    assert reach_of(reach, "cameo", "psnr")["note"] == NEVER
    assert reach["ratio"].isna()[reach["variant"] == "cameo"].all()
    assert "readout_12" not in set(reach["metric"])


finite = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@given(
    pairs=st.lists(st.tuples(finite, st.floats(0, 10)), min_size=1, max_size=8),
    gap=st.integers(1, 500),
    metric=st.sampled_from(["psnr", "loss", "precision_12"]),
)
@settings(max_examples=50, deadline=None)
def test_a_curve_that_is_never_worse_reaches_the_goal_in_time(pairs: list[tuple[float, float]], gap: int, metric: str):
    """Its ratio is at most the plain run's own, which is at most 1; never NaN."""
    sign, steps = (1 if higher_is_better(metric) else -1), [gap * (place + 1) for place in range(len(pairs))]
    plain = [value for value, _ in pairs]
    better = [value + sign * lead for value, lead in pairs]
    runs = finished("plain", 0, {metric: plain}, steps), finished("cameo", 0, {metric: better}, steps)
    reach = reach_table(table(*runs))
    own, ratio = (reach_of(reach, variant, metric)["ratio"] for variant in ("plain", "cameo"))
    assert 0 < ratio <= own + 1e-12
    assert own <= 1


@given(values=st.lists(finite, min_size=1, max_size=8), goal=finite, higher=st.booleans())
@settings(max_examples=50, deadline=None)
def test_reach_is_the_same_upside_down_and_lies_on_the_curve(values: list[float], goal: float, higher: bool):
    steps, curve = np.arange(1, len(values) + 1) * 10, np.array(values)
    step, note = first_reach(steps, curve, goal, higher=higher)
    np.testing.assert_equal(first_reach(steps, -curve, -goal, higher=not higher), (step, note))
    if not note:
        assert np.interp(step, steps, curve) == pytest.approx(goal, abs=1e-6)


def test_average_reach_counts_who_reached():
    reach = pd.DataFrame(
        {
            "variant": ["cameo"] * 4 + ["mean"],
            "metric": ["psnr"] * 5,
            "goal": [1.0, 1.0, 1.0, math.nan, 1.0],
            "ratio": [0.5, 0.25, math.nan, math.nan, math.nan],
            "note": ["", BY_THE_FIRST, NEVER, NO_PLAIN, NEVER],
        }
    )
    cameo, mean = (row for _, row in average_reach(reach).iterrows())
    assert (cameo["ratio"], cameo["reached"], cameo["seeds"], cameo["at_most"]) == (0.375, 2, 3, True)
    assert math.isnan(mean["ratio"])
    assert (mean["reached"], mean["seeds"], mean["at_most"]) == (0, 1, False)


# --- means over seeds ------------------------------------------------------------------------------------------------


@given(values=st.lists(finite, min_size=3, max_size=6).filter(lambda values: np.std(values) > 1e-3))
@settings(max_examples=30, deadline=None)
def test_intervals_are_those_of_scipy(values: list[float]):
    row = average_seeds(
        table(*(finished("plain", seed, {"psnr": [value]}, [10]) for seed, value in enumerate(values)))
    ).iloc[0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["count"] == len(values)


def test_an_interval_by_hand():
    """Of 1, 2, 3: s = 1, t(.975, 2) = 4.302653, so 2 -+ 4.302653 / sqrt(3)."""
    row = average_seeds(table(*(finished("plain", seed, {"psnr": [seed + 1.0]}, [10]) for seed in range(3)))).iloc[0]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((2, -0.484138, 4.484138), abs=1e-6)


def test_two_seeds_have_no_interval_and_a_missing_value_does_not_count():
    runs = [finished("plain", seed, {"psnr": [value]}, [10]) for seed, value in enumerate((1.0, 3.0, math.nan))]
    row = average_seeds(table(*runs)).iloc[0]
    assert (row["mean"], row["count"]) == (2, 2)
    assert np.isnan([row["low"], row["high"]]).all()
    nothing = average_seeds(table(*runs[2:])).iloc[0]
    assert math.isnan(nothing["mean"])
    assert nothing["count"] == 0


def test_settings_tell_variants_apart_and_refuse_what_does_not_belong_together():
    one = {"psnr": (1.0, 2.0, 3.0)}
    plain = finished("plain", 0, one, layer="none", mixing="mlp", layers=[], batch_size=3)
    mean = finished("mean", 0, one, layer="12", mixing="mean", layers=["up.2", "up.3"], batch_size=3)
    found = settings_table([plain, mean])
    assert list(found.columns) == ["variant", "layer", "mixing", "layers"]
    assert found.set_index("variant").loc["mean"].tolist() == ["12", "mean", "up.2 up.3"]
    with pytest.raises(ValueError, match=r"runs of mean differ in \['mixing'\] \(seed 1"):
        settings_table(
            [plain, mean, finished("mean", 1, one, layer="12", mixing="mlp", layers=["up.2", "up.3"], batch_size=3)]
        )


# --- run folders -----------------------------------------------------------------------------------------------------


def test_a_run_is_read_as_one_long_table(tmp_path: Path):
    make_run(tmp_path / "run", (8, 9, 10), layer="12")
    values = read_finished(tmp_path / "run", "cameo", 3).values
    last = values[values["step"] == 30].set_index("metric")["value"]
    assert last.to_dict() == pytest.approx(
        {"loss": 0.1, "loss_t900": 0.2, "psnr": 10, "ssim": 0.5, "precision_10": 0.1, "precision_12": 0.1, **TRIVIAL}
    )


def test_finished_is_the_last_step_evaluated_and_the_weights_saved(tmp_path: Path):
    make_run(tmp_path, (8, 9, 10))
    assert is_finished(tmp_path, 30)
    assert not is_finished(tmp_path, 40)
    log = tmp_path / "evaluation.jsonl"
    log.write_text(log.read_text()[:-5])  # the last row cut off
    assert not is_finished(tmp_path, 30)
    assert last_step(log) == 20
    make_run(tmp_path / "other", (8, 9, 10))
    (tmp_path / "other" / "final" / "card.json").unlink()
    assert not is_finished(tmp_path / "other", 30)
    assert not is_finished(tmp_path / "absent", 30)


def test_a_broken_run_is_refused_by_name(tmp_path: Path):
    make_run(tmp_path, (8, 9, 10))
    (tmp_path / "evaluation.jsonl").write_text("[]\n")
    with pytest.raises(ValueError, match=r"last_step: the last row of .*evaluation\.jsonl has no step"):
        is_finished(tmp_path, 30)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"read_finished: .* is not a whole training run \(KeyError"):
        read_finished(tmp_path, "plain", 0)


# --- the command -----------------------------------------------------------------------------------------------------

PSNR = {"plain": (6, 8, 10), "cameo": (8, 12, 14), "mean": (9, 12, 15), "other-layer": (6, 7, 9)}


class FakeTrainer:
    """Stand in for python -m train.cameo: write a run's folder at once; fail where told."""

    def __init__(self, fails: Sequence[str] = (), silent: Sequence[str] = ()):
        self.fails, self.silent, self.calls = fails, silent, list[list[str]]()

    def __call__(self, flags: Sequence[str], threads: int) -> tuple[int, str]:
        self.calls.append(list(flags))
        assert threads >= 1
        given = {flag: value for flag, value in pairwise(flags) if flag.startswith("--")}
        out = Path(given["--out"])
        if out.name in self.fails:
            return 2, "50%|##   | 1/2\rpython -m train.cameo: the loss is nan at step 7\n\n"
        if out.name not in self.silent:
            variant, seed = out.name.rsplit("-seed", 1)
            psnr = [value + int(seed) / 10 for value in PSNR[variant]]
            make_run(out, psnr, layer=given["--layer"], mixing=given.get("--mixing", "mlp"), seed=int(seed))
        return 0, "bar\n"

    @property
    def names(self) -> list[str]:
        return [Path(flags[flags.index("--out") + 1]).name for flags in self.calls]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch):
    """The layers of the network are checked once, below, and the page is built once: each takes a second or more."""
    monkeypatch.setattr("analysis.report.refresh", lambda out: out)
    monkeypatch.setattr(running, "check_layers", lambda study, runs: None)


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Study]:
    def make(**changed: object) -> Study:
        wanted = {
            "variants": "plain,cameo,mean",
            "seeds": "0,1,2",
            "steps": 30,
            "evaluate_every": 10,
            "probe_every": 10,
        }
        return Study(**{**wanted, "out": tmp_path / "study", **changed})  # type: ignore[arg-type]

    return make


def test_a_study_trains_seed_by_seed_and_leaves_tables_and_a_figure(small, capsys: pytest.CaptureFixture):
    asked, trainer = small(), FakeTrainer()
    main(asked, trainer)
    assert trainer.names == [f"{variant}-seed{seed}" for seed in range(3) for variant in ("plain", "cameo", "mean")]
    tables = {name: pd.read_csv(asked.out / f"{name}.csv") for name in ("study", "summary", "reach", "settings")}
    assert list(tables["study"].columns) == ["variant", "seed", "step", "metric", "value"]
    assert list(tables["summary"].columns) == ["variant", "step", "metric", "mean", "low", "high", "count"]
    assert list(tables["reach"].columns) == ["variant", "seed", "metric", "goal", "step", "ratio", "note"]
    assert tables["settings"].set_index("variant").loc["mean"].tolist() == ["12", "mean"]
    assert reach_of(tables["reach"], "cameo", "psnr", 2)["ratio"] == pytest.approx(0.5)
    assert set(tables["summary"]["count"]) == {3}
    assert (asked.out / "study.png").read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr().out
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert f"14.10±{half:.2f}" in shown
    assert "0.50" in shown
    for name, value in (("copy", "11.00"), ("mean colour", "12.00")):
        assert value in next(line for line in shown.splitlines() if line.strip().startswith(name + "  "))
    assert "missing" not in shown


def test_a_study_has_a_page(small, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setattr(running, "check_layers", lambda study, runs: None)
    main(small(variants="plain", seeds="0"), FakeTrainer())
    assert (small().out / "report.html").is_file()


def test_a_finished_run_is_not_started_again(small):
    main(small(seeds="0"), FakeTrainer())
    again = FakeTrainer()
    main(small(seeds="0,1"), again)
    assert again.names == ["plain-seed1", "cameo-seed1", "mean-seed1"]
    third = FakeTrainer()
    main(small(seeds="0,1"), third)
    assert third.names == []


def test_a_later_call_keeps_the_runs_of_an_earlier_one(small):
    main(small(variants="plain", seeds="0"), FakeTrainer())
    main(small(variants="cameo", seeds="0"), FakeTrainer())
    reach = pd.read_csv(small().out / "reach.csv")
    assert reach_of(reach, "cameo", "psnr")["ratio"] == pytest.approx(0.5)


def test_a_failing_run_is_reported_and_the_others_go_on(small, capsys: pytest.CaptureFixture):
    trainer = FakeTrainer(fails=["cameo-seed0"], silent=["mean-seed1"])
    with pytest.raises(SystemExit) as stop:
        main(small(seeds="0,1"), trainer)
    assert stop.value.code == 1
    assert len(trainer.calls) == 6
    out, error = capsys.readouterr()
    assert "cameo-seed0 failed with exit code 2: python -m train.cameo: the loss is nan at step 7" in error
    missing = [line for line in out.splitlines() if line.startswith("missing")]
    assert [line.split(":")[1].strip() for line in missing] == ["cameo-seed0", "mean-seed1"]
    assert "the loss is nan" in missing[0]
    summary = pd.read_csv(small().out / "summary.csv")
    counts = summary[(summary["metric"] == "psnr") & (summary["step"] == 30)].set_index("variant")["count"]
    assert counts.to_dict() == {"plain": 2, "cameo": 1, "mean": 1}


def test_a_stopped_study_has_tables_of_what_is_finished_and_names_the_rest(small, capsys: pytest.CaptureFixture):
    asked = small(seeds="0")

    class Stopped(FakeTrainer):
        def __call__(self, flags: Sequence[str], threads: int) -> tuple[int, str]:
            if self.calls:
                while not (asked.out / "settings.csv").exists():
                    time.sleep(0.01)
                raise KeyboardInterrupt
            return super().__call__(flags, threads)

    trainer = Stopped()
    with pytest.raises(SystemExit) as stop:
        main(asked, trainer)
    assert stop.value.code == 1
    assert trainer.names == ["plain-seed0"]
    assert list(pd.read_csv(asked.out / "study.csv")["variant"].unique()) == ["plain"]
    out, error = capsys.readouterr()
    assert "stopped; the same command continues" in error
    lines = [line for line in out.splitlines() if line.startswith("missing")]
    assert lines == [f"missing: {variant}-seed0: not trained: stopped" for variant in ("cameo", "mean")]


def test_nothing_finished_leaves_no_table(small, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main(small(variants="plain", seeds="0"), FakeTrainer(fails=["plain-seed0"]))
    assert not (small().out / "study.csv").exists()
    assert "missing: plain-seed0" in capsys.readouterr().out


def test_jobs_train_the_same_runs(small):
    trainer = FakeTrainer()
    main(small(jobs=3), trainer)
    assert sorted(trainer.names) == sorted(run.name for run in plan(small()))
    assert pd.read_csv(small().out / "study.csv")["variant"].unique().tolist() == ["plain", "cameo", "mean"]


def test_the_other_layers_precision_is_shown_where_it_is_supervised(small, capsys: pytest.CaptureFixture):
    main(small(variants="plain,other-layer", seeds="0"), FakeTrainer())
    shown = capsys.readouterr().out
    assert "precision 12" in shown
    assert "precision 10" in shown
    assert "never" in shown


def test_every_variant_is_a_command_of_the_trainer(small):
    found = {}
    for variant in VARIANTS:
        words = arguments(small(layer=11, other_layer=8), Run(variant=variant, seed=4))
        asked = parse(Command, words, prog="test")
        assert (asked.seed, asked.steps, asked.resume, asked.report) == (4, 30, True, False)
        assert asked.out.name == f"{variant}-seed4"
        found[variant] = (asked.layer, asked.mixing, asked.truth, asked.control, asked.objective)
        assert asked.truth_noise == NOISE.get(variant)
        assert variant not in NOISE or any(vars(read_noise(asked.truth_noise)).values())
        assert asked.weight == (0.5 if variant in ("repa-dsift", "geometry") else 0.02)
    assert found == {
        **dict.fromkeys(NOISE, ("11", "mlp", "cycle", "none", "cameo")),
        "plain": ("none", "mlp", "cycle", "none", "cameo"),
        "cameo": ("11", "mlp", "cycle", "none", "cameo"),
        "other-layer": ("8", "mlp", "cycle", "none", "cameo"),
        "mean": ("11", "mean", "cycle", "none", "cameo"),
        "positive": ("11", "positive", "cycle", "none", "cameo"),
        "visible": ("11", "mlp", "visible", "none", "cameo"),
        "gated": ("11", "mlp", "gated", "none", "cameo"),
        "shuffled": ("11", "mlp", "cycle", "shuffled", "cameo"),
        "repa-dsift": ("11", "mlp", "cycle", "none", "repa-dsift"),
        "geometry": ("11", "mlp", "cycle", "none", "geometry"),
    }


def test_scenes_are_passed_on_where_they_are_named(small):
    run = Run(variant="plain", seed=0)
    assert "--scenes" not in arguments(small(), run)
    words = arguments(small(scenes="rgbd:kitchen#525"), run)
    assert parse(Command, words, prog="test").scenes == "rgbd:kitchen#525"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--variants", "plain,camel"), "camel is unknown; choose different ones from plain, cameo"),
        (("--variants", "plain,plain"), "names one twice"),
        (("--seeds", "0,-1"), "--seeds '0,-1': expected different whole numbers of 0 or more"),
        (("--seeds", "0,0"), "expected different whole numbers"),
        (("--seeds", ""), "expected different whole numbers"),
        (("--jobs", "0"), "--jobs 0: expected at least 1"),
        (("--steps", "0"), "--steps 0: expected at least 1"),
        (("--layer", "10"), "--other-layer 10: is --layer too"),
        (("--probe-every", "3"), "--probe-every 3: expected a multiple of --evaluate-every"),
        (("--device", "tpu"), "tpu"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    flags: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as stop:
        cli([*flags, "--out", str(tmp_path / "study")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert expected in error
    assert not (tmp_path / "study").exists()


def test_a_layer_within_views_is_refused_before_anything_is_written(small, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"--layer layer 0, .*expected a layer that joins views on a grid"):
        main(small(layer=0), FakeTrainer())
    assert not small().out.exists()


def test_a_folder_refuses_other_settings_and_a_second_study(small):
    main(small(seeds="0"), FakeTrainer())
    with pytest.raises(ValueError, match=r"other values of \['batch_size'\]"):
        main(small(seeds="0", batch_size=4), FakeTrainer())
    with (
        running.alone(small().out),
        pytest.raises(ValueError, match="another study, or a run that it left"),
    ):
        main(small(seeds="0"), FakeTrainer())


def test_more_steps_continue_finished_runs(small):
    main(small(seeds="0", variants="plain"), FakeTrainer())
    longer = FakeTrainer(silent=["plain-seed0"])
    with pytest.raises(SystemExit):  # this trainer trains nothing, so the run stays behind
        main(small(seeds="0", variants="plain", steps=40), longer)
    assert longer.names == ["plain-seed0"]
    assert {"--resume", "40"} <= set(longer.calls[0])


def test_a_real_process_gives_its_exit_code_and_last_words():
    code, words = running.run_process(["--steps", "none"], 1)
    assert code == 2
    assert last_words(words).startswith("python -m train.cameo: ")
    assert last_words("\n \n") == "no output"


def test_variants_look_different_and_alike_in_every_study():
    looks = styles(list(VARIANTS))
    assert len({tuple(look.values()) for look in looks.values()}) == len(VARIANTS)
    assert len({look["marker"] for look in looks.values()}) == len(VARIANTS)


def test_the_terminal_says_when_a_ratio_is_a_bound_and_who_reached(tmp_path: Path):
    runs = [finished("plain", seed, {"psnr": (6, 8, 10)}) for seed in (0, 1)]
    runs += [finished("cameo", 0, {"psnr": (11, 12, 13)}), finished("cameo", 1, {"psnr": (1, 2, 3)})]
    console = Console(width=120, record=True)
    console.print(running.reach_view(compare(runs), ["psnr"]))
    assert "≤ 0.33 (1/2)" in console.export_text()


def test_threads_are_shared_out(small, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    seen: list[int] = []

    def trainer(flags: Sequence[str], threads: int) -> tuple[int, str]:
        seen.append(threads)
        return FakeTrainer()(flags, threads)

    main(small(jobs=3, seeds="0"), trainer)
    assert seen == [5, 5, 5]

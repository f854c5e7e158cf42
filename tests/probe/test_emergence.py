"""Precision over training: the same numbers as a probe run's, and it travels with the weights."""

import contextlib
from pathlib import Path

import pandas as pd
import pytest
import torch
from training import small_model as small_multi_view

from probe import emergence, run
from probe.measure import emergence as measuring
from probe.measure.emergence import measure_step
from probe.models import load_model
from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel
from probe.plan.settings import Watch
from probe.records import read_emergence

SMALL = {**TINY, "sample_size": 16, "block_out_channels": (8, 8, 8, 8), "attention_head_dim": 1, "norm_num_groups": 4}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of a small network, and their emergence.csv."""
    folder = tmp_path_factory.mktemp("averaged")
    for step in (3, 20):
        torch.manual_seed(step)
        load_unet(None, SMALL).save_pretrained(folder / f"step-{step:06d}")
    emergence.cli([str(folder), "--groups", "8", "--timesteps", "300,900", "--seed", "5"])
    return folder


@pytest.mark.slow
def test_it_has_the_numbers_of_a_probe_run_of_the_same_scenes_and_noise(checkpoints: Path, tmp_path: Path):
    shared = ["--pairs", "16", "--timesteps", "300,900", "--seed", "5", "--baselines", "none", "--no-report"]
    table = pd.read_csv(checkpoints / "emergence.csv")
    assert sorted(table["step"].unique()) == [3, 20]
    assert set(table["scenes"]) == {"shapes"}
    assert set(table["protocol"]) == {"attention-v1"}
    assert set(table["scene_count"]) == set(table["units"]) == {8}
    for step in (20,):
        out = tmp_path / str(step)
        run.cli(["--model", f"cat3d-tiny:{checkpoints / f'step-{step:06d}'}", *shared, "--out", str(out)])
        layers = pd.read_csv(out / "layers.csv").sort_values("layer")
        mine = table[table["step"] == step].sort_values("layer")
        assert mine["layer"].tolist() == layers["layer"].tolist()
        assert mine["low"].notna().all()
        pairs = {"value": "precision", "low": "precision_low", "high": "precision_high", "chance": "chance"}
        for here, there in pairs.items():
            assert mine[here].tolist() == pytest.approx(layers[there].tolist(), abs=1e-6), here
        assert mine["count"].tolist() == layers["count"].tolist()
        assert set(mine["pair_list"]) == set(pd.read_parquet(out / "scores.parquet")["pair_list"])


@pytest.mark.slow
def test_the_history_beside_the_weights_is_copied_into_the_run(checkpoints: Path, tmp_path: Path):
    quick = ["--pairs", "1", "--views", "2", "--timesteps", "500", "--layers", "6", "--baselines", "none",
             "--interventions", "none", "--image-size", "32"]  # fmt: skip
    for name, history in (("with", "step,layer\n1,2\n"), ("without", None)):
        folder = tmp_path / name
        load_model(f"cat3d-tiny:{checkpoints / 'step-000003'}").network.save_pretrained(folder)
        if history:
            (folder / "emergence.csv").write_text(history)
        run.cli(["--model", f"cat3d-tiny:{folder}", *quick, "--no-report", "--out", str(tmp_path / f"run-{name}")])
        copied = tmp_path / f"run-{name}" / "emergence.csv"
        assert (copied.read_text() if copied.exists() else None) == history


def test_measurements_of_other_weights_are_not_taken(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of two trainings with one --out: the second, stopped likewise, finds nothing of the first."""
    seen: list[str] = []
    monkeypatch.setattr(measuring, "load_model", lambda spec: seen.append(spec) or small_multi_view())
    monkeypatch.setattr(measuring, "measure_step", lambda model, step, watch: rows(step, fail=len(seen) == 2))
    other, flags = tmp_path / "other", ["--groups", "4", "--timesteps", "500", "--out", str(tmp_path / "x.csv")]
    for step in (3, 20):
        torch.manual_seed(step + 1)
        load_unet(None, SMALL).save_pretrained(other / f"step-{step:06d}")
    for folder in (checkpoints, other):
        with contextlib.suppress(SystemExit):
            emergence.cli([str(folder), *flags])
    assert [str(other) in spec for spec in seen] == [False, False, True, True]
    table = read_emergence(tmp_path / "x.csv")
    assert table["pair_list"].tolist() == ["12345e678901", "12345e678901"]  # no number


def rows(step: int, *, fail: bool) -> pd.DataFrame:
    if fail:
        raise OSError("no room")
    return pd.DataFrame({"step": [step], "layer": [2], "value": [0.5], "pair_list": ["12345e678901"]})


def test_a_training_in_part_has_no_history(tmp_path: Path, capfd):
    (tmp_path / "step-000001").mkdir()
    (tmp_path / "step-000001" / "trained.safetensors").touch()
    with pytest.raises(SystemExit, match="2"):
        emergence.cli([str(tmp_path)])
    assert "only the weights that a training in part" in capfd.readouterr().err


def test_a_stopped_one_goes_on_where_it_was(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    shared = [str(checkpoints), "--groups", "4", "--timesteps", "500"]
    flags = [*shared, "--out", str(tmp_path / "x.csv")]
    emergence.cli([*shared, "--out", str(tmp_path / "whole.csv")])
    steps: list[int] = []

    def once(model: MultiViewModel, step: int, watch: Watch) -> pd.DataFrame:
        if steps:
            raise KeyboardInterrupt
        steps.append(step)
        return measure_step(model, step, watch)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "measure_step", once)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            emergence.cli(flags)
    assert not (tmp_path / "x.csv").exists()
    with pytest.raises(SystemExit, match="2"):
        emergence.cli([*flags, "--seed", "6"])
    assert "was made with other values of ['seed']" in capfd.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "measure_step", lambda *asked: steps.append(asked[1]) or measure_step(*asked))
        emergence.cli(flags)
    assert steps == [3, 20]
    assert (tmp_path / "x.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.csv", "x.csv"]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (["--metric", "precision@7%"], "--metric 'precision@7%' is unknown; choose from precision@2%"),
        (["--timesteps", "noon"], "--timesteps 'noon': expected timestep indexes separated by commas"),
        (["--scenes", "moon"], "moon"),
    ],
)
def test_wrong_input_ends_in_one_line(checkpoints: Path, tmp_path: Path, capfd, wrong: list[str], expected: str):
    with pytest.raises(SystemExit) as stop:
        emergence.cli([str(checkpoints), *wrong, "--out", str(tmp_path / "x.csv")])
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("python -m")]
    assert stop.value.code == 2
    assert len(error) == 1
    assert expected in error[0]
    assert not (tmp_path / "x.csv").exists()


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path, capfd):
    with pytest.raises(SystemExit):
        emergence.cli([str(tmp_path)])
    assert "holds no checkpoint named step-NNNNNN" in capfd.readouterr().err

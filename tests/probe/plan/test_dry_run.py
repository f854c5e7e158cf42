"""What a run will take: passes, seconds and bytes, and how they are told."""

from pathlib import Path

import pytest
import torch

from probe.models import load_model
from probe.plan.dry_run import MIB, duration, estimate, key_of, lines
from probe.plan.plan import make_plan
from probe.plan.settings import Settings
from probe.run import cli

FLOATS = 4  # bytes


@pytest.mark.slow
def test_an_estimate_counts_passes_and_says_what_they_take():
    plan = make_plan(Settings(dry_run=True, pairs=8, timesteps="100,500", baselines="random,null", layers="6,12"))
    found = estimate(plan, torch.device("cpu"), examples=3)
    assert found.passes == 4 * (2 + 2) + 3
    assert set(found.scoring) == {key_of(layer) for layer in plan.layers}
    assert found.weights == sum(weight.numel() for weight in load_model("cat3d-tiny").network.parameters()) * FLOATS
    assert found.libraries > 100 * MIB
    assert found.edited == 4 * (1 + 2)  # unedited and two layers, at the middle timestep
    assert found.total == pytest.approx(found.passes * found.probed + found.edited * found.forward + found.other)
    assert found.probed > found.forward > 0
    text = "\n".join(lines(found, 4, 2))
    assert "4 scenes, 2 timesteps, 19 forward passes" in text
    assert "11 MiB of weights" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (119.0, "119.0 s"), (120.0, "2.0 min"), (7199.0, "120.0 min"), (7200.0, "2.0 h")],
)
def test_durations_are_readable(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.slow
def test_the_command_prints_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture):
    flags = ["--dry-run", "--pairs", "4", "--timesteps", "500", "--baselines", "none", "--device", "cpu"]
    cli([*flags, "--out", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "up_blocks.2.attentions.2" in said
    assert "the model was not loaded, and nothing was written" in said
    assert "Nothing can be claimed: it rests on 4 independent units" in said
    assert "licence: Apache-2.0, as this suite" in said
    assert not (tmp_path / "run").exists()

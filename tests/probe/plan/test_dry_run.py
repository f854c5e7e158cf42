"""What a run will take: passes, seconds and bytes, and how they are told."""

from pathlib import Path

import pytest
import torch
from pyarrow import parquet as pq

from probe.models import load_model
from probe.plan.disk import disk_of
from probe.plan.dry_run import MIB, duration, estimate, key_of, lines, size
from probe.plan.plan import make_plan
from probe.plan.settings import Settings
from probe.run import cli, main

FLOATS = 4  # bytes


@pytest.mark.slow
def test_an_estimate_counts_passes_and_says_what_they_take():
    plan = make_plan(Settings(dry_run=True, pairs=8, timesteps="100,500", baselines="random,null", layers="6,12"))
    found = estimate(plan, torch.device("cpu"), examples=3)
    assert found.passes == 4 * (2 + 2) + 3
    assert set(found.scoring) == {key_of(layer) for layer in plan.layers}
    assert found.weights == sum(weight.numel() for weight in load_model("cat3d-tiny").network.parameters()) * FLOATS
    assert found.libraries > 100 * MIB
    assert found.edited == 4 * (1 + 2 * 2)  # unedited and two layers, at the middle timestep
    assert found.total == pytest.approx(found.passes * found.probed + found.edited * found.forward + found.other)
    assert found.probed > found.forward > 0
    text = "\n".join(lines(found, 4, 2))
    assert "4 scenes, 2 timesteps, 19 forward passes" in text
    assert "11 MiB of weights" in text


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["attention-v1", "ratio-v2"])
def test_the_folder_is_as_large_as_estimated(protocol: str, tmp_path: Path):
    """Within a factor of two of a real run, the score table and all together."""
    flags = {"pairs": 4, "image_size": 32, "views": 2, "timesteps": "100,500", "baselines": "null", "layers": "6,8"}
    settings = Settings(**flags, model="cat3d-tiny:random", protocol=protocol, out=tmp_path / "run", report=False)
    main(settings)
    scores, folder = tmp_path / "run" / "scores.parquet", sum(f.stat().st_size for f in (tmp_path / "run").iterdir())
    plan = make_plan(settings)
    disk = disk_of(plan, plan.scene(0, plan.scenes.load(0)[0]))
    assert disk.rows == pq.read_metadata(scores).num_rows
    assert 0.5 < disk.scores / scores.stat().st_size < 2
    assert 0.5 < (disk.scores + disk.pictures) / folder < 2
    assert disk.scores < disk.parts


@pytest.mark.parametrize(("count", "text"), [(0, "0.0 kB"), (999_000, "999.0 kB"), (2.5e6, "2.5 MB"), (7e9, "7.0 GB")])
def test_sizes_are_readable(count: float, text: str):
    assert size(int(count)) == text


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
    assert "rows of scores" in said
    assert "the model was not loaded, and nothing was written" in said
    assert "Nothing can be claimed: it rests on 4 independent units" in said
    assert "licence: Apache-2.0, as this suite" in said
    assert not (tmp_path / "run").exists()

"""Laws of the samples that a study shows: plain alone chooses the scenes, at ranks, at steps that both saved."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from probe.records import COPY, MODEL, PSNR, TRUTH
from probe.views import Views
from train.quality import Quality
from train.studying import pictures
from train.studying.pictures import RANKS, ROOMS, SHOWN, samples_at_steps
from train.studying.variants import Study


def quality(psnr: list[float]) -> Quality:
    """Return scenes of two targets, whose model's PSNR is given; a target's grey level tells its scene."""
    rows = [
        {"scene": f"room-{scene}", "view": view, "rotation_deg": 5.0 * scene, "method": MODEL, "metric": PSNR,
         "value": value + view}
        for scene, value in enumerate(psnr) for view in (-1, 1)
    ]  # fmt: skip
    grey = (torch.arange(len(psnr)) / len(psnr))[:, None, None, None, None].expand(-1, 2, 3, 4, 4)
    still = torch.eye(4).expand(len(psnr), 2, 4, 4)
    views = Views(
        image=grey, intrinsics=still[..., :3, :3], world_to_cam=still, point_map=grey, valid=grey[:, :, 0] >= 0, n_ref=1
    )
    return Quality(rows=pd.DataFrame(rows), targets={MODEL: grey, COPY: grey, TRUTH: grey}, views=views, seen=None)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    for variant, steps in zip(SHOWN, ((200, 400, 600), (400, 600, 800)), strict=True):
        for step in steps:
            (tmp_path / f"{variant}-seed3" / "averaged" / f"step-{step}").mkdir(parents=True)
    order = torch.randperm(ROOMS, generator=torch.Generator().manual_seed(0)).tolist()
    drawn = {"plain": [float(rank) for rank in order], "mean": [float(-rank) for rank in order]}
    monkeypatch.setattr(pictures, "_held_out", lambda study: (None, None))
    monkeypatch.setattr(
        pictures,
        "sample_with",
        lambda model, weights, held_out: quality(drawn[weights.parents[1].name.partition("-")[0]]),
    )
    return Study(out=tmp_path, seeds="3,4", steps=800)


def test_plain_alone_chooses_the_scenes_at_ranks_of_its_quality(study: Study):
    drawn = samples_at_steps(study)
    assert drawn is not None
    psnr = {name: [scene["psnr"][name][-1] for scene in drawn[1]["scenes"]] for name in SHOWN}
    assert psnr["plain"] == [float(round(rank * (ROOMS - 1))) for rank in RANKS]
    assert psnr["mean"] == [-value for value in psnr["plain"]]  # whatever it has there


def test_the_steps_are_those_that_both_runs_saved_and_columns_stand_side_by_side(study: Study):
    drawn = samples_at_steps(study)
    assert drawn is not None
    columns, words = drawn
    assert words["steps"] == [400, 600]
    titles = ["reference", "truth", *(f"{name}\nstep {step}" for step in (400, 600) for name in SHOWN)]
    assert [title for title, _ in columns] == titles
    rooms = [int(scene["name"].removeprefix("room-")) for scene in words["scenes"]]
    for _, images in columns:
        assert images[:, 0, 0, 0] == pytest.approx([room / ROOMS for room in rooms])


def test_without_weights_of_both_there_is_no_picture(tmp_path: Path):
    (tmp_path / "plain-seed0" / "averaged" / "step-5").mkdir(parents=True)
    assert samples_at_steps(Study(out=tmp_path, seeds="0")) is None

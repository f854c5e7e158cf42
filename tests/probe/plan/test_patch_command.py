"""Patching the layers of a finished run by the command: what it writes, and what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from edited_toys import toy_model, toy_scene

from probe import patch
from probe.patch import donor_of, read_parts


def test_layers_are_patched_by_both_donors_and_nothing_else_changes(copy: Path, capsys):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    patch.cli([str(copy), "--parts", "matching,output", "--scenes", "2", "--no-report"])
    rows = pd.read_csv(copy / "patching.csv")
    whole = rows[rows["tokens"] == "all"]
    sizes = whole.groupby(["donor", "part", "layer", "measure"]).size()
    assert sizes.to_dict() == {
        (donor, part, layer, measure): 2
        for donor in ("clean", "another")
        for part in ("matching", "output")
        for layer in (6, 8)
        for measure in ("error", "moved")
    }
    assert set(rows["tokens"]) == {"all", "true match", "equal distance"}
    assert (rows["unit"] == rows["scene"]).all()
    assert {name: (copy / name).read_bytes() for name in before} == before
    first = (copy / "patching.csv").read_bytes()
    patch.cli([str(copy), "--parts", "matching,output", "--scenes", "2", "--no-report"])
    assert (copy / "patching.csv").read_bytes() == first
    assert "nan" not in capsys.readouterr().out


def test_the_page_shows_what_patching_found(copy: Path):
    patch.cli([str(copy), "--parts", "matching", "--scenes", "1"])
    page = (copy / "report.html").read_text()
    assert 'id="patching"' in page
    assert "true match" in page


def test_samples_alone_leave_the_table_of_predictions(copy: Path, capsys):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    words = [str(copy), "--no-predictions", "--sampling-steps", "2", "--scenes", "2", "--other-noise"]
    patch.cli([*words, "--no-report"])
    rows = pd.read_csv(copy / "patched_samples.csv")
    assert rows.groupby(["donor", "measure", "part", "layer"]).size().to_dict() == {
        (donor, measure, part, layer): 2
        for donor in ("another", "noise")
        for measure in ("psnr", "match_error")
        for part, layer in (("none", -1), *((part, layer) for part in ("matching", "content") for layer in (6, 8)))
    }
    assert (rows["unit"] == rows["scene"]).all()
    assert rows["steps"].eq(2).all()
    assert rows["value"].notna().all()
    assert {name: (copy / name).read_bytes() for name in before} == before
    assert not (copy / "patching.csv").exists()
    said = " ".join(capsys.readouterr().out.split())
    assert "Where target views read content (keys and values) of another scene in one layer" in said
    assert "too few independent units" in said
    first = (copy / "patched_samples.csv").read_bytes()
    patch.cli(words)
    assert (copy / "patched_samples.csv").read_bytes() == first
    page = (copy / "report.html").read_text()
    assert 'id="patching"' in page
    assert 'id="figure-patched-samples"' in page


def test_only_the_layers_that_are_named_are_patched(copy: Path, capsys):
    words = [str(copy), "--parts", "matching", "--sampling-steps", "1", "--sampling-parts", "content", "--scenes", "1"]
    patch.cli([*words, "--layers", "8", "--no-report"])
    assert set(pd.read_csv(copy / "patching.csv")["layer"]) == {8}
    assert set(pd.read_csv(copy / "patched_samples.csv")["layer"]) == {-1, 8}
    said = capsys.readouterr().out
    assert "patched: layer 8 alone" in said
    assert "layer 6" not in said


def test_a_table_of_more_layers_is_not_replaced_by_one_of_fewer(copy: Path, capfd):
    kept = "layer,value\n6,1\n8,2\n"
    (copy / "patching.csv").write_text(kept)
    said = refusal([str(copy), "--layers", "8"], capfd)
    assert "patching.csv has layer 6 as well, which would be lost; name them too, or move that file away" in said
    assert (copy / "patching.csv").read_text() == kept


def refusal(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        patch.cli(words)
    assert stop.value.code == 2
    return capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--parts", "keys,keys"], "--parts 'keys,keys': expected some of queries,keys"),
        (["--parts", ""], "--parts ''"),
        (
            ["--layers", "99"],
            "--layers layer '99' is unknown; allowed: 3d, all, or indexes 6 to 8, of which 3D: [6, 8]",
        ),
        (["--layers", ""], "--layers layer '' is unknown; nearest: "),
        (["--scenes", "0"], "--scenes 0: expected at least 1"),
        (["--timesteps", "1000"], "--timesteps"),
        (["--clean-timestep", "500"], "--clean-timestep 500: expected 0 to 499"),
        (["--sampling-steps", "-1"], "--sampling-steps -1: expected at least 1, or 0 for predictions only"),
        (["--sampling-steps", "1001"], "--sampling-steps ddim_scheduler: 1001 steps of 1000 timesteps, expected 1 to"),
        (["--sampling-parts", "all"], "--sampling-parts 'all': expected some of queries,keys"),
        (["--no-predictions"], "--no-predictions leaves nothing to measure; add --sampling-steps"),
    ],
)
def test_flags_are_refused_in_one_line(copy: Path, capfd, words, said):
    assert said in refusal([str(copy), *words], capfd)
    assert not (copy / "patching.csv").exists()
    assert not (copy / "patched_samples.csv").exists()


def test_views_of_several_frames_are_not_sampled():
    plan = SimpleNamespace(settings=SimpleNamespace(frames_per_view=4), model=toy_model())
    with pytest.raises(ValueError, match="--sampling-steps 2: views of 4 frames are not sampled; leave the flag out"):
        patch._check_sampling(patch.Settings(run=Path(), sampling_steps=2), plan)


def test_other_weights_are_refused(copy: Path, capfd):
    card = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**card, "steps": 7}))
    assert "are not those that were scored" in refusal([str(copy)], capfd)


def test_the_donor_is_the_next_scene_of_another_unit():
    units = ["a", "a", "b", "c"]
    assert [donor_of(units, n) for n in range(4)] == [2, 2, 3, 0]
    with pytest.raises(ValueError, match="one independent unit"):
        donor_of(["a", "a"], 0)


def test_other_noise_is_always_the_same_and_not_the_scenes_own():
    scene = toy_scene(toy_model())
    noises = [patch._anew(scene, seed, index).noise for seed, index in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert torch.equal(noises[0], noises[1])
    for one, other in ((scene.noise, noises[0]), (noises[0], noises[2]), (noises[0], noises[3])):
        assert not torch.isclose(one, other).any()


def test_parts_are_read_in_their_own_order():
    assert read_parts("output,keys") == ("keys", "output")

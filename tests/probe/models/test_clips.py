"""Real clips as scenes: each view is a latent frame, whose truth is that of one frame of the group it packs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_videos
import torch
from small_videos import build, save_small

from probe import run
from probe.measure.model import cameras_only, scene_noise
from probe.measure.scene import make_scene
from probe.models import load_model
from probe.models.model import model_layers, predict
from probe.models.parts.files import Loading
from probe.models.sampling import predict_views, sample_views
from probe.models.video.model import IMAGE, VideoModel
from probe.scenes import Request, open_scenes
from probe.views import TRUE_FRAME, Views, concatenate, group_frames, hide_images, resize, without_images

SIDE, VIEWS = 32, 3
PACKS = {"wan": 4, "cogvideox": 4, "hunyuan-video": 4, "ltx": 4}  # ltx as published: 8
CAUSAL = ("wan", "ltx")  # the others' group norms share statistics over time
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
T = torch.tensor([500])


def film(frames: int = 4, scenes: str = "shapes:moving", **changes: int) -> Views:
    request = Request(**{"groups": 1, "views": VIEWS, "n_ref": 1, "size": SIDE, **changes}, frames_per_view=frames)
    return open_scenes(scenes, request).load(0)[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("pipelines")
    return {name: save_small(name, home / name) for name in PACKS}


def load(name: str, folder: Path) -> VideoModel:
    model = load_model(f"{name}:{folder}", Loading(size=SIDE))
    assert isinstance(model, VideoModel)
    return model


# --- scenes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenes", ["shapes:moving", "shapes:moving-still"])
def test_the_views_are_those_of_still_clips_so_that_truth_is_the_same(scenes: str):
    still, moving = film(1, scenes), film(4, scenes)
    assert still.clip is None
    assert (moving.count, moving.clip.count, moving.frames_per_view, still.frames_per_view) == (3, 9, 4, 1)
    for name, tensor in moving.tensors.items():
        torch.testing.assert_close(tensor, still.tensors[name], **CLOSE)
    assert (moving.names, moving.n_ref) == (still.names, 1)


def test_a_view_is_the_last_frame_of_its_group():
    views = film(4)
    assert TRUE_FRAME == "last"
    for view, frame in enumerate((0, 4, 8)):
        assert torch.equal(views.image[:, view], views.clip.image[:, frame])
        assert torch.equal(views.world_to_cam[:, view], views.clip.world_to_cam[:, frame])
        assert torch.equal(views.part_pose[:, view], views.clip.part_pose[:, frame])


@pytest.mark.parametrize(("where", "shown"), [("first", [0, 1, 5]), ("middle", [0, 2, 6]), ("last", [0, 4, 8])])
def test_the_constant_decides_which_frame_it_is(monkeypatch: pytest.MonkeyPatch, where: str, shown: list[int]):
    monkeypatch.setattr("probe.views.TRUE_FRAME", where)
    video = film(1, views=9)
    assert torch.equal(group_frames(video, 4, 1).image, video.image[:, shown])


def test_the_clip_goes_where_its_views_go():
    views = film(4)
    small = resize(views, 16, 16)
    assert small.clip.size == (16, 16)
    assert torch.equal(small.clip.image[:, ::4], small.image)
    both = concatenate([views, views])
    assert both.clip.image.shape[0] == 2
    assert torch.equal(both.scene(1).clip.image, views.clip.image)
    assert views.to("meta").clip.image.device.type == "meta"
    assert views.reorder([1, 0, 2], 1).clip is None
    assert without_images(views).clip is None
    assert [group_frames(film(1, views=9), 4, n).clip.n_ref for n in (0, 1, 2)] == [0, 1, 5]


def test_hidden_images_are_hidden_in_the_clip_too():
    views = film(4, n_ref=2)
    hidden = hide_images(views)
    assert hidden.clip.image.unique().tolist() == hidden.image.unique().tolist() == [0.5]
    shown = hide_images(views, 2)
    assert torch.equal(shown.clip.image[:, :5], views.clip.image[:, :5])
    assert (shown.clip.image[:, 5:] == 0.5).all()
    assert torch.equal(shown.image[:, :2], views.image[:, :2])
    assert torch.equal(shown.world_to_cam, views.world_to_cam)


@torch.no_grad()
def test_the_null_of_cameras_sees_no_image_of_the_clip(folders: dict[str, Path]):
    model, views = load("wan", folders["wan"]), film(4)
    scenes = [
        make_scene(x, model_layers(model), scene_noise(model, x, 0, 0))
        for x in (views, replace(views, clip=replace(views.clip, image=1 - views.clip.image)))
    ]
    one, other = (cameras_only(model, scene, "null")[1].views for scene in scenes)
    assert torch.equal(model.encode_views(one), model.encode_views(other))


def test_tracked_videos_have_frames_between_their_views(tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 255, (12, SIDE, SIDE, 3), np.uint8)
    points = np.full((2, 12, 2), 9.5, np.float32) + np.arange(12, dtype=np.float32)[None, :, None]
    np.savez(tmp_path / "clip.npz", video=frames, points=points, occluded=np.zeros((2, 12), bool))
    views = film(4, f"tracks:{tmp_path}")
    assert (views.count, views.clip.count) == (3, 9)
    assert torch.equal(views.image, views.clip.image[:, ::4])
    assert views.valid.any()
    with pytest.raises(ValueError, match="has 12 frames, expected at least 17"):
        film(4, f"tracks:{tmp_path}", views=5)


def test_scenes_that_are_no_videos_are_refused(tmp_path: Path):
    for scenes in ("shapes", "shapes-v1:cluttered", f"rgbd:{tmp_path}"):
        message = r"has no frames between its views, and --frames-per-view is 4; choose shapes:moving, .* tracks:PATH"
        with pytest.raises(ValueError, match=message):
            film(4, scenes)


def test_clips_of_other_counts_are_refused():
    views = film(4)
    with pytest.raises(ValueError, match="a clip of 8 frames for 3 views, expected one frame for the first"):
        replace(views, clip=views.clip.reorder(list(range(8)), 1))
    with pytest.raises(ValueError, match="frames per view"):
        concatenate([views, film(2)])


# --- latent frames ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PACKS))
def test_a_latent_frame_is_a_view(name: str, folders: dict[str, Path]):
    model, views = load(name, folders[name]), film(PACKS[name])
    latents = model.encode_views(views)
    assert model.packs == PACKS[name]
    assert latents.shape == model.latent_shape(1, VIEWS)
    alone = model.encode(views.image)
    assert torch.equal(model.encode_views(replace(views, clip=None)), alone)
    assert not torch.allclose(latents[:, 1:], alone[:, 1:], atol=1e-3)
    if name in CAUSAL:
        torch.testing.assert_close(latents[:, 0], alone[:, 0], **CLOSE)


@pytest.mark.parametrize("name", sorted(PACKS))
def test_a_frame_changes_the_latent_frame_of_its_group_and_no_earlier_one(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    if name not in CAUSAL:
        monkeypatch.setattr(torch.nn.GroupNorm, "forward", lambda _, x: x)
    model, views = load(name, folders[name]), film(PACKS[name])
    before, clip = model.encode_views(views), views.clip
    for frame in range(clip.count):
        image = clip.image.clone()
        image[:, frame] = 1 - image[:, frame]
        after = model.encode_views(replace(views, clip=replace(clip, image=image)))
        changed, group = (after - before).abs().amax((0, 2, 3, 4)), -(-frame // PACKS[name])
        assert changed[group] > 1e-4
        assert (changed[:group] < 1e-6).all()


def test_image_to_video_sees_its_references_alone_as_in_the_pipeline(tmp_path: Path):
    from test_videos import LAST, assert_same_arguments, first_call, wide

    pipeline, views = build("wan-i2v", image_dim=None), film(4)
    pipeline.save_pretrained(tmp_path)
    model = load("wan", tmp_path)
    noise = torch.randn(model.latent_shape(1, VIEWS), generator=torch.Generator().manual_seed(1))
    theirs = first_call(pipeline, image=views.image[:, 0], prompt_embeds=torch.zeros(1, 512, 8), latents=wide(noise))
    assert_same_arguments(model.network_inputs(noise, LAST, model.condition(views)), theirs)


def test_other_frames_of_targets_are_hidden_too(tmp_path: Path):
    for name in ("wan-i2v", "cogvideox-i2v"):
        model, views = load(small_videos.family(name), save_small(name, tmp_path / name)), film(4, n_ref=2)
        shown = model.condition(views)[IMAGE]
        image = views.clip.image.clone()
        image[:, 5:] = 0.25
        other = replace(views, clip=replace(views.clip, image=image))
        assert name != "wan-i2v" or torch.equal(model.condition(other)[IMAGE], shown)
        image[:, 4] = 0.25  # of the second reference
        other = replace(views, clip=replace(views.clip, image=image))
        assert not torch.allclose(model.condition(other)[IMAGE], shown)


@torch.no_grad()
def test_a_clip_is_another_input_than_still_clips(folders: dict[str, Path]):
    model, views = load("wan", folders["wan"]), film(4)
    noise = torch.randn(model.latent_shape(1, VIEWS), generator=torch.Generator().manual_seed(1))
    moving, still = (predict(model, x, T, noise) for x in (views, replace(views, clip=None)))
    assert not torch.allclose(moving, still, atol=1e-4)


# --- refusals and runs -----------------------------------------------------------------------------------------------


def test_models_of_other_frames_are_refused(folders: dict[str, Path]):
    message = (
        r"tiny takes images alone, and each view has 4 frames; choose --frames-per-view 1, or a model that packs 4"
    )
    with pytest.raises(ValueError, match=message):
        load_model("cat3d-tiny").encode_views(film(4))
    with pytest.raises(ValueError, match=r"wan:wan packs 4 frames .* has 2 frames; choose --frames-per-view 1 or 4"):
        load("wan", folders["wan"]).encode_views(film(2))


def test_clips_are_not_sampled(folders: dict[str, Path]):
    model, views = load("wan", folders["wan"]), film(4)
    for draw in (sample_views, predict_views):
        with pytest.raises(ValueError, match=r"frames of a clip, whose latent frames cannot be decoded .*steps 0"):
            draw(model, views, torch.zeros(model.latent_shape(1, VIEWS)), steps=1)


def words(folder: Path, out: Path) -> list[str]:
    numbers = ["--pairs", "1", "--timesteps", "500", "--device", "cpu", "--image-size", "32", "--model-size", str(SIDE)]
    return ["--model", f"wan:{folder}", "--scenes", "shapes:moving", *numbers, "--out", str(out)]


def test_a_run_scores_latent_frames(folders: dict[str, Path], tmp_path: Path):
    flags = ["--frames-per-view", "4", "--baselines", "pixels", "--no-report"]
    run.cli([*words(folders["wan"], tmp_path / "run"), *flags])
    scores = pd.read_parquet(tmp_path / "run" / "scores.parquet")
    precision = scores[scores["metric"].str.startswith("precision")]["value"].dropna()
    assert len(precision) > 0
    assert precision.between(0, 1).all()
    assert '"frames_per_view": 4' in (tmp_path / "run" / "config.json").read_text()


def test_a_dry_run_takes_the_clip(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run.cli([*words(folders["wan"], tmp_path / "run"), "--frames-per-view", "4", "--dry-run"])
    assert "attn1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--frames-per-view", "8"], "--frames-per-view wan:wan packs 4 frames into one latent frame"),
        (["--frames-per-view", "0"], "--frames-per-view 0: expected at least 1"),
        (
            ["--frames-per-view", "4", "--interventions", "identity"],
            "views of 4 frames have not; add --sampling-steps 0",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused_before_anything_runs(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
):
    with pytest.raises(SystemExit):
        run.cli([*words(folders["wan"], tmp_path / "run"), *flags])
    assert message in capsys.readouterr().err

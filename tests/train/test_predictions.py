"""Images that another program made: both layouts, what is known of their scores, and damaged files in one line."""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import Float
from PIL import Image

from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel
from probe.models.parts.files import Loading
from probe.models.sampling import sample_views
from probe.models.schedules import pixel_scheduler
from probe.scenes import Request, open_scenes
from probe.scenes.reading import Folder, Reading
from probe.seeds import derive
from probe.views import resize
from train import evaluate
from train.quality import evaluation, predictions
from train.quality.predictions import find_scenes, open_predictions, read_npz

SMALL = {**TINY, "sample_size": 16, "block_out_channels": (8, 8), "attention_head_dim": 1, "norm_num_groups": 4}
QUICK = ["--no-report", "--features", "none"]
SIZE = 16
Images = Float[np.ndarray, "f 3 h w"]


@pytest.fixture(scope="module", autouse=True)
def no_weights(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        empty = str(tmp_path_factory.mktemp("cache"))
        patch.setattr(torch.hub, "get_dir", lambda: empty)
        yield


def drawn(seed: int, views: int = 4, size: int = SIZE) -> Images:
    """Draw colours in [0.25, 0.75], with a half of float32's digits so that offsets are exact enough."""
    return (0.25 + 0.5 * np.random.default_rng(seed).random((views, 3, size, size))).astype(np.float32)


def turned(*degrees: float) -> Float[np.ndarray, "f 4 4"]:
    """Make cameras that are turned about the vertical axis."""
    angles = np.deg2rad(degrees)
    cameras = np.tile(np.eye(4), (len(angles), 1, 1))
    cameras[:, 0, 0] = cameras[:, 2, 2] = np.cos(angles)
    cameras[:, 0, 2], cameras[:, 2, 0] = np.sin(angles), -np.sin(angles)
    return cameras


def save_npz(path: Path, truth: Images, image: Images, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, gt_rgb=truth, pred_rgb=image, **more)
    return path


def save_folder(scene: Path, truth: Images, image: Images, names: list[str] | None = None) -> Path:
    """Write images of 8 bits as PNG."""
    names = names or [f"view_{view}.png" for view in range(len(truth))]
    for part, images in (("truth", truth), ("prediction", image)):
        (scene / part).mkdir(parents=True)
        for name, one in zip(names, images, strict=True):
            Image.fromarray(np.moveaxis(one, 0, -1)).save(scene / part / name)
    return scene


def score(folder: Path, out: Path, *arguments: str) -> pd.DataFrame:
    evaluate.cli(["--predictions", str(folder), "--n-ref", "2", *QUICK, *arguments, "--out", str(out)])
    return pd.read_csv(out / "images.csv")


def values(rows: pd.DataFrame, metric: str = "psnr", method: str = "model") -> list[float]:
    return rows[(rows["metric"] == metric) & (rows["method"] == method)]["value"].tolist()


def refused(capsys: pytest.CaptureFixture, folder: Path, out: Path, *arguments: str) -> str:
    """Return the one line that a command ends in, and see that it wrote nothing."""
    with pytest.raises(SystemExit) as stop:
        evaluate.cli(["--predictions", str(folder), "--n-ref", "2", *QUICK, *arguments, "--out", str(out)])
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not out.exists()
    return shown.err


# --- known -----------------------------------------------------------------------------------------------------------


def test_the_truth_scores_as_perfect_and_an_offset_by_the_formula(tmp_path: Path):
    truth = drawn(0)
    save_npz(tmp_path / "of" / "same.npz", truth, truth)
    save_npz(tmp_path / "of" / "brighter.npz", truth, truth + np.float32(0.1))
    rows = score(tmp_path / "of", tmp_path / "run")
    same, brighter = (rows[rows["scene"] == f"{name}.npz"] for name in ("same", "brighter"))
    assert values(same) == [100, 100]
    assert values(same, "ssim") == pytest.approx([1, 1])
    assert values(brighter) == pytest.approx([-20 * np.log10(0.1)] * 2, abs=1e-4)


def test_trivial_baselines_copy_the_first_reference_where_there_are_no_cameras(tmp_path: Path):
    truth = drawn(0)
    save_npz(tmp_path / "of" / "a.npz", truth, truth)
    rows = score(tmp_path / "of", tmp_path / "run")
    psnr = [-10 * np.log10(np.square(truth[0].astype(float) - truth[view]).mean()) for view in (2, 3)]
    assert values(rows, method="copy") == pytest.approx(psnr, abs=1e-4)


def test_what_predictions_do_not_have_is_absent_or_nan(tmp_path: Path):
    save_npz(tmp_path / "of" / "a.npz", drawn(0), drawn(1))
    rows = score(tmp_path / "of", tmp_path / "run")
    assert set(rows["metric"]) == {"psnr", "ssim", "lpips", "match_error"}  # no PSNR of one step
    summary = pd.read_csv(tmp_path / "run" / "summary.csv")
    for metric, why in (("match_error", "predictions come without depth"), ("lpips", "no weights at")):
        missing = summary[summary["metric"] == metric]
        assert missing["value"].isna().all()
        assert (missing[["scenes", "count"]] == 0).all(axis=None)
        assert missing["note"].str.contains(why, regex=False).all()


def test_eight_bits_score_the_same_in_both_layouts(tmp_path: Path):
    truth, image = ((255 * drawn(seed)).astype(np.uint8) for seed in (0, 1))
    save_npz(tmp_path / "packed" / "a.npz", truth, image)
    save_folder(tmp_path / "folders" / "0001", truth, image)
    packed, folders = (score(tmp_path / kind, tmp_path / f"run-{kind}") for kind in ("packed", "folders"))
    assert packed["value"].tolist() == pytest.approx(folders["value"].tolist(), rel=0, abs=0, nan_ok=True)
    assert set(folders["scene"]) == {"0001/"}  # a table that is read back holds a name, not a number


# --- reference -------------------------------------------------------------------------------------------------------


@cache
def small_model(spec: str, loading: Loading | None = None) -> MultiViewModel:
    torch.manual_seed(0)
    network = load_unet(None, SMALL).eval()
    return MultiViewModel(name=spec, network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=SIZE)


def test_a_models_own_samples_score_as_they_were_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluation, "load_model", small_model)
    own = ["--groups", "3", "--n-ref", "1", "--sampling-steps", "1"]
    evaluate.cli([*QUICK, *own, "--out", str(tmp_path / "own")])
    expected = pd.read_csv(tmp_path / "own" / "images.csv")
    model, scenes = small_model("cat3d-tiny"), open_scenes("shapes", Request(groups=3, views=3, n_ref=1))
    for index in range(3):
        views = resize(scenes.load(index)[0], SIZE, SIZE)
        generator = torch.Generator().manual_seed(derive("noise", 0, index))
        noise = torch.randn(model.latent_shape(1, 3), generator=generator)
        with torch.no_grad():
            image = sample_views(model, views, noise, steps=1)
        cameras = {"world_to_cam": views.world_to_cam[0].numpy(), "intrinsics": views.intrinsics[0].numpy()}
        save_npz(tmp_path / "of" / f"{index}.npz", views.image[0].numpy(), image[0].numpy(), **cameras)
    rows = score(tmp_path / "of", tmp_path / "run", "--n-ref", "1")
    for method in ("model", "copy", "mean colour"):
        for metric in ("psnr", "ssim"):
            assert values(rows, metric, method) == pytest.approx(values(expected, metric, method), rel=1e-6)
    turns = [table.drop_duplicates(["scene", "view"])["rotation_deg"].tolist() for table in (rows, expected)]
    assert turns[0] == pytest.approx(turns[1], abs=1e-3)


# --- laws ------------------------------------------------------------------------------------------------------------


def test_the_order_of_files_does_not_matter(tmp_path: Path):
    names = ["view_10.png", "view_9.png", "a.png", "view_11.png"]
    images = [(255 * drawn(seed)).astype(np.uint8) for seed in (0, 1)]
    save_folder(tmp_path / "one" / "s", *images, names=names)
    back = [3, 1, 0, 2]
    save_folder(tmp_path / "two" / "s", *(each[back] for each in images), names=[names[place] for place in back])
    first, second = (score(tmp_path / name, tmp_path / f"run-{name}") for name in ("one", "two"))
    pd.testing.assert_frame_equal(first, second)
    truth = find_scenes(Folder(tmp_path / "one"))["s/"]().views.image[0]
    assert torch.equal(truth[1], torch.from_numpy(images[0][1]) / 255)  # a, view_9, view_10, view_11


def test_cameras_decide_the_rotation_bin_and_the_copy(tmp_path: Path):
    truth = drawn(0, views=5)
    save_npz(tmp_path / "of" / "a.npz", truth, truth, world_to_cam=turned(0, 70, 10, 80, 130))
    rows = score(tmp_path / "of", tmp_path / "run")
    assert rows["rotation_deg"].drop_duplicates().tolist() == pytest.approx([10, 80, 130], abs=1e-3)
    summary = pd.read_csv(tmp_path / "run" / "summary.csv")
    assert list(dict.fromkeys(summary["rotation_bin"])) == ["0-30", "60-90", "120+", "all"]
    near = [-10 * np.log10(np.square(truth[r].astype(float) - truth[t]).mean()) for r, t in ((0, 2), (1, 3), (1, 4))]
    assert values(rows, method="copy") == pytest.approx(near, abs=1e-4)


def test_views_without_cameras_count_in_all_only(tmp_path: Path, capsys: pytest.CaptureFixture):
    truth = drawn(0)
    save_npz(tmp_path / "of" / "posed.npz", truth, truth, world_to_cam=turned(0, 5, 10, 20))
    save_npz(tmp_path / "of" / "unposed.npz", truth, drawn(1))
    score(tmp_path / "of", tmp_path / "run")
    summary = pd.read_csv(tmp_path / "run" / "summary.csv").query("method == 'model' and metric == 'psnr'")
    assert dict(zip(summary["rotation_bin"], summary["count"], strict=True)) == {"0-30": 2, "all": 4}
    worst = pd.read_csv(tmp_path / "run" / "worst.csv")
    assert worst["rotation_deg"].isna().tolist() == [True, True, False, False]
    assert worst["copy_psnr"].notna().all()
    assert "1 of 2 scenes without cameras" in capsys.readouterr().out


def test_cameras_of_a_folder_are_those_of_its_file(tmp_path: Path):
    images = (255 * drawn(0)).astype(np.uint8)
    scene = save_folder(tmp_path / "of" / "s", images, images)
    cameras = {f"view_{n}.png": {"world_to_cam": one.tolist()} for n, one in enumerate(turned(0, 5, 40, 95))}
    (scene / "cameras.json").write_text(json.dumps(cameras))
    rows = score(tmp_path / "of", tmp_path / "run")
    assert rows["rotation_deg"].drop_duplicates().tolist() == pytest.approx([40, 95], abs=1e-3)


def test_scenes_may_differ_in_size_and_number_of_views(tmp_path: Path):
    for name, seed, views, size in (("a", 0, 3, 16), ("b", 1, 4, 24), ("c", 2, 3, 16)):
        save_npz(tmp_path / "of" / f"{name}.npz", drawn(seed, views, size), drawn(seed + 5, views, size))
    score(tmp_path / "of", tmp_path / "run", "--features", "colour-cells")
    summary = pd.read_csv(tmp_path / "run" / "summary.csv").query("metric == 'fid[colour-cells]'")
    assert summary["value"].notna().all()
    assert summary["count"].tolist() == [4] * 3


# --- the run folder --------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_to_the_same_files_and_changed_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for seed in range(3):
        save_npz(tmp_path / "of" / f"{seed}.npz", drawn(seed), drawn(seed + 5))
    whole, calls, measure_images = score(tmp_path / "of", tmp_path / "whole"), [], predictions.measure_images

    def stop(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure_images(*args, **kwargs)

    monkeypatch.setattr(predictions, "measure_images", stop)
    with pytest.raises(SystemExit):
        score(tmp_path / "of", tmp_path / "run")
    pd.testing.assert_frame_equal(score(tmp_path / "of", tmp_path / "run", "--resume"), whole)
    assert len(calls) == 4
    save_npz(tmp_path / "of" / "2.npz", drawn(2), drawn(8))
    with pytest.raises(SystemExit):
        score(tmp_path / "of", tmp_path / "run", "--resume")
    assert "was made with other values of ['scenes_digest']" in capsys.readouterr().err


def test_the_settings_say_what_was_read_and_nothing_of_a_model(tmp_path: Path):
    save_npz(tmp_path / "of" / "a.npz", drawn(0), drawn(1))
    score(tmp_path / "of", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert len(settings.pop("scenes_digest")) == 12
    assert settings == {
        "predictions": str((tmp_path / "of").resolve()), "n_ref": [2], "features": [], "device": "auto",
        "out": str(tmp_path / "run"), "scenes_read": 1, "left_out": [],
    }  # fmt: skip


@pytest.mark.parametrize("posed", [True, False])
def test_terminal_and_page_name_the_folder_and_nothing_that_predictions_lack(
    posed: bool, tmp_path: Path, capsys: pytest.CaptureFixture
):
    cameras = {"world_to_cam": turned(0, 5, 40, 95)} if posed else {}
    for seed in range(2):
        save_npz(tmp_path / "[b]theirs" / f"$_{seed}^$.npz", drawn(seed), drawn(seed + 5), **cameras)
    command = ["--predictions", str(tmp_path / "[b]theirs"), "--n-ref", "2", "--features", "colour-cells"]
    evaluate.cli([*command, "--out", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert "predictions of [b]theirs, 2 scenes" in shown
    assert "fid[colour-cells] of 4 images, n_ref 2: predictions " in shown
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Predictions of [b]theirs, made from 2 references by another program: 4 target views in 2 scenes." in page
    assert "differences.csv" in page
    for text in (shown, page):
        for absent in ("DDIM", "one step", "sampling steps", "this model", "the model", "nan°", "seed", "cat3d"):
            assert absent not in text, absent


# --- leaving out -----------------------------------------------------------------------------------------------------


def test_one_bad_scene_among_three_is_left_out_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    for name in ("a", "c"):
        save_npz(tmp_path / "of" / f"{name}.npz", drawn(0), drawn(1))
    save_npz(tmp_path / "of" / "b.npz", drawn(0), drawn(1) + 1)
    rows = score(tmp_path / "of", tmp_path / "run")
    assert set(rows["scene"]) == {"a.npz", "c.npz"}
    assert "1 of 3 scenes left out: b.npz (pred_rgb of" in capsys.readouterr().out
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["scenes_read"] == 2
    assert [text.split()[0] for text in settings["left_out"]] == ["b.npz"]
    message = refused(capsys, tmp_path / "of", tmp_path / "strict", "--strict")
    assert "--predictions pred_rgb of" in message
    assert "expected colours in [0, 1]: clip or scale them" in message


def test_hidden_files_are_no_scenes(tmp_path: Path):
    save_npz(tmp_path / "below" / "a.npz", drawn(0), drawn(1))
    (tmp_path / "below" / "._a.npz").write_bytes(b"resource")
    (tmp_path / ".trash" / "truth").mkdir(parents=True)
    assert list(find_scenes(Folder(tmp_path))) == ["below/a.npz"]


# --- refusals --------------------------------------------------------------------------------------------------------


class Trap:
    """An object whose unpickling would be seen."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("a pickle was opened",)


def pickled() -> np.ndarray:
    array = np.empty(1, dtype=object)
    array[0] = Trap()
    return array


def test_members_that_are_not_needed_are_never_opened(tmp_path: Path):
    path = save_npz(tmp_path / "a.npz", drawn(0), drawn(1), metadata=pickled())
    assert read_npz(path, Folder(tmp_path)).views.count == 4


def claim_bytes(path: Path) -> Path:
    """Make a file claim more bytes in its directory than it has."""
    save_npz(path, drawn(0), drawn(1))
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(b"pred_rgb.npy"))
    data[place + 24 : place + 28] = struct.pack("<I", 2**30 + 1)
    path.write_bytes(bytes(data))
    return path


def no_array(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("gt_rgb.npy", b"no array")
        packed.writestr("pred_rgb.npy", b"")
    return path


def truncated(path: Path) -> Path:
    save_npz(path, drawn(0), drawn(1))
    path.write_bytes(path.read_bytes()[:-100])
    return path


def flipped(path: Path) -> Path:
    """Change a byte in the middle of the colours: the archive's checksum tells."""
    save_npz(path, drawn(0), drawn(1))
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 255
    path.write_bytes(bytes(data))
    return path


def with_nan(images: Images) -> Images:
    images[1, 0, 3, 3] = np.nan
    return images


def link_out(path: Path) -> Path:
    path.symlink_to(save_npz(path.parent.parent / "elsewhere.npz", drawn(0), drawn(1)))
    return path


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a needed member is pickled": (lambda p: np.savez(p, gt_rgb=pickled(), pred_rgb=drawn(0)),
                                   "gt_rgb of .* is not a whole array of numbers: Object arrays cannot be loaded"),
    "a camera is pickled": (lambda p: save_npz(p, drawn(0), drawn(1), world_to_cam=pickled()), "world_to_cam of .* is"),
    "one is missing": (lambda p: np.savez(p, gt_rgb=drawn(0)), "has no pred_rgb; write arrays of these names"),
    "channels last": (lambda p: save_npz(p, drawn(0).transpose(0, 2, 3, 1), drawn(1)),
                      r"gt_rgb of .* has shape \(4, 16, 16, 3\), expected \(views, 3, height, width\): transpose it"),
    "NaN": (lambda p: save_npz(p, drawn(0), with_nan(drawn(1))), "pred_rgb of .* holds a NaN or infinite number"),
    "negative": (lambda p: save_npz(p, drawn(0) - 1, drawn(1)), r"reaches from -0.7\d* to -0.2\d*, expected"),
    "whole numbers": (lambda p: save_npz(p, drawn(0).astype(np.int64), drawn(1)), "holds int64, expected colours as"),
    "shapes differ": (lambda p: save_npz(p, drawn(0), drawn(1, views=3)), "expected equal shapes"),
    "too few views": (lambda p: save_npz(p, drawn(0, 2), drawn(1, 2)), "2 views, of which 2 are references"),
    "no archive": (lambda p: p.write_bytes(b"nothing"), "is not a whole .npz of arrays: File is not a zip file"),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps(Trap())), "is not a whole .npz of arrays"),
    "truncated": (truncated, "is not a whole .npz of arrays"),
    "a bad checksum": (flipped, "is not a whole array of numbers: Bad CRC-32"),
    "no array": (no_array, "gt_rgb of .* is not|gt_rgb of .* holds bytes"),
    "more than it may": (claim_bytes, "pred_rgb of .* has 1073741825 bytes, expected at most 1073741824"),
    "a link that leaves": (link_out, "leads outside"),
    "a broken link": (lambda p: p.symlink_to("nowhere.npz"), "does not exist or is a broken link"),
    "no rotation": (lambda p: save_npz(p, drawn(0), drawn(1), world_to_cam=2 * turned(0, 1, 2, 3)), "not a rigid pose"),
    "cameras of other views": (lambda p: save_npz(p, drawn(0), drawn(1), world_to_cam=turned(0, 1)),
                               r"world_to_cam of .* has shape \(2, 4, 4\), expected \(4, 4, 4\)"),
    "intrinsics of NaN": (lambda p: save_npz(p, drawn(0), drawn(1), intrinsics=np.full((4, 3, 3), np.nan)),
                          "intrinsics of .* hold a NaN"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_archive_is_refused_in_one_line(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    make, message = DAMAGED[damage]
    (tmp_path / "of").mkdir()
    make(tmp_path / "of" / "a.npz")
    line = refused(capsys, tmp_path / "of", tmp_path / "run")
    assert line.startswith("python -m train.evaluate: --predictions none of the 1 scenes of ")
    with pytest.raises((ValueError, OSError), match=message):
        open_predictions(Folder(tmp_path / "of", Reading(strict=True)), 2, torch.device("cpu"))


def images_of(scene: Path, size: int = SIZE) -> Path:
    return save_folder(scene, *((255 * drawn(seed, size=size)).astype(np.uint8) for seed in (0, 1)))


def edit_folder(scene: Path, edit: Callable[[Path], object]) -> None:
    images_of(scene)
    edit(scene)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another name": (lambda s: (s / "truth/view_0.png").rename(s / "truth/x.png"), "has view_0.png, x.png in one of"),
    "no predictions": (lambda s: (s / "prediction").rename(s / "else"), "prediction has no PNG images"),
    "an image of text": (lambda s: (s / "truth/view_1.png").write_text("no image"), "view_1.png is no image"),
    "a truncated image": (lambda s: (s / "truth/view_1.png").write_bytes((s / "truth/view_1.png").read_bytes()[:99]),
                          "view_1.png is not a whole PNG image"),
    "sizes differ": (lambda s: Image.new("RGB", (8, 9)).save(s / "truth/view_3.png"), r"16 x 16 .* and 8 x 9 "),
    "cameras are no JSON": (lambda s: (s / "cameras.json").write_text("{"), "cameras.json is not whole JSON"),
    "a view has no camera": (lambda s: (s / "cameras.json").write_text('{"view_0.png": {}}'), "has no 'view_1.png'"),
    "a camera is no matrix": (
        lambda s: (s / "cameras.json").write_text(
            json.dumps({f"view_{n}.png": {"world_to_cam": [1, 2]} for n in range(4)})
        ), "expected 4 x 4"),
}  # fmt: skip


@pytest.mark.parametrize("damage", FOLDERS)
def test_a_damaged_folder_is_refused_in_one_line(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    edit, message = FOLDERS[damage]
    edit_folder(tmp_path / "of" / "s", edit)
    refused(capsys, tmp_path / "of", tmp_path / "run")
    with pytest.raises((ValueError, OSError), match=message):
        find_scenes(Folder(tmp_path / "of"))["s/"]()


def test_a_scene_that_a_link_leads_out_to_is_refused_unless_links_are_followed(tmp_path: Path):
    images_of(tmp_path / "elsewhere")
    (tmp_path / "of").mkdir()
    (tmp_path / "of" / "s").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads outside"):
        find_scenes(Folder(tmp_path / "of"))["s/"]()
    followed = find_scenes(Folder(tmp_path / "of", Reading(follow_links=True)))["s/"]()
    assert followed.views.count == 4


def test_large_images_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images_of(tmp_path / "s")
    monkeypatch.setattr(predictions, "MOST_BYTES", 4 * 3 * SIZE * SIZE * 4 - 1)
    monkeypatch.setattr(predictions, "read_rgb", None)
    with pytest.raises(ValueError, match="truth has 12288 bytes, expected at most 12287; write fewer or smaller views"):
        find_scenes(Folder(tmp_path))["s/"]()


WRONG = [
    (["--n-ref", "1,2"], "--n-ref 1,2: expected one number with --predictions"),
    (["--n-ref", "0"], "--n-ref 0: expected one number with --predictions"),
    (["--model", "cat3d-tiny:random"], "--predictions takes images as they are, without a model: leave out --model"),
    (["--views", "8", "--groups", "2"], "leave out --groups --views"),
    (["--sampling-steps", "50", "--guidance", "2"], "leave out --sampling-steps --guidance"),
    (["--scenes", "shapes:cluttered", "--seed", "3"], "leave out --scenes --seed"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(wrong) for wrong, _ in WRONG])
def test_flags_that_say_nothing_of_predictions_are_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    save_npz(tmp_path / "of" / "a.npz", drawn(0), drawn(1))
    assert message in refused(capsys, tmp_path / "of", tmp_path / "run", *arguments)


def test_the_number_of_references_must_be_said(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        evaluate.cli(["--predictions", str(tmp_path), "--out", str(tmp_path / "run")])
    assert "how many of the first views they were made from, such as --n-ref 2" in capsys.readouterr().err


def test_a_folder_without_scenes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "of").mkdir()
    assert "has no scenes, expected SCENE.npz with gt_rgb" in refused(capsys, tmp_path / "of", tmp_path / "run")
    assert "there is no such folder" in refused(capsys, tmp_path / "nowhere", tmp_path / "run")

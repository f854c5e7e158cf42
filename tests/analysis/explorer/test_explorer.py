"""Laws of the explorer's part of a page: packing loses nothing, the budget holds, other runs fit or are refused."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from analysis import report
from analysis.explorer.packing import FIELDS, Block, pack, unpack, within
from analysis.explorer.part import BEFORE, explorer_part
from analysis.explorer.payload import LEFT_OUT, payload, start_of
from analysis.explorer.reading import VERSION, Explored, explored, read_beside
from analysis.explorer.still import attention
from analysis.probing import page as pages
from analysis.probing.tables import read_run
from probe.records import RunError

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(make_explored: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_explored(tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def beside(make_explored: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_explored(tmp_path_factory.mktemp("runs") / "cameo", seed=1, model="cameo")


@pytest.fixture(scope="module")
def own(folder: Path) -> Explored:
    found = explored(read_run(folder))
    assert found is not None
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures: they have tests of their own."""
    monkeypatch.setattr(pages, "_figures", lambda run: {})


# --- packing ---------------------------------------------------------------------------------------------------------


@given(data=st.data(), kind=st.sampled_from(list(FIELDS)), seed=st.integers(0, 10_000))
def test_unpacking_gives_back_what_was_packed(data: st.DataObject, kind: str, seed: int):
    lead = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
    asked, other, cells = (data.draw(st.integers(1, most)) for most in (7, 3, 9))
    random, arrays = np.random.default_rng(seed), {}
    for name, width, each in FIELDS[kind]:
        tail = (cells,) if each == 0 else (each,) if each > 1 else ()
        kinds = np.uint16 if width == 2 else np.uint8
        arrays[name] = random.integers(0, 256**width, (*lead, asked, other, *tail), dtype=kinds)
    back = unpack(pack(arrays, kind), kind, {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def blocks(*sizes: int, scene: int = 0) -> list[Block]:
    return [Block(path=(scene, 0, n, None), make=partial(str.__mul__, "x", size)) for n, size in enumerate(sizes)]


def test_what_fits_is_taken_in_order_known():
    first, second, third = blocks(5, 9, 4), blocks(3, 3, scene=1), blocks(1, scene=2)
    chosen, dropped = within([first, second, third], 10)
    assert chosen == [first[0], first[2], third[0]]  # the second group only as a whole
    assert dropped == [first[1], *second]


def test_what_surely_is_too_large_is_not_packed():
    block = Block(path=(0, 0, 0, None), make=partial(pytest.fail, "it was packed"), least=11)
    assert within([[block]], 10) == ([], [block])


@given(sizes=st.lists(st.lists(st.integers(0, 30), max_size=4), max_size=4), budget=st.integers(0, 100))
def test_the_budget_holds_and_nothing_is_lost(sizes: list[list[int]], budget: int):
    groups = [blocks(*group, scene=n) for n, group in enumerate(sizes)]
    chosen, dropped = within(groups, budget)
    assert sum(len(block.text) for block in chosen) <= budget
    assert sorted(b.path[:3] for b in [*chosen, *dropped]) == [b.path[:3] for group in groups for b in group]


def test_the_page_says_what_is_left_out(own: Explored):
    whole = payload([own])
    assert whole["dropped"] == ""
    sizes = {path: len(text) for path, text in whole["blocks"].items()}
    kinds = {kind: [path for path in sizes if path.startswith(f"{kind}/0/")] for kind in LEFT_OUT}
    # three layers, at two timesteps where a block is of one; queries and keys of layer 10, maps of the others
    assert [len(kinds[kind]) for kind in LEFT_OUT] == [3, 2, 2, 4, 4]
    first = [*kinds["together"], "exact/0/0/10/1"]
    less = payload([own], sum(sizes[path] for path in first))
    assert set(less["blocks"]) == set(first)
    assert "scene room-1; attention of some layers at t = 100 of scene room-0" in less["dropped"]
    assert "matches of single heads at t = 100 and 500 of scene room-0" in less["dropped"]
    assert less["scenes"][1] is None
    assert whole["held"] == "The page holds the attention of layer 10 at t = 100 and 500, in every scene."
    assert less["held"] == "The page holds the attention of layer 10 at t = 500, in every scene."
    assert less["start"]["layer"] == 10
    # the selected layer comes first
    assert "together/0/0/10" in payload([own], sizes["together/0/0/10"])["blocks"]


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_without_it_has_no_explorer(run_folder: Path, quick: None):
    assert explored(read_run(run_folder)) is None
    html = report.build_report(run_folder).read_text(encoding="utf-8")
    assert 'id="explorer"' not in html
    assert html.count("This run kept nothing for the match explorer; probe it again") == 1


def change(folder: Path, name: str, value: np.ndarray | None) -> None:
    tensors = load_file(folder / "explorer.safetensors")
    key = next(key for key in tensors if key.startswith(name))
    tensors[key] = value  # type: ignore[assignment]
    save_file({key: value for key, value in tensors.items() if value is not None}, folder / "explorer.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("map/2/", None, "lacks map/2/room-"),
        ("k/10/", np.zeros((2, 3, 5, 2, 4), np.float16), r"does not fit, in k/10"),
        ("within/10/", None, "lacks within/10/room-"),
        ("runner_up/2/", None, "lacks runner_up/2/room-"),
        ("head_token/7/", np.zeros((2, 3, 3, 5, 2), np.uint16), r"does not fit, in head_token/7"),
        ("right/2/", np.zeros((1, 3, 256, 2), bool), r"does not fit, in right/2"),
        ("views/-/", np.zeros(1, np.int64), "does not fit"),
    ],
)
def test_a_damaged_file_is_refused(
    make_explored: Make, tmp_path: Path, name: str, value: np.ndarray | None, message: str
):
    folder = make_explored(tmp_path / "run")
    change(folder, name, value)
    with pytest.raises(RunError, match=message) as error:
        explored(read_run(folder))
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_refused(make_explored: Make, tmp_path: Path):
    folder = make_explored(tmp_path / "run")
    content = (folder / "explorer.safetensors").read_bytes()
    (folder / "explorer.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"explorer.safetensors cannot be read: .*run the probe again"):
        read_run(folder)


def test_other_runs_must_show_the_same_views(
    make_explored: Make, own: Explored, beside: Path, run_folder: Path, tmp_path: Path
):
    assert read_beside(beside, own).run.model == "cameo"
    with pytest.raises(RunError, match=r"read_beside: .* has no explorer.safetensors; run its probe again"):
        read_beside(run_folder, own)
    other = make_explored(tmp_path / "other", scenes=("hall-0", "hall-1", "hall-2"))
    with pytest.raises(RunError, match="shows other scenes than plain; probe both models with the same"):
        read_beside(other, own)
    shutil.copy(beside / "explorer.safetensors", other)
    images = load_file(beside / "examples.safetensors")
    save_file({name: 255 - image for name, image in images.items()}, other / "examples.safetensors")
    with pytest.raises(RunError, match="shows other scenes than plain"):
        read_beside(other, own)
    save_file(images, other / "examples.safetensors")
    selection = json.loads((other / "selection.json").read_text())
    (other / "selection.json").write_text(json.dumps(selection | {"metric": "precision@2%"}))
    with pytest.raises(RunError, match="ranks by precision@2%, plain by precision@5%"):
        read_beside(other, own)


def test_it_starts_at_the_pair_nearest_the_median(own: Explored):
    start = start_of(own, own.scenes, (0, 1))
    shares = {}
    for n, scene in enumerate(own.scenes[:2]):
        right, seen = own.get("right", 10, scene)[1], own.get("visible", "16x16", scene)
        for view in (1, 2):
            shares[n, view] = right[view, :, 0][seen[view, :, 0]].mean()
    away = {pair: abs(share - np.median(list(shares.values()))) for pair, share in shares.items()}
    assert away[start.scene, start.view] == min(away.values())
    scene = own.scenes[start.scene]
    seen = own.get("visible", "16x16", scene)[start.view, :, 0]
    token = own.get("token", 10, scene)[1, start.view, :, 0]
    match = (np.stack([token % 16, token // 16], -1) + 0.5) / 16
    error = np.linalg.norm(match - own.get("true_xy", "16x16", scene)[start.view, :, 0], axis=-1)
    assert seen[start.token]
    below, above = (error[seen] < error[start.token]).mean(), (error[seen] > error[start.token]).mean()
    assert below <= 0.5
    assert above <= 0.51


def test_it_opens_on_the_selected_layer_where_one_is_above_its_null(own: Explored):
    assert own.run.layers["above_null"].any()
    assert (start_of(own, own.scenes, (0, 1)).layer, own.layers[0]) == (own.run.layer, own.run.layer)
    assert explorer_part([own]).opening == ""
    assert "It opens on the selected layer, 10, at the middle timestep." in explorer_part([own]).limits


def test_where_no_layer_is_above_its_null_it_opens_on_the_highest_precision(make_explored: Make, tmp_path: Path):
    """The selected layer has the highest share of its ceiling, and that may be next to nothing."""
    low = explored(read_run(make_explored(tmp_path / "low", quality={2: 0.05, 7: 0.08, 10: 0.02})))
    assert low is not None
    precision = low.run.layers.set_index("layer")["precision"]
    assert not low.run.layers["above_null"].any()
    assert (low.run.layer, int(precision.idxmax())) == (7, 2)
    assert start_of(low, low.scenes, (0, 1)).layer == 2
    assert low.layers == [2, 7, 10]
    part = explorer_part([low])
    rule = "No layer is shown to be above its strongest null, so it opens on the one of highest precision: layer 2 with"
    assert part.opening.startswith(f"{rule} {100 * precision[2]:.1f}\u00a0% (the selected layer, 7, has ")
    assert part.opening in part.limits
    assert (part.payload["start"]["layer"], part.payload["models"][0]["selected"]) == (2, 7)
    assert "layer 2," in part.caption


def test_attention_known():
    q, k = np.array([[[[2.0, 0]]]]), np.array([[[[1, 9]], [[0, 9.0]]]])
    weights = attention(q, k, np.array([[[0.5]]]), view=0, token=0)
    np.testing.assert_allclose(weights, [[0.5 * np.e**2 / (np.e**2 + 1), 0.5 / (np.e**2 + 1)]])


def older(folder: Path, version: int) -> Explored:
    """Read a run as an older version of the suite wrote it: 2 with 8 bits and steps, 1 with maps alone."""
    tensors = {n: x for n, x in load_file(folder / "explorer.safetensors").items() if n.split("/")[0] not in NEW}
    for name in [name for name in tensors if name.split("/")[0] in ("q", "k")]:
        value = tensors.pop(name).astype(np.float32)
        if version == 2:
            step = np.abs(value).max(-1) / 127
            tensors |= {name: np.rint(value / step[..., None]).astype(np.int8), name.replace("/", "_step/", 1): step}
        else:
            pairs = tensors[name.replace("q/", "token/").replace("k/", "token/")].shape
            tensors[name.replace("q/", "map/").replace("k/", "map/")] = np.ones((*pairs, 64), np.uint8)
            heads = tensors[name.replace("q/", "head_token/").replace("k/", "head_token/")].shape
            tensors[name.replace("q/", "head_map/").replace("k/", "head_map/")] = np.ones((*heads, 64), np.uint8)
    save_file(tensors, folder / "explorer.safetensors")
    found = explored(read_run(folder))
    assert found is not None
    return found


NEW = ("version", "within")


def test_runs_of_older_versions_are_shown(make_explored: Make, own: Explored, tmp_path: Path):
    coded = older(make_explored(tmp_path / "coded"), 2)
    assert (coded.version, own.version) == (2, VERSION)
    new, old = (model.attention(10, "room-0", 1) for model in (own, coded))
    assert np.abs(new["q"] - old["q"]).max() < np.abs(new["q"]).max() / 127
    assert (old["within"] == 1).all()
    assert "exact/0/0/10/1" in payload([coded])["blocks"]
    assert BEFORE not in explorer_part([coded]).limits
    maps = older(make_explored(tmp_path / "maps"), 1)
    assert maps.version == 1
    assert not [name for name in payload([maps])["blocks"] if name.startswith("exact")]
    assert BEFORE in explorer_part([maps]).limits


def test_a_later_version_is_refused(make_explored: Make, tmp_path: Path):
    folder = make_explored(tmp_path / "run")
    change(folder, "version/-/", np.array([VERSION + 1]))
    with pytest.raises(RunError, match=r"has version 4, expected at most 3; update this suite, or run the probe again"):
        explored(read_run(folder))


# --- the page --------------------------------------------------------------------------------------------------------


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="explorer-data">(.*?)</script>', html, re.S)[1])


def test_the_page_holds_what_the_file_holds(folder: Path, beside: Path, quick: None):
    html = report.build_report(folder, [beside]).read_text(encoding="utf-8")
    assert html == report.build_report(folder, [beside]).read_text(encoding="utf-8")
    assert len(html) < 10e6
    assert set(re.findall(r"https?://[^\s\"'<)]*", html)) == {
        "https://arxiv.org/abs/2512.03045",
        "http://www.w3.org/2000/svg",
    }
    data = data_of(html)
    assert [model["name"] for model in data["models"]] == ["tiny (plain)", "cameo (cameo)"]
    for number, run in enumerate((folder, beside)):
        tensors = load_file(run / "explorer.safetensors")
        for layer in (2, 7, 10):
            shapes = {name: tensors[f"{name}/{layer}/room-0"].shape for name, _, _ in FIELDS["together"]}
            found = unpack(data["blocks"][f"together/0/{number}/{layer}"], "together", shapes)
            for name, value in found.items():
                np.testing.assert_array_equal(value, tensors[f"{name}/{layer}/room-0"])


def test_names_stay_text(make_explored: Make, tmp_path: Path, quick: None):
    hostile = "</script><script>alert('x')</script>{{ 1 }}"
    folder = make_explored(tmp_path / "run", model=hostile, scenes=(hostile, "room-1", "room-2"))
    html = report.build_report(folder).read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert html.count("<script") == html.count("</script>") == 3
    assert data_of(html)["models"][0]["name"] == f"{hostile} (run)"
    assert hostile in [scene["name"] for scene in data_of(html)["scenes"]]


def test_without_scripts_and_in_print_there_is_a_still_picture(folder: Path, quick: None):
    html = report.build_report(folder).read_text(encoding="utf-8")
    still = html[html.index('<div class="explorer-still">') : html.index('id="explorer-data"')]
    tensors, data = load_file(folder / "explorer.safetensors"), data_of(html)["start"]
    assert still.count('<svg class="panel" role="img"') == 3
    for slot in (0, 1):
        scene, at = f"room-{data['scene']}", (data["view"], data["token"], slot)
        right, seen = tensors[f"right/10/{scene}"][1][at], tensors[f"visible/16x16/{scene}"][at]
        assert seen or slot
        view = slot + (slot >= data["view"])
        verdict = ("right" if right else "wrong") if seen else "not seen here: no truth"
        assert f'aria-label="view {view}: {verdict}"' in still


def test_the_command_shows_runs_beside_one(
    folder: Path, beside: Path, quick: None, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert report.main([str(folder), "--explore-with", str(beside)]) == 0
    assert len(data_of((folder / "report.html").read_text(encoding="utf-8"))["models"]) == 2
    assert report.main(["--explore-with", str(beside)]) == 2
    assert "--explore-with: 0 runs were named, expected one" in capsys.readouterr().err

"""A page of each kind, built from runs made by hand."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from finished_runs import STEPS, make_run
from safetensors.numpy import load_file

from analysis.building import build_comparison, build_index, build_report
from analysis.explorer.photos import Shown, photo_page
from probe.records import rotation_bin, summarise

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
KINDS = ("probe", "study", "training", "evaluation", "comparison", "photos", "index")


def build_every_kind(folder: Path, make_explored: Callable[..., Path]) -> dict[str, Path]:
    """Write one page of each of :data:`KINDS` below a folder.

    Args:
        folder: Runs go into its ``runs``, the index and the comparison into its ``reports``.
        make_explored: Writes a probe run with the data of the match explorer.
    """
    runs, reports = folder / "runs", folder / "reports"
    probes = [make_explored(runs / name, seed, model=name) for seed, name in enumerate(("plain", "cameo"))]
    built = {
        "probe": build_report(probes[0], probes[1:]),
        "study": build_report(study_run(runs / "study")),
        "training": build_report(training_run(runs / "training")),
        "evaluation": build_report(evaluation_run(runs / "evaluation")),
        "comparison": build_comparison(*probes, reports)[0],
        "photos": photos_of(probes[0], folder / "photos.html"),
    }
    build_report(probes[1])
    found = [*probes, *(runs / name for name in ("study", "training", "evaluation"))]
    return {**built, "index": build_index(found, reports / "index.html")}


def study_run(folder: Path) -> Path:
    """Write the tables of a study of two variants with three seeds."""
    folder.mkdir(parents=True)
    rows = [
        (variant, seed, step, metric, value + seed)
        for variant, gain in (("plain", 0.0), ("cameo", 2.0))
        for seed in range(3)
        for step in STEPS
        for metric, value in (("psnr", 8 + step / 10 + gain), ("copy_psnr", 11.0), ("precision_12", step / 100))
    ]
    table = pd.DataFrame(rows, columns=["variant", "seed", "step", "metric", "value"])
    table.to_csv(folder / "study.csv", index=False)
    summary = table.groupby(["variant", "step", "metric"], sort=False)["value"].agg(["mean", "count"]).reset_index()
    summary.assign(low=float("nan"), high=float("nan")).to_csv(folder / "summary.csv", index=False)
    reach = [(name, seed, "psnr", 11.0, 30 * ratio, ratio, "") for name, ratio in (("plain", 1.0), ("cameo", 0.5))
             for seed in range(3)]  # fmt: skip
    columns = ["variant", "seed", "metric", "goal", "step", "ratio", "note"]
    pd.DataFrame(reach, columns=columns).to_csv(folder / "reach.csv", index=False)
    settings = [("plain", "none", "none"), ("cameo", "12", "none")]
    pd.DataFrame(settings, columns=["variant", "layer", "control"]).to_csv(folder / "settings.csv", index=False)
    config = {"settings": {"layer": 12, "other_layer": 10, "steps": 30}, "environment": {"commit": "0123"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def training_run(folder: Path) -> Path:
    """Write a training run with samples."""
    make_run(folder, (9.0, 11.0, 12.5), model="tiny", scenes="shapes", layer="12", objective="cameo")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "environment": {"commit": "0123"}}))
    logged = [{"step": step, "loss": 8 / step, "gradient_norm": 1.0, "seconds": 0.5} for step in STEPS]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    probed = [(step, "shapes", layer, f"layer.{layer}", "8x8", step / 100, 0.0, 0.5, 0.02)
              for step in STEPS for layer in (10, 12)]  # fmt: skip
    columns = ["step", "scenes", "layer", "layer_name", "grid", "value", "low", "high", "chance"]
    pd.DataFrame(probed, columns=columns).to_csv(folder / "emergence.csv", index=False)
    (folder / "samples.png").write_bytes(PIXEL)
    return folder


def evaluation_run(folder: Path) -> Path:
    """Write an evaluation of eight scenes with samples."""
    folder.mkdir(parents=True)
    settings = {"model": "tiny", "scenes": "shapes", "groups": 4, "views": 3, "n_ref": [1], "sampling_steps": 10,
                "guidance": 1.0, "features": [], "seed": 5, "out": "runs/evaluate"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"settings": settings, "environment": {"commit": "0123456789ab"}}))
    levels = {("model", "psnr"): 15.0, ("copy", "psnr"): 11.0, ("mean colour", "psnr"): 12.0, ("model", "ssim"): 0.2,
              ("copy", "ssim"): 0.5, ("mean colour", "ssim"): 0.1}  # fmt: skip
    rows = pd.DataFrame([
        {"scene": f"room-{scene}", "view": view, "rotation_deg": 30.0 * (scene % 4) + 10 * view, "n_ref": 1,
         "method": method, "metric": metric, "count": 1, "value": level + 0.01 * scene}
        for scene in range(8) for view in (1, 2) for (method, metric), level in levels.items()
    ])  # fmt: skip
    rows.to_csv(folder / "images.csv", index=False)
    both = pd.concat([rows.assign(rotation_bin=rotation_bin(rows["rotation_deg"]).astype(str)),
                      rows.assign(rotation_bin="all")])  # fmt: skip
    summary = summarise(both, ["n_ref", "rotation_bin", "method", "metric"], shares=False).assign(note="")
    summary.to_csv(folder / "summary.csv", index=False)
    keys = ["scene", "view", "rotation_deg", "n_ref"]
    wide = rows.pivot_table(index=keys, columns=["method", "metric"], values="value")
    worst = wide["model"].reindex(columns=["psnr", "ssim", "lpips", "match_error"])
    worst = worst.assign(copy_psnr=wide["copy"]["psnr"], truth_match_error=float("nan"))
    worst.reset_index().sort_values("psnr").to_csv(folder / "worst.csv", index=False)
    (folder / "samples.png").write_bytes(PIXEL)
    return folder


def photos_of(probe: Path, path: Path) -> Path:
    """Write the page of photos from what a probe run kept of one scene."""
    kept = load_file(probe / "explorer.safetensors")
    scene = "room-0"
    tensors = {
        f"{name.rpartition('/')[0]}/photos": tensor for name, tensor in kept.items() if name.endswith(f"/{scene}")
    }
    layers = pd.read_csv(probe / "layers.csv")
    shown = Shown(
        model="tiny",
        layers=tuple((row.layer, row.name_, (row.grid_h, row.grid_w)) for row in
                     layers.rename(columns={"name": "name_"}).itertuples()),
        first=10,
        timesteps=pd.read_csv(probe / "timesteps.csv"),
        image=load_file(probe / "examples.safetensors")[f"image/{scene}"],
        tensors=tensors,
        names=("a.jpg", "b.jpg", "c.jpg"),
        shown="The model takes no noise.",
        command="python -m probe.show tiny --image a.jpg b.jpg c.jpg",
    )  # fmt: skip
    path.write_text(photo_page(shown), encoding="utf-8")
    return path

"""Finished runs of a study made by hand: what the trainer would leave, without training."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

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


def reach_of(reach: pd.DataFrame, variant: str, metric: str, seed: int = 0) -> pd.Series:
    found = reach[(reach["variant"] == variant) & (reach["metric"] == metric) & (reach["seed"] == seed)]
    assert len(found) == 1
    return found.iloc[0]

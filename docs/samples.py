"""Draw samples of the shipped plain and supervised weights beside the truth: ``python docs/samples.py`` (a minute)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.study.samples import draw_rows
from probe.models import load_model
from probe.models.names import SHIPPED
from probe.models.parts.files import Loading
from probe.records import COPY, MODEL, TRUTH, parse_json, write, write_json
from train.flags import Command
from train.monitor import hold_out
from train.studying.pictures import ROOMS, RULE, at_ranks, sample_with, scene_psnr
from train.training import scenes_of

REFERENCE = Path(__file__).parents[1] / "reports" / "reference"
SHOWN = ("plain", "supervised")
SAMPLING_STEPS = 20


def draw() -> None:
    """Write reports/reference/samples.png, and samples.json, which tells what it shows."""
    model = load_model("cat3d-tiny:random", Loading())
    _, held_out_draw = scenes_of(Command(), model)
    held_out = hold_out(model, held_out_draw, ROOMS, SAMPLING_STEPS)
    folders = {name: SHIPPED[name] for name in SHOWN}
    drawn = {name: sample_with(model, folder, held_out) for name, folder in folders.items()}
    steps = {name: parse_json((folder / "card.json").read_text())["steps"] for name, folder in folders.items()}
    chosen = at_ranks(drawn[SHOWN[0]])
    first = drawn[SHOWN[0]].targets
    columns = [("reference", first[COPY]), ("truth", first[TRUTH])]
    columns += [(f"{name}\nstep {steps[name]}", quality.targets[MODEL]) for name, quality in drawn.items()]
    picture = draw_rows([(title, images[chosen, 0].cpu().numpy()) for title, images in columns])
    write(REFERENCE / "samples.png", lambda part: part.write_bytes(picture))
    psnr = {name: [float(scene_psnr(quality)[index]) for index in chosen] for name, quality in drawn.items()}
    write_json(REFERENCE / "samples.json", {"rule": RULE, "steps": steps, "scenes": chosen, "psnr": psnr})


if __name__ == "__main__":
    draw()

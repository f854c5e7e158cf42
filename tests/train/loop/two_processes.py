"""Run by torchrun FOLDER OBJECTIVE ...: write the averaged gradients of one step, and the losses of three."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))
torch.set_num_threads(1)

from training import SETTINGS, added, small_model, small_trainer  # noqa: E402

from train import loop  # noqa: E402


def main(out: Path, objective: str) -> None:
    """Take the gradients and save them from the main process."""
    accelerator, model = Accelerator(cpu=True), small_model()
    out.parent.mkdir(exist_ok=True)
    trainer = small_trainer(replace(SETTINGS, batch_size=4, weight=0.5), model, added(model, objective), accelerator)
    loop.accumulate_gradients(trainer, 0)
    if accelerator.is_main_process:
        named = accelerator.unwrap_model(trainer.module).named_parameters()
        gradients = {name: weight.grad.clone().contiguous() for name, weight in named}
    rows = [loop.take_step(trainer, step) for step in range(3)]
    if accelerator.is_main_process:
        losses = torch.tensor([[row["loss"], row["objective"], row["gradient_norm"]] for row in rows])
        save_file({**gradients, "losses": losses, "processes": torch.tensor(accelerator.num_processes)}, out)
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    for objective in sys.argv[2:]:
        main(Path(sys.argv[1]) / f"{objective}.safetensors", objective)

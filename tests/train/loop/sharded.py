"""Run by torchrun: print the losses of a loop of one's own, on a network whose weights FSDP shares out or does not."""

# ruff: noqa: I001 (probe.models comes before diffusers: probe/compat.py says why)
import sys

import torch
from torch.distributed import destroy_process_group, get_rank, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import probe.models  # noqa: F401
from diffusers import WanTransformer3DModel
from probe.capture import AttentionTap
from probe.correspondence import TokenMatches
from train.alignment import CorrespondenceAlignment

LAYER, STEPS = "blocks.1.attn1", 3
SIZE = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "ffn_dim": 32, "patch_size": (1, 2, 2)}


def main(shared: bool) -> None:
    """Take supervised steps on random views and matches."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(**SIZE, in_channels=3, out_channels=3, text_dim=8, freq_dim=32)
    alignment = CorrespondenceAlignment(heads=2)
    init_process_group("gloo")
    if shared:
        mesh = init_device_mesh("cpu", (2,))
        for part in (*model.blocks, model):
            fully_shard(part, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    video, counted = torch.randn(2, 3, 2, 8, 8), ~torch.eye(2, dtype=torch.bool).view(1, 2, 1, 2).expand(2, 2, 16, 2)
    matches = TokenMatches(index=torch.randint(16, (2, 2, 16, 2)), counted=counted)
    for step in range(STEPS):
        with AttentionTap(model, LAYER, keep="graph") as tap:
            flow = model(video, torch.tensor([500, 900]), torch.zeros(2, 1, 8), return_dict=False)[0]
        loss = (flow - video).square().mean() + alignment(tap[LAYER].q, tap[LAYER].k, matches, 1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if get_rank() == 0:
            print(f"step {step}: {loss.item():.9g}")
    destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1] == "shared")

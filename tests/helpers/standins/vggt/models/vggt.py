"""A stand-in: colours are points, and every camera stands two units from the one before it."""

import torch
from torch import nn


class VGGT(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.given = []

    def forward(self, images):
        self.given.append(images)
        b, s = images.shape[:2]
        pose_enc = torch.zeros(b, s, 9)
        pose_enc[..., 1] = 2.0 * torch.arange(s)
        return {"world_points": self.gain * images.movedim(2, -1), "pose_enc": pose_enc, "images": images}

"""Measure where the 3D attention of multi-view diffusion models finds corresponding points, layer by layer."""

from probe.compat import prepare_torchvision

prepare_torchvision()

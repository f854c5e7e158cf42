"""Models that can be probed."""

from probe.compat import declare_torchvision_operators

declare_torchvision_operators()  # before the first import of diffusers, which imports torchvision

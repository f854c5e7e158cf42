"""Measure where the 3D attention of multi-view diffusion models finds corresponding points, layer by layer."""

import os

from probe.compat import prepare_torchvision

# Threads of OpenMP that wait for work spin by default: on a busy machine a small network then takes 20 times the
# processor time, bit for bit the same. This must be set before torch is imported; a user's own value is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
prepare_torchvision()

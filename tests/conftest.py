"""Two workers on two cores: each computes on one thread."""

import torch

torch.set_num_threads(1)

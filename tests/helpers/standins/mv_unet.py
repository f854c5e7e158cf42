"""Stands in for mv_unet.py of the diffusers port: the same network, whose settings are stored in unet/config.json."""

import xformers.ops  # the port does not run without
from mvdream.ldm.modules.diffusionmodules.openaimodel import MultiViewUNetModel

__all__ = ["MultiViewUNetModel", "xformers"]

"""Multi-view diffusion models: one file per family, one visible dict. A family is imported when it is loaded."""

from typing import TYPE_CHECKING

from probe.models.about import ABOUT
from probe.models.names import MODELS, SHIPPED
from probe.registry import lazy_names

if TYPE_CHECKING:
    from probe.models.loading import load_model, randomised
    from probe.models.model import MultiViewModel
    from probe.models.schedules import pixel_scheduler
    from probe.models.tiny import fresh_tiny, load_folder

__all__ = [
    "ABOUT",
    "MODELS",
    "SHIPPED",
    "MultiViewModel",
    "fresh_tiny",
    "load_folder",
    "load_model",
    "pixel_scheduler",
    "randomised",
]
__getattr__ = lazy_names(__name__, __all__, "schedules", "model", "loading", "tiny")

"""Models by name, and their control with random weights."""

from dataclasses import replace

from probe.models.about import ABOUT
from probe.models.model import MultiViewModel
from probe.models.names import MODELS
from probe.models.parts.files import Loading
from probe.records.names import RANDOM_WEIGHTS


def load_model(spec: str, loading: Loading | None = None) -> MultiViewModel:
    """Load a model named as on the command line, ``NAME[:PATH_OR_HUB_ID]``; its card has its licence and origin.

    Raises:
        ValueError: If the name is unknown or its weights cannot be read.
    """
    name, _, source = spec.partition(":")
    if name not in MODELS:
        raise ValueError(f"{name!r} is unknown; choose one of {', '.join(MODELS)} (NAME or NAME:FOLDER)")
    model: MultiViewModel = MODELS[name](source, loading or Loading())
    about = ABOUT[str((model.card or {}).get("family", name))]
    return replace(model, card={**(model.card or {}), "about": about.record()})


def randomised(model: MultiViewModel, seed: int) -> MultiViewModel:
    """Return the same network with random weights: what its wiring alone finds."""
    network = model.fresh(seed).eval().requires_grad_(False)
    card: dict[str, object] = {"weights": f"random, seed {seed}"}
    return replace(model, name=model.name + RANDOM_WEIGHTS, network=network, card=card, folder=None)

"""Models by name, and their control with random weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

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
    with _of_files(name, source):
        model: MultiViewModel = MODELS[name](source, loading or Loading())
    about = ABOUT[str((model.card or {}).get("family", name))]
    return replace(model, card={**(model.card or {}), "about": about.record()})


@contextmanager
def _of_files(name: str, source: str) -> Iterator[None]:
    """Refuse files whose settings are of other kinds than a loader and diffusers' classes count on."""
    try:
        yield
    except (TypeError, LookupError, AttributeError, NameError, ArithmeticError, AssertionError) as error:
        if name == "module" or not Path(source).exists():
            raise
        raise ValueError(
            f"{name}:{source} has settings that nothing can be built of ({type(error).__name__}: {error}); fetch the "
            "files again, or correct them"
        ) from error


def randomised(model: MultiViewModel, seed: int) -> MultiViewModel:
    """Return the same network with random weights: what its wiring alone finds."""
    network = model.fresh(seed).eval().requires_grad_(False)
    card: dict[str, object] = {"weights": f"random, seed {seed}"}
    return replace(model, name=model.name + RANDOM_WEIGHTS, network=network, card=card, folder=None)

"""The toy that the tests of edits share: it is made once for each file."""

import pytest
from edited_toys import toy_layers, toy_model, toy_scene

from probe.layers import Layer
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return toy_model()


@pytest.fixture(scope="module")
def layers(model: MultiViewModel) -> list[Layer]:
    return toy_layers(model)


@pytest.fixture(scope="module")
def scene(model: MultiViewModel) -> Scene:
    return toy_scene(model)

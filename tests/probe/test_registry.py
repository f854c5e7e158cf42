"""Registries: every path leads to a function, and listing the names imports none of the heavy packages."""

import subprocess
import sys

import pytest

import probe.models
from probe.baselines import BASELINES, NULLS
from probe.correspondence import SOURCES
from probe.models import ABOUT, MODELS
from probe.registry import Choice
from probe.scenes import DATA_SETS, GENERATED, SCENES, VIDEOS

REGISTRIES = {"MODELS": MODELS, "SCENES": SCENES, "BASELINES": BASELINES, "SOURCES": SOURCES}
HEAVY = ("torch", "diffusers", "cv2", "numpy", "pandas")


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)
def test_every_choice_is_a_function_with_a_summary_of_one_line(registry: dict):
    for choice in registry.values():
        assert isinstance(choice, Choice)
        assert callable(choice.load())
        assert choice.summary
        assert "\n" not in choice.summary


def test_names_are_listed_without_importing_what_is_slow():
    packages = "import probe.scenes, probe.models, probe.baselines, probe.correspondence"
    code = f"import sys; {packages}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_loading_a_model_imports_its_family_alone():
    code = "import sys; from probe.models import load_model; load_model('cat3d-tiny:random'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    families = {choice.path.partition(":")[0] for choice in MODELS.values()}
    assert families & set(done.stdout.split()) == {"probe.models.tiny", "probe.models.cat3d"}  # tiny has cat3d's layout


def test_a_choice_is_called_like_its_function():
    assert Choice("builtins:max", "the largest")(1, 3, key=lambda x: -x) == 1


def test_scenes_are_the_generated_ones_and_the_data_sets(monkeypatch: pytest.MonkeyPatch):
    assert list(SCENES) == [*GENERATED, *DATA_SETS, *VIDEOS]
    monkeypatch.setitem(DATA_SETS, "mine", print)
    assert SCENES["mine"] is print


def test_every_model_says_what_to_know_of_it():
    assert ABOUT.keys() == MODELS.keys()


def test_nulls_are_no_matchers():
    assert not NULLS.keys() & BASELINES.keys()


def test_public_names_are_there_and_others_are_not():
    assert all(hasattr(probe.models, name) for name in probe.models.__all__)
    with pytest.raises(AttributeError, match=r"has no attribute .laod_model"):
        probe.models.laod_model  # noqa: B018

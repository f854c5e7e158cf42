"""The index: runs stand by model and data, each probe with its layers; the page works without a script."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from page_kinds import study_run, training_run

from analysis.building import build_index
from analysis.overview.index import SPARK, Line, groups, sparkline
from analysis.probing.page import ProbeEntry


def entry(
    model: str = "m", scenes: str = "s", profile: tuple[float, ...] = (0.1, 0.2), selected: int = 1
) -> ProbeEntry:
    layers = tuple((n, value, f"{100 * value:.0f} %") for n, value in enumerate(profile))
    return ProbeEntry(link="", name="", model=model, scenes=scenes, protocol="", layer="", precision="", share="",
                      selected=selected, profile=layers)  # fmt: skip


def test_runs_of_one_model_on_the_same_scenes_stand_together():
    lines = [Line(entry=entry(model, scenes), folder=str(n)) for n, (model, scenes) in enumerate(
        [("a", "x"), ("b", "x"), ("a", "x"), ("a", "y")])]  # fmt: skip
    found = {name: [line.folder for line in members] for name, members in groups(lines).items()}
    assert found == {"a on x": ["0", "2"], "b on x": ["1"], "a on y": ["3"]}


@pytest.mark.parametrize(
    "profile", [(0.1, 0.4, 0.2), (0.0, 0.0), (0.5,), (np.nan, 0.3, np.nan), (np.nan,), (1.0,) * 40]
)
def test_a_small_picture_stays_in_its_frame_and_says_its_numbers(profile: tuple[float, ...]):
    svg = ElementTree.fromstring(str(sparkline(entry(profile=profile, selected=0))))
    circles = [c for c in svg.iter("circle") if c.get("class") is None]
    assert len(circles) == np.isfinite(profile).sum()
    assert all(0 <= float(c.attrib["cx"]) <= SPARK[0] and 0 <= float(c.attrib["cy"]) <= SPARK[1] for c in circles)
    heights = [-float(c.attrib["cy"]) for c in circles]
    known = [value for value in profile if np.isfinite(value)]
    assert np.argsort(heights, kind="stable").tolist() == np.argsort(known, kind="stable").tolist()
    assert svg.attrib["aria-label"].count("layer ") == len(profile)
    ring = [c for c in svg.iter("circle") if c.get("class") == "selected"]
    assert len(ring) == np.isfinite(profile[0])


def test_a_layer_that_was_not_measured_leaves_a_gap():
    path = ElementTree.fromstring(str(sparkline(entry(profile=(0.1, 0.2, np.nan, 0.4))))).find("path")
    assert path is not None
    assert path.attrib["d"].count("M") == 1


def test_the_page_names_groups_and_the_words_to_compare(make: Callable[[Path], Path], tmp_path: Path):
    runs = [make(tmp_path / "runs" / "a b"), make(tmp_path / "runs" / "c"), study_run(tmp_path / "runs" / "study"),
            training_run(tmp_path / "runs" / "training")]  # fmt: skip
    page = build_index(runs, tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count('class="spark"') == 2
    assert re.findall(r'scope="rowgroup" class="text">([^<]*)<', page) == ["tiny on shapes", "tiny on shapes"]
    words = [word.replace("&#39;", "'") for word in re.findall(r'<tr data-run="([^"]*)"', page)]
    assert words == [f"'{runs[0]}'", str(runs[1]), str(runs[3])], "as the shell reads them"
    assert "<input" not in page.partition("<script>")[0].replace('<input type="search"', ""), "ticks come by script"
    assert 'data-part="tools" hidden' in page

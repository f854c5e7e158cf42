"""Sentences that terminal and page share."""

import pytest

from probe.records.words import shorten, too_few


@pytest.mark.parametrize(("units", "text"), [(1, "1 independent unit,"), (4, "4 independent units,"), (5, "")])
def test_too_few_units_say_what_to_do(units: int, text: str):
    said = too_few(units)
    assert text in said
    assert bool(said) == (units < 5)
    assert not said or said.endswith("and an interval needs 5; raise --pairs, or add scenes or recordings.")


def test_texts_are_cut_in_their_middle():
    assert shorten("room:1-2", 20) == "room:1-2"
    assert shorten("a" * 30 + "b" * 30, 21) == "a" * 10 + "\u2026" + "b" * 10

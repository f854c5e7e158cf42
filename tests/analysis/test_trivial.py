"""The best trivial baseline: per metric, whichever way it is better; the mark stands where it is not beaten."""

import math

import pandas as pd
import pytest

from analysis.trivial import beats, best_in_row, best_text, best_trivial, marked
from probe.records import COPY, MEAN_COLOUR


@pytest.mark.parametrize(
    ("metric", "copy", "colour", "expected"),
    [
        ("psnr", 11.0, 12.0, (MEAN_COLOUR, 12.0)),
        ("ssim", 0.5, 0.1, (COPY, 0.5)),
        ("match_error", 0.2, 0.3, (COPY, 0.2)),  # lower is better
        ("lpips", 0.4, 0.3, (MEAN_COLOUR, 0.3)),
        ("psnr", 11.0, math.nan, (COPY, 11.0)),
        ("psnr", math.nan, math.nan, None),
        ("loss", math.nan, math.nan, None),
        ("kept", 0.4, 0.3, None),  # neither way is better
    ],
)
def test_the_best_of_both_per_metric(metric: str, copy: float, colour: float, expected: tuple[str, float] | None):
    assert best_trivial(metric, {COPY: copy, MEAN_COLOUR: colour}.__getitem__) == expected
    row = {f"copy_{metric}": copy, f"mean_colour_{metric}": colour}
    assert best_in_row(metric, row) == best_in_row(metric, pd.Series(row)) == expected


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("psnr", 12.1, True),
        ("psnr", 12.0, False),  # as good is not better
        ("psnr", 11.5, False),  # better than the copy alone
        ("match_error", 0.19, True),
        ("match_error", 0.2, False),
        ("psnr", math.nan, True),  # what was not measured bears no mark
    ],
)
def test_the_mark_stands_where_the_best_is_not_beaten(metric: str, value: float, expected: bool):
    row = {"copy_psnr": 11.0, "mean_colour_psnr": 12.0, "copy_match_error": 0.2, "mean_colour_match_error": 0.3}
    best = best_in_row(metric, row)
    assert beats(metric, value, best) is expected
    assert marked("x", metric, value, best) == ("x" if expected else "x\u00a0†")
    assert marked("x", metric, value, None) == "x"


def test_it_is_written_with_its_name():
    assert best_text("psnr", best_in_row("psnr", {"copy_psnr": 11.0})) == "11.0\u00a0dB (copy)"
    assert best_text("psnr", None) == "–"

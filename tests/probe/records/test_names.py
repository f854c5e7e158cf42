"""Laws of the names: what is written is read back, and every metric that is compared has a direction."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.records import names, rotation_bin

layers = st.integers(0, 999)
words = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)


@given(metric=st.sampled_from([names.PRECISION, names.READOUT, names.ATTENTION]), layer=layers)
def test_a_layers_column_is_read_back(metric: str, layer: int):
    assert names.split_layer(names.layer_column(metric, layer)) == (metric, layer)
    assert names.family(names.layer_column(metric, layer)) == metric


@given(
    amount=st.sampled_from([0.01, 0.05, 0.5, 1, 2, 5, 10]),
    unit=st.sampled_from(["%", "token", "m", "%scene"]),
    coverage=st.sampled_from([0.1, 0.25, 1.0]),
)
def test_a_threshold_and_a_coverage_are_read_back(amount: float, unit: str, coverage: float):
    metric = names.threshold_metric(amount, unit)
    covered = names.with_coverage(metric, coverage)
    assert names.split_threshold(metric) == names.split_threshold(covered) == (amount, unit)
    assert names.split_coverage(covered) == (metric, coverage)
    assert names.split_coverage(metric) == (metric, None)
    assert names.family(covered) == names.PRECISION


@given(words, words, layers, layers)
def test_other_names_are_read_back(first: str, second: str, m: int, n: int):
    assert names.split_effect(names.effect_metric(first, second)) == (first, second)
    assert names.split_set_metric(names.set_metric(names.FID, second)) == (names.FID, second)
    assert names.split_seed_folder(names.seed_folder(first, m)) == (first, m)
    assert names.parse_grid(names.grid_name((m, n))) == (m, n)


def test_names_that_say_something_else_are_not_read():
    assert names.split_layer("mass_3") == ("mass_3", None)
    assert names.split_layer("loss_t900") == ("loss_t900", None)
    assert names.split_threshold("mass_3x3") is None
    assert names.split_set_metric("psnr") is None
    assert names.split_seed_folder("cameo-seedx") is names.split_seed_folder("lock") is None


@pytest.mark.parametrize(
    ("model", "null", "label"),
    [
        ("tiny: cameras only", True, "cameras only"),
        ("tiny: random weights", True, "random weights"),
        ("tiny", False, "tiny"),
        ("module: mine", False, "module: mine"),
        (names.UNIFORM, False, names.UNIFORM),
    ],
)
def test_nulls_are_recognised(model: str, null: bool, label: str):
    assert names.is_null(model) is null
    assert names.null_label(model) == label


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        ("psnr", 1), ("ssim", 1), ("lpips", -1), ("match_error", -1), ("loss", -1), ("loss_t900", -1),
        ("precision_12", 1), ("precision@5%|coverage=0.1", 1), ("mass_3x3", 1), ("entropy", 0),
        ("cross_entropy", -1), ("kept", 0), ("effect_error@identity", 0), ("fid[colour-cells]", -1), ("novel", 0),
    ],
)  # fmt: skip
def test_every_metric_has_a_direction(metric: str, better: int):
    assert names.better(metric) == better


def test_headings_name_unit_and_direction():
    assert names.METRICS["psnr"].heading == "PSNR (dB), higher is better"
    assert names.METRICS["lpips"].heading == "LPIPS, lower is better"
    assert names.METRICS["entropy"].heading == "entropy within the key view (nats)"


def test_rotation_bins_are_those_of_the_tables():
    assert names.rotation_bin_names() == list(rotation_bin(pd.Series([15.0])).cat.categories)

"""Patching whole samples: what a layer reads of its donor at every step, the unpatched control, tables and words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from edited_toys import toy_scene

from probe.attention.call import Call
from probe.capture import AttentionTap
from probe.interventions import patched_samples
from probe.interventions.edits import HiddenKeysError
from probe.interventions.patched_samples import SamplePatches, judge_of, patch_samples, two_samples
from probe.interventions.patching import PARTS, Reader, patch
from probe.records.patched_samples import (
    COLUMNS,
    NOISE,
    UNPATCHED,
    change_text,
    samples_table,
    samples_words,
)
from probe.records.patching import ANOTHER

STEPS = 3


def reader_of(part: str, layer, scene) -> Reader:
    return Reader(part=part, layout=layer.layout(scene.views.count), n_ref=scene.views.n_ref)


def patched(model, layer, scene, part: str, draw) -> torch.Tensor:
    with AttentionTap(model.network, [layer], edit=patch(reader_of(part, layer, scene))):
        return draw()


# --- in a model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", sorted({*PARTS} - {"matching"}))
def test_a_sample_that_is_its_own_donor_stays_bit_for_bit(model, layers, scene, part):
    draw = two_samples(model, scene, scene, STEPS)
    usual = draw()
    for layer in layers:
        assert torch.equal(patched(model, layer, scene, part, draw), usual)


def test_matching_of_the_sample_itself_stays_but_for_rounding(model, layers, scene):
    """The logits of both runs come of one product of twice the length, which sums in another order."""
    draw = two_samples(model, scene, scene, STEPS)
    torch.testing.assert_close(patched(model, layers[0], scene, "matching", draw), draw(), rtol=1e-4, atol=1e-5)


def test_every_step_of_the_patched_layer_reads_the_donor_of_that_step(model, layers, scene):
    draw, given, read = two_samples(model, scene, toy_scene(model, 1), STEPS), [], []
    edit = patch(reader_of("output", layers[1], scene))

    def hear(call: Call, run):
        given.append(run(call.q, call.k, call.v))
        read.append(edit(call, run))
        return read[-1]

    with AttentionTap(model.network, [layers[1]], edit=hear):
        draw()
    targets = layers[1].layout(scene.views.count).owners() >= scene.views.n_ref
    assert len(read) == STEPS
    for own, out in zip(given, read, strict=True):
        assert torch.equal(out[0][:, targets], own[1][:, targets])  # the donor's
        assert torch.equal(out[0][:, ~targets], own[0][:, ~targets])  # its own
        assert torch.equal(out[1], own[1])
    assert not torch.equal(given[0], given[1])  # the donor goes on from step to step


def test_known_values_of_the_donor_arrive(model, layers, scene, monkeypatch):
    """With values of zero in the donor, the patched layer gives target views nothing."""
    draw, out = two_samples(model, scene, toy_scene(model, 1), STEPS), []
    edit = patch(reader_of("values", layers[0], scene))

    def hear(call: Call, run):
        blank = replace(call, v=torch.stack([call.v[0], torch.zeros_like(call.v[1])]))
        out.append(edit(blank, run))
        return out[-1]

    with AttentionTap(model.network, [layers[0]], edit=hear):
        draw()
    targets = layers[0].layout(scene.views.count).owners() >= scene.views.n_ref
    assert all(step[0][:, targets].eq(0).all() and step[0][:, ~targets].ne(0).any() for step in out)


def test_the_donors_own_sample_is_left_alone_and_the_model_too(model, layers, scene):
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    draw = two_samples(model, scene, toy_scene(model, 1), STEPS)
    usual = draw()
    changed = patched(model, layers[0], scene, "content", draw)
    assert not torch.equal(changed[:, 1:], usual[:, 1:])
    assert torch.equal(changed[:, :1], usual[:, :1])  # the references are given
    assert torch.equal(draw(), usual)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


def test_rows_hold_the_unpatched_sample_and_one_per_layer_and_part(model, layers, scene):
    donors = {ANOTHER: toy_scene(model, 1), NOISE: replace(scene, noise=torch.randn_like(scene.noise))}
    rows = patch_samples(model, scene, donors, layers, SamplePatches(parts=("matching", "content"), steps=STEPS))
    assert set(rows.columns) | {"unit"} == set(COLUMNS)
    assert rows.groupby(["donor", "measure", "part"]).size().to_dict() == {
        (donor, measure, part): 1 if part == UNPATCHED else len(layers)
        for donor in donors
        for measure in ("psnr", "match_error")
        for part in (UNPATCHED, "matching", "content")
    }
    targets = scene.views.count - scene.views.n_ref
    assert rows["count"].eq(targets).all()
    usual = judge_of(model, scene)(two_samples(model, scene, donors[ANOTHER], STEPS)())
    first = rows[rows["part"] == UNPATCHED].iloc[0]
    assert (first["value"], first["count"]) == usual["psnr"]


def test_the_true_views_have_the_highest_psnr(model, scene):
    small = judge_of(model, scene)
    truth = torch.nn.functional.interpolate(scene.views.image[0], (model.size, model.size), mode="area")[None]
    assert small(truth)["psnr"][0] > small(torch.zeros_like(truth))["psnr"][0]


def test_what_no_reference_shows_has_no_match_error(model, scene, monkeypatch):
    nothing = torch.full((1, scene.views.count - scene.views.n_ref), torch.nan)
    monkeypatch.setattr(patched_samples, "match_error", lambda *_: (nothing, torch.zeros_like(nothing).long()))
    value, count = judge_of(model, scene)(two_samples(model, scene, scene, 1)())["match_error"]
    assert np.isnan(value)
    assert count == 0


def test_a_layer_that_hides_keys_is_unknown_with_count_0(model, layers, scene, monkeypatch):
    def masked(_call, _run, _usual, _reader):
        raise HiddenKeysError("a mask")

    monkeypatch.setitem(PARTS, "matching", masked)
    patches = SamplePatches(parts=("matching", "values"), steps=1)
    rows = patch_samples(model, scene, {ANOTHER: toy_scene(model, 1)}, layers[:1], patches).set_index("part")
    assert rows.loc["matching", "value"].isna().all()
    assert rows.loc["matching", "count"].eq(0).all()
    assert rows.loc["values", "value"].notna().all()
    assert set(samples_table(rows.reset_index().assign(unit="a"))["part"]) == {"values"}


# --- tables and words ------------------------------------------------------------------------------------------------


def table(changes: dict[int, list[float]], **constants: object) -> pd.DataFrame:
    """Unpatched samples of 10, 11, ... dB, and patched ones that differ from them, layer by layer."""
    usual = {"donor": ANOTHER, "steps": 5, "measure": "psnr", "count": 2, **constants}
    units = range(len(next(iter(changes.values()))))
    rows = [{"part": UNPATCHED, "layer": -1, "n": n, "value": 10.0 + n} for n in units]
    rows += [
        {"part": "matching", "layer": layer, "n": n, "value": 10.0 + n + change}
        for layer, own in changes.items()
        for n, change in enumerate(own)
    ]
    named = pd.DataFrame(rows)
    text = "room-" + named.pop("n").astype(str)
    return named.assign(scene=text, unit=text, **usual)


WORSE, NEITHER = [-1.2, -0.8, -1.1, -0.9, -1.0, -1.0], [0.5, -0.5, 0.4, -0.4, 0.3, -0.3]


def test_changes_are_paired_by_scene():
    found = samples_table(table({3: WORSE, 4: NEITHER})).set_index("layer")
    assert found["value"].tolist() == pytest.approx([-1.0, 0.0])
    assert found["unpatched"].tolist() == pytest.approx([12.5, 12.5])
    assert found["patched"].tolist() == pytest.approx([11.5, 12.5])
    assert found.loc[3, "high"] < 0  # though unpatched samples differ by far more
    assert found.loc[4, "low"] < 0 < found.loc[4, "high"]
    assert found["units"].tolist() == found["scenes"].tolist() == [6, 6]
    assert found["count"].tolist() == [12, 12]


def test_intervals_hold_for_all_layers_at_once():
    alone = samples_table(table({3: WORSE})).iloc[0]
    among = samples_table(table({3: WORSE, 4: NEITHER, 5: NEITHER[::-1]})).iloc[0]
    assert among["high"] - among["low"] > alone["high"] - alone["low"]


def test_a_scene_without_an_unpatched_sample_is_left_out():
    rows = table({3: WORSE})
    lost = (rows["part"] == UNPATCHED) & (rows["scene"] == "room-0")
    gone = rows.assign(value=rows["value"].mask(lost), count=rows["count"].mask(lost, 0))
    assert samples_table(gone)[["value", "units"]].iloc[0].tolist() == pytest.approx([-0.96, 5])
    assert samples_table(rows.assign(value=np.nan, count=0)).empty


def test_donors_are_compared_where_both_were_read():
    other, same = table({3: WORSE, 4: NEITHER}), table({3: [x + 0.5 for x in WORSE], 5: NEITHER}, donor=NOISE)
    assert set(samples_table(other)["donor"]) == {ANOTHER}
    found = samples_table(pd.concat([other, same])).set_index(["donor", "layer"]).loc["another minus noise"]
    assert found.index.tolist() == [3]
    assert found.loc[3, ["value", "unpatched", "patched"]].tolist() == pytest.approx([-0.5, 12.0, 11.5])
    assert found.loc[3, "high"] < 0  # pairs of one noise, so the same 0.5 in every scene
    assert found.loc[3, ["units", "count"]].tolist() == [6, 12]


def test_a_sample_of_fewer_views_than_the_unpatched_one_is_left_out():
    rows = table({3: WORSE})
    fewer = (rows["part"] != UNPATCHED) & (rows["scene"] == "room-0")
    assert samples_table(rows.assign(count=rows["count"].mask(fewer, 1)))["units"].tolist() == [5]


def test_words_name_the_layers_that_are_hurt_and_those_where_nothing_is_shown():
    (said,) = samples_words(samples_table(table({3: WORSE, 4: NEITHER, 5: [2 * x for x in WORSE]})))
    assert said.startswith("Where target views read matching (logits between views) of another scene in one layer at")
    assert "at each of 5 sampling steps, PSNR is lower in layers 3, 5 (most in layer 5: -2.00 dB, " in said
    assert " and no change of it is shown in layer 4 (+0.00 dB, " in said


def test_words_say_that_nothing_is_shown():
    rows = pd.concat([table({3: NEITHER, 4: NEITHER}), table({3: NEITHER}, measure="match_error")])
    (said,) = samples_words(samples_table(rows))
    assert "no change of PSNR is shown in any of the 2 layers (most in layer 3: +0.00 dB, " in said
    assert "; no change of match error is shown in layer 3 (+0.000, " in said


def test_words_tell_higher_from_lower():
    (said,) = samples_words(samples_table(table({3: [-x for x in WORSE]}, donor=NOISE)))
    assert "of the same scene sampled from other noise" in said
    assert "PSNR is higher in layer 3 (+1.00 dB, " in said


def test_words_say_that_there_are_too_few_units():
    (said,) = samples_words(samples_table(table({3: WORSE[:4]}, steps=1)))
    assert said.endswith("in the one sampling step, whether PSNR changes cannot be told: too few independent units.")


def test_no_table_says_nothing():
    assert samples_words(samples_table(table({3: WORSE})[:0])) == ()


def test_changes_are_written_with_their_unit():
    assert change_text("psnr", -1.234, -2.0, -0.5) == "-1.23 dB, -2.00 to -0.50"
    assert change_text("match_error", 0.0123, np.nan, np.nan) == "+0.012"
    assert change_text("psnr", np.nan, np.nan, np.nan) == "–"

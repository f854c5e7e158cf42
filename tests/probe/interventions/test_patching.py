"""Activation patching: what an edit reads of a donor, tokens of equal distance, and where predictions move."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from edited_toys import toy_scene
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from probe.attention.call import Call
from probe.capture import AttentionTap
from probe.interventions import patched_matches
from probe.interventions.edits import HiddenKeysError
from probe.interventions.patched_matches import (
    APART,
    EQUAL,
    by_match,
    equal_distance,
    movement,
    patch_matches,
    patched_tokens,
)
from probe.interventions.patching import PARTS, Patches, Reader, patch, patch_layers, two_runs
from probe.layers import ViewLayout
from probe.records.patching import (
    ANOTHER,
    CLEAN,
    TRUE_MATCH,
    WRONG_MATCH,
    matches_table,
    patching_table,
    patching_words,
)

LAYOUT = ViewLayout(views=3, grid=(1, 2))
TARGETS = LAYOUT.owners() >= 1


def run(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, scale=0.5)


def call_of(batch: int = 2) -> Call:
    q, k, v = torch.randn(3, batch, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    return Call("layer", 0, 0, q, k, v, 0.5, None, False, False, torch.float32, "sdpa")


def reads(part: str, call: Call, **how) -> torch.Tensor:
    return patch(Reader(part=part, layout=LAYOUT, n_ref=1, **how))(call, run)


def mixed(names: str, call: Call) -> torch.Tensor:
    """What the first item gives out with the donor's queries, keys or values."""
    return run(*(getattr(call, name)[1:] if name in names else getattr(call, name)[:1] for name in "qkv"))[0]


@pytest.mark.parametrize(("part", "names"), [("queries", "q"), ("keys", "k"), ("values", "v"), ("content", "kv")])
def test_target_views_read_that_part_of_the_donor(part, names):
    call = call_of()
    torch.testing.assert_close(reads(part, call)[0][:, TARGETS], mixed(names, call)[:, TARGETS])


@pytest.mark.parametrize("part", PARTS)
def test_reference_views_and_the_donor_stay_as_they_were(part):
    call = call_of()
    usual, out = run(call.q, call.k, call.v), reads(part, call)
    assert torch.equal(out[1], usual[1])
    assert torch.equal(out[0][:, ~TARGETS], usual[0][:, ~TARGETS])
    assert not torch.isclose(out[0][:, TARGETS], usual[0][:, TARGETS]).all()


def test_matching_is_the_donors_logits_between_views_alone():
    call, owners = call_of(), LAYOUT.owners()
    own, donor = (torch.einsum("hnd,hmd->hnm", call.q[n], call.k[n]) for n in (0, 1))
    logits = torch.where(owners[:, None] == owners[None], own, donor)
    expected = (logits * call.scale).softmax(-1) @ call.v[0]
    torch.testing.assert_close(reads("matching", call)[0][:, TARGETS], expected[:, TARGETS])


def test_matching_of_shared_keys_is_that_of_keys_of_each_head():
    call = call_of()
    shared = replace(call, k=call.k[:, :1], v=call.v[:, :1], gqa=True)
    apart = replace(call, k=shared.k_per_head, v=shared.v_per_head)
    reader = Reader(part="matching", layout=LAYOUT, n_ref=1)

    def run_shared(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, scale=0.5, enable_gqa=True)

    torch.testing.assert_close(patch(reader)(shared, run_shared), patch(reader)(apart, run))


def test_logits_of_two_runs_are_not_mixed_where_a_mask_hides_keys():
    call = replace(call_of(), mask=torch.eye(6, dtype=torch.bool))
    with pytest.raises(HiddenKeysError, match="hides keys by its mask"):
        reads("matching", call)
    reads("values", call)


def test_the_output_is_the_donors_where_it_is_patched():
    call, where = call_of(), torch.tensor([True, False, False, True, False, False])
    usual, out = run(call.q, call.k, call.v), reads("output", call, where=where)
    assert torch.equal(out[0][:, 3], usual[1][:, 3])
    assert torch.equal(out[0][:, [0, 1, 2, 4, 5]], usual[0][:, [0, 1, 2, 4, 5]])


def test_only_the_chosen_head_changes():
    call = call_of()
    usual, out = run(call.q, call.k, call.v), reads("matching", call, heads=(1,))
    assert torch.equal(out[:, 0], usual[:, 0])
    assert torch.equal(out[:, 1], reads("matching", call)[:, 1])


@pytest.mark.parametrize("part", sorted({*PARTS} - {"matching"}))
def test_patching_no_token_changes_nothing(part):
    call = call_of()
    out = reads(part, call, where=torch.zeros(6, dtype=torch.bool))
    torch.testing.assert_close(out, run(call.q, call.k, call.v), rtol=0, atol=0)


def test_a_batch_that_is_no_pair_is_refused():
    with pytest.raises(ValueError, match="called with a batch of 3, expected 2"):
        reads("keys", call_of(3))


# --- in a model ------------------------------------------------------------------------------------------------------


def test_a_run_that_is_its_own_donor_stays(model, layers, scene):
    runs = two_runs(model, scene, scene, (500, 500))
    usual = runs.predict()
    for part in PARTS:
        reader = Reader(part=part, layout=layers[0].layout(scene.views.count), n_ref=scene.views.n_ref)
        with AttentionTap(model.network, layers, edit=patch(reader)):
            torch.testing.assert_close(runs.predict(), usual, rtol=1e-4, atol=1e-5)


def test_the_prediction_is_that_of_the_scene_alone(model, scene):
    other = toy_scene(model, 1)
    alone, beside = (two_runs(model, scene, donor, (500, t)) for donor, t in ((scene, 500), (other, 100)))
    torch.testing.assert_close(alone.predict(), beside.predict(), rtol=1e-4, atol=1e-5)
    assert torch.equal(alone.clean, beside.clean)


def test_whole_layers_are_patched_by_both_donors(model, layers, scene):
    patches = Patches(parts=("matching", "output"), timesteps=(50, 500), clean_timestep=50, each_head=True)
    rows = patch_layers(model, scene, {CLEAN: scene, ANOTHER: toy_scene(model, 1)}, layers, patches)
    assert (rows["timestep"][rows["donor"] == CLEAN] == 500).all()  # a run is no cleaner than itself
    assert set(rows["timestep"][rows["donor"] == ANOTHER]) == {50, 500}
    assert sorted(rows["head"].unique()) == [-1, 0, 1]
    assert len(rows) == 3 * len(layers) * 3 * 2 * 2
    assert (rows["value"][rows["measure"] == "moved"] > 0).all()
    assert rows["count"].eq(2).all()


def test_content_of_the_scene_itself_moves_nothing(model, layers, scene, monkeypatch):
    monkeypatch.setattr(patched_matches, "LEAST_QUERIES", 1)
    monkeypatch.setattr(patched_matches, "DRAWS", 12)
    patches = Patches(parts=("content",), timesteps=(500,), clean_timestep=50)
    rows = patch_matches(model, scene, scene, layers, patches)
    assert rows["value"].dropna().abs().max() < 1e-4
    rows = patch_matches(model, scene, toy_scene(model, 1), layers, patches)
    assert rows["value"].dropna().min() > 1e-4
    assert set(rows["tokens"]) == {TRUE_MATCH, WRONG_MATCH}
    monkeypatch.setattr(patched_matches, "LEAST_QUERIES", 10**6)
    rows = patch_matches(model, scene, scene, layers, patches)
    assert rows["value"].isna().all()
    assert (rows["count"] == 0).all()


def test_a_layer_that_cannot_be_patched_is_unknown_with_count_0(model, layers, scene, monkeypatch):
    def masked(_call, _run, _usual, _reader):
        raise HiddenKeysError("a mask")

    monkeypatch.setitem(PARTS, "matching", masked)
    patches = Patches(parts=("matching", "values"), timesteps=(500,), clean_timestep=50)
    rows = patch_layers(model, scene, {CLEAN: scene}, layers[:1], patches).set_index("part")
    assert rows.loc["matching", "value"].isna().all()
    assert (rows.loc["matching", "count"] == 0).all()
    assert rows.loc["values", "value"].notna().all()


# --- tokens ----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 2**20))
def test_a_wrong_match_is_as_far_from_the_querys_place_and_elsewhere(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(-1, rows * columns, (rows * columns, 2), generator=generator)
    seen = torch.rand(truth.shape, generator=generator) < 0.7
    wrong = equal_distance(truth, seen, (rows, columns), generator)
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    for query in range(rows * columns):
        for view in range(2):
            match, drawn = int(truth[query, view]), int(wrong[query, view])
            far = (place - place[query]).norm(dim=1)
            possible = (far - far[match]).abs() <= EQUAL
            possible &= ((place - place[match]).abs().amax(1) >= APART) & seen[:, view]
            assert drawn == -1 if match < 0 or not possible.any() else bool(possible[drawn])


def test_a_match_at_the_querys_own_place_has_no_other_of_equal_distance():
    truth = torch.arange(16)[:, None]
    assert (equal_distance(truth, truth >= 0, (4, 4), torch.Generator()) == -1).all()


def test_all_tokens_of_equal_distance_are_drawn_alike():
    truth, generator = torch.full((25, 600), -1), torch.Generator().manual_seed(0)
    truth[12] = 14  # the middle, and the end of its row
    drawn = equal_distance(truth, torch.ones_like(truth, dtype=torch.bool), (5, 5), generator)[12].tolist()
    counts = {token: drawn.count(token) for token in set(drawn)}
    expected = {1, 2, 3, 5, 10, 15, 21, 22, 23}  # 2 or 2.24 away, and 2 from the end of the row
    assert set(counts) == expected
    assert max(counts.values()) < 2 * min(counts.values())


def test_only_tokens_of_reference_views_are_patched():
    layout = ViewLayout(views=3, grid=(4, 4), prefix=5, suffix=2, per_view_prefix=1)
    inside, chosen = patched_tokens(layout, 2, torch.Generator().manual_seed(0), share=0.5)
    split = layout.split(inside[:, None])[..., 0]
    assert torch.equal(split[:2].flatten(1), chosen)
    assert not split[2].any()
    assert inside.sum() == chosen.sum() > 0
    assert not patched_tokens(layout, 2, torch.Generator(), share=0.0)[0].any()


def test_queries_of_both_or_neither_kind_are_left_out():
    truth = torch.tensor([[[0], [1], [0], [-1], [0]]])
    wrong = torch.tensor([[[1], [0], [0], [0], [-1]]])
    chosen = torch.tensor([[True, False]])
    true, other = by_match(truth, wrong, chosen)
    assert true.tolist() == [[True, False, False, False, False]]
    assert other.tolist() == [[False, True, False, False, False]]


def test_a_prediction_moves_where_it_changed():
    usual = torch.ones(1, 2, 3, 8, 8)
    edited = usual.clone()
    edited[0, 1, :, 2:4, 4:6] += 0.5
    moved = movement(edited, usual, (4, 4))
    assert moved[0].eq(0).all()
    assert moved[1].reshape(4, 4)[1, 2] == pytest.approx(0.5)
    assert moved[1].count_nonzero() == 1


# --- tables and words ------------------------------------------------------------------------------------------------


def table(values: dict[str, list[float]], **constants: object) -> pd.DataFrame:
    usual = {
        "donor": ANOTHER,
        "part": "content",
        "layer": 3,
        "head": -1,
        "timestep": 500,
        "measure": "moved",
        "count": 10,
    }
    return pd.DataFrame(
        {**usual, **constants, "tokens": tokens, "scene": f"s{n}", "unit": f"s{n}", "value": value}
        for tokens, own in values.items()
        for n, value in enumerate(own)
    )


def words(rows: pd.DataFrame) -> tuple[str, ...]:
    return patching_words(patching_table(rows), matches_table(rows), 3)


def test_true_matches_are_paired_with_tokens_of_equal_distance():
    wrong = np.linspace(0.1, 0.3, 8)
    rows = pd.concat([
        table({TRUE_MATCH: list(wrong + 0.1), WRONG_MATCH: list(wrong)}),
        table({TRUE_MATCH: list(wrong), WRONG_MATCH: list(wrong[::-1])}, layer=4),
    ])  # fmt: skip
    first, second = matches_table(rows).to_dict("records")
    assert (first["layer"], first["true"], first["wrong"]) == (3, pytest.approx(0.3), pytest.approx(0.2))
    assert first["ahead_low"] == pytest.approx(0.1)  # equal in every scene: no spread
    assert second["ahead_low"] < 0 < second["ahead_high"]
    (said,) = words(rows)
    assert "true matches are read in layer 3:" in said
    assert "in layer 3 by 30.0% of its size against 20.0%" in said


def test_what_is_not_shown_is_said():
    (said,) = words(table({TRUE_MATCH: [0.1, 0.3] * 4, WRONG_MATCH: [0.3, 0.12] * 4}))
    assert "layer 3 is not shown to read true matches" in said
    equal = {TRUE_MATCH: [0.1, 0.3] * 4, WRONG_MATCH: [0.3, 0.12] * 4}
    (said,) = words(pd.concat([table(equal), table(equal, layer=4)]))
    assert "none of 2 layers is shown to read true matches" in said
    (said,) = words(table({TRUE_MATCH: [0.5, 0.6], WRONG_MATCH: [0.1, 0.1]}))
    assert "cannot be told: too few independent units" in said
    (said,) = words(table({TRUE_MATCH: [0.5] * 8, WRONG_MATCH: [0.0] * 8}))
    assert "50.0% of its size against 0.0%" in said
    (few,) = words(table({"all": [0.5, 0.6]}, measure="error"))
    assert few.endswith("too few independent units.")


@pytest.mark.parametrize(("layers", "share", "said"), [((4, 5), 0.2, True), ((4,), 0.2, False), ((4, 5), 0.0, False)])
def test_a_layer_stands_out_only_of_several_and_where_its_interval_says_so(layers, share, said):
    values = np.array([-0.1, 0.1] * 4)
    rows = [table({"all": list(values + share * (layer == 4))}, measure="error", layer=layer) for layer in layers]
    words = patching_words(patching_table(pd.concat(rows)), pd.DataFrame(), 3)
    assert words == (("At t = 500 another scene's keys and values raise the error most in layer 4: +20.0% (+11.1% to "
                      "+28.9%).",) if said else ())  # fmt: skip


@pytest.mark.parametrize(
    ("shift", "word"), [(-0.2, "better matching there would help"), (0.2, "it would hurt"), (0.0, "no effect is shown")]
)
def test_the_cleaner_runs_matching_is_weighed_by_its_interval(shift, word):
    values = np.array([-0.1, 0.1, -0.05, 0.05, -0.1, 0.1, -0.05, 0.05]) + shift
    rows = table({"all": list(values)}, donor=CLEAN, part="matching", measure="error")
    assert patching_table(rows)["value"].item() == pytest.approx(shift)
    (said,) = words(rows)
    assert word in said
    assert patching_words(patching_table(rows), matches_table(rows), 4) == ()

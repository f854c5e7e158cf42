"""A whole sampling run of a diffusers pipeline is one unit: the same images, records by timestep, pass and half."""

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jaxtyping
import pytest
import torch
from attention_toys import Attend, Plain, tokens
from sampling_pipelines import COGVIDEOX, STABLE_DIFFUSION, WAN, cogvideox, prompts, sample, stable_diffusion, wan
from torch import Tensor, nn

from probe.attention.modules import network_of
from probe.attention.records import timestep_of
from probe.capture import AttentionTap, Call, Record, guidance_halves

PIPELINES = {"cogvideox": (cogvideox, COGVIDEOX), "wan": (wan, WAN), "sd": (stable_diffusion, STABLE_DIFFUSION)}
FIRST, SECOND = "blocks.0", "blocks.1"


def is_untouched(network: nn.Module) -> bool:
    names = {
        type(vars(module).get(slot)).__name__ for module in network.modules() for slot in ("forward", "_old_forward")
    }
    return "WrappedForward" not in names


# whole pipelines


@pytest.mark.parametrize("name", PIPELINES)
def test_a_sampling_run_is_the_same_and_each_forward_is_recorded(name: str):
    make, layer = PIPELINES[name]
    pipe = make()
    expected = sample(pipe)
    with AttentionTap(pipe, layer, keep=Record()) as tap:
        assert torch.equal(sample(pipe), expected)
    passes = 2 if name == "wan" else 1
    timesteps = [float(t) for t in pipe.scheduler.timesteps for _ in range(passes)]
    calls = tap.records(layer)
    assert [call.timestep for call in calls] == timesteps
    assert [call.pass_of_step for call in calls] == [*range(passes)] * 4
    assert [call.step for call in calls] == [*range(4 * passes)]
    assert tap[layer] is tap.calls[0] is calls[-1]
    assert is_untouched(network_of(pipe))
    assert not tap.skipped


@pytest.mark.parametrize("name", ["cogvideox", "sd"])
def test_halves_of_a_doubled_batch_are_those_of_single_runs(name: str):
    make, layer = PIPELINES[name]
    both = first_call(make(), layer)
    halves = guidance_halves(both)
    embeddings = prompts()
    for half, prompt in (("conditional", "prompt_embeds"), ("unconditional", "negative_prompt_embeds")):
        alone = {"prompt_embeds": embeddings[prompt], "negative_prompt_embeds": None, "guidance_scale": 1.0}
        single = first_call(make(), layer, **alone)
        for tensor in ("q", "k"):
            torch.testing.assert_close(getattr(getattr(halves, half), tensor), getattr(single, tensor))
    assert not torch.allclose(halves.conditional.k, halves.unconditional.k)


def first_call(pipe: Any, layer: str, **more: Any) -> Call:
    with AttentionTap(pipe, layer, keep=Record()) as tap:
        sample(pipe, steps=2, **more)
    return tap.records(layer)[0]


def test_wan_runs_the_conditional_pass_first():
    with AttentionTap(pipe := wan(), "blocks.1.attn2", keep=Record()) as tap:
        sample(pipe)
    conditional, unconditional = tap.records("blocks.1.attn2")[:2]
    embeddings = prompts()
    for call, prompt in ((conditional, "prompt_embeds"), (unconditional, "negative_prompt_embeds")):
        alone = {"prompt_embeds": embeddings[prompt], "negative_prompt_embeds": None, "guidance_scale": 1.0}
        assert torch.equal(call.k, first_call(wan(), "blocks.1.attn2", **alone).k)


def test_a_call_that_was_not_doubled_has_no_halves():
    call = first_call(wan(), WAN)
    with pytest.raises(ValueError, match=r"batch of 1, which was not doubled; .*look at call.pass_of_step"):
        guidance_halves(call)


@pytest.mark.parametrize("heads", [1, 2])
def test_halves_take_their_own_masks(heads: int):
    q = torch.arange(2.0)[:, None, None, None].expand(2, heads, 3, 4)
    shapes = {"per item": (2, 1, 3, 3), "shared": (1, 1, 3, 3), "three axes": (2, 3, 3), "of queries and keys": (3, 3)}
    expected = {"per item": 1, "shared": None, "three axes": 1 if heads == 1 else None, "of queries and keys": None}
    whole = first_call(wan(), WAN)
    for name, shape in shapes.items():
        call = replace(
            whole, q=q, k=q, v=q, mask=torch.arange(shape[0])[(...,) + (None,) * (len(shape) - 1)].expand(shape)
        )
        _, half = guidance_halves(call)
        assert torch.equal(half.q, q[1:])
        assert torch.equal(half.mask, call.mask if expected[name] is None else call.mask[1:]), name


# what is kept


class Overwriting(Attend):
    """A layer that reuses the memory of its queries."""

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = super().kernel(q, k, v)
        q.zero_()
        return output


def test_a_record_keeps_what_it_says():
    pipe = wan()
    with AttentionTap(pipe, WAN, keep=Record(tensors="qkv")) as tap:
        sample(pipe, steps=5)
    everything = tap.records(WAN)
    with AttentionTap(pipe, WAN, keep=Record(every=2), on_call=(heard := []).append) as tap:
        sample(pipe, steps=5)
    calls = tap.records(WAN)
    assert [call.step for call in calls] == [0, 1, 4, 5, 8, 9] == [call.step for call in heard]
    for call in calls:
        whole = everything[call.step]
        assert torch.equal(call.q, whole.q)
        assert torch.equal(call.k, whole.k)
        assert call.v.shape == whole.v.shape
        assert call.v.isnan().all()  # left out: no formula goes on with it unseen
        assert call.v.untyped_storage().nbytes() == call.v.element_size()
        assert not whole.v.isnan().any()
    with AttentionTap(pipe, WAN, keep=Record(every=3, steps="last", device="model")) as tap:
        sample(pipe, steps=5)
    assert [call.step for call in tap.records(WAN)] == [7]


def test_copies_are_on_the_chosen_device():
    meta = Plain().to("meta")
    with AttentionTap(meta, FIRST, keep=Record(device="model")) as tap:
        meta(tokens().to("meta"))
    assert {tap[FIRST].q.device.type, tap[FIRST].v.device.type} == {"meta"}
    model = Plain(Overwriting())
    with torch.no_grad(), AttentionTap(model, FIRST, keep=Record(every=2)) as tap:
        for scale in (1, 2, 3):
            model(scale * tokens())
    first, third = tap.records(FIRST)  # without a timestep each forward is a step
    assert [(call.step, call.timestep, call.pass_of_step) for call in (first, third)] == [(0, None, 0), (2, None, 0)]
    for call, x in ((first, tokens()), (third, 3 * tokens())):
        assert torch.equal(call.q, model.blocks[0].project(x, x)[0])  # which the layer has overwritten since


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tensors": "q"}, r"tensors='q' is unknown; choose one of \('qk', 'qkv'\)"),
        ({"device": "cuda"}, "device='cuda' is unknown"),
        ({"steps": "first"}, "steps='first' is unknown"),
        ({"every": 0}, "every=0 is no whole number of steps"),
        ({"every": "2"}, "every='2' is no whole number of steps"),
        ({"every": 2.0}, "every=2.0 is no whole number of steps"),
    ],
)
def test_wrong_records_are_refused(wrong: dict[str, Any], message: str):
    jaxtyping.config.update("jaxtyping_disable", True)  # type checks would speak first
    try:
        with pytest.raises(ValueError, match=f"Record: {message}"):
            Record(**wrong)
        with pytest.raises(ValueError, match="on_skip='ignore' is unknown; choose 'refuse' or 'count'"):
            AttentionTap(Plain(), FIRST, on_skip="ignore")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_timesteps_are_read_off_the_networks_own_arguments():
    names = ["x", "timestep"]
    assert timestep_of(names, (0, torch.tensor([5, 5])), {}) == 5.0
    assert timestep_of(names, (0,), {"timestep": 3}) == 3.0
    assert timestep_of(names, (0,), {"t": torch.tensor(0.25)}) == 0.25
    assert timestep_of(["sigma"], (), {"sigma": torch.tensor([[7.0, 0.0], [7.0, 7.0]])}) == (7.0, 0.0)  # per token
    assert timestep_of(names, (0, None), {"sigma": 2.0}) == 2.0
    unread = [(0,), (0, torch.zeros(2, 3, 8, 8)), (0, torch.zeros(0)), (0, torch.zeros(1, device="meta")), (0, "late")]
    assert [timestep_of(names, args, {}) for args in unread] == [None] * 5
    torch.vmap(lambda t: unread.append(timestep_of(names, (0, t), {})) or t)(torch.zeros(2))
    assert unread[-1] is None


# layers that were skipped


def with_cache(pipe: Any, cache: str) -> Any:
    from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig

    if cache == "first block":
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
        return pipe
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 1000),
        current_timestep_callback=lambda: pipe.current_timestep,
    )
    pipe.transformer.enable_cache(config)
    return pipe


@pytest.mark.parametrize(
    ("cache", "kept", "hook"),
    [("pyramid", [0, 2, 3], "pyramid_attention_broadcast"), ("first block", [0], "fbc_leader_block_hook")],
)
def test_steps_that_a_cache_skipped_are_counted_or_refused(cache: str, kept: list[int], hook: str):
    pipe = with_cache(cogvideox(), cache)
    expected = sample(pipe)
    with AttentionTap(pipe, [COGVIDEOX, COGVIDEOX.replace("1", "0", 1)], keep=Record(), on_skip="count") as tap:
        assert torch.equal(sample(pipe), expected)
    assert [call.step for call in tap.records(COGVIDEOX)] == kept
    assert tap.skipped[COGVIDEOX] == 4 - len(kept)
    with (
        pytest.raises(RuntimeError, match=rf"a cache of diffusers \({hook}\) may have reused .*on_skip='count'"),
        AttentionTap(pipe, COGVIDEOX),
    ):
        sample(pipe)
    assert is_untouched(pipe.transformer)


class Skipping(Plain):
    """Runs its second block only where told so."""

    def forward(self, x: Tensor, both: bool = True) -> Tensor:
        return super().forward(x) if both else self.blocks[0](x)


def test_skips_are_counted_per_layer_but_a_layer_must_be_seen_once():
    model = Skipping()
    with AttentionTap(model, [FIRST, SECOND], keep="detached", on_skip="count") as tap:
        for both in (True, False, False):
            model(tokens(), both)
    assert tap.skipped == {SECOND: 2}
    with pytest.raises(RuntimeError, match=r"no record of 'blocks.1': no forward has recorded it"):
        tap[SECOND]  # no stale record stands in for a skipped one
    with (
        pytest.raises(RuntimeError, match=r"'blocks.1' never ran in this forward of Skipping"),
        AttentionTap(model, SECOND, on_skip="count"),
    ):
        model(tokens(), False)


class Explicit(Attend):
    explicit = False

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(-1) @ v if self.explicit else super().kernel(q, k, v)


def test_an_explicit_softmax_is_no_skip():
    model = Plain(block := Explicit())

    def switch_between_forwards() -> None:
        with AttentionTap(model, FIRST, on_skip="count"):
            model(tokens())
            block.explicit = True
            model(tokens())

    with pytest.raises(RuntimeError, match=r"explicit softmax.*model.set_attn_implementation\('sdpa'\)"):
        switch_between_forwards()


# forwards that raise


class Interrupted(Plain):
    fails = False

    def forward(self, x: Tensor, timestep: int) -> Tensor:
        x = self.blocks[0](x)
        if self.fails:
            raise KeyboardInterrupt
        return self.blocks[1](x)


def test_a_forward_that_raised_leaves_no_record_and_counts_as_no_pass():
    model, x = Interrupted(), tokens()
    with AttentionTap(model, [FIRST, SECOND], keep=Record()) as tap:
        model(x, timestep=900)
        model.fails = True
        with pytest.raises(KeyboardInterrupt):
            model(x, timestep=500)
        model.fails = False
        model(x, timestep=500)
    for layer in (FIRST, SECOND):
        assert [(call.timestep, call.pass_of_step) for call in tap.records(layer)] == [(900.0, 0), (500.0, 0)]


# layers that run without the model's forward


class Encoder(Plain):
    def encode(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_layers_of_another_method_are_recorded_together():
    model, x = Encoder(), tokens()
    expected = model.encode(x)
    with AttentionTap(model, [FIRST, SECOND], keep="graph") as tap:
        for scale in (1, 2):
            output = model.encode(scale * x)
            assert [call.name for call in tap.calls] == [FIRST, SECOND]
            assert {call.step for call in tap.calls} == {scale - 1}
            (tap[FIRST].q.sum() + tap[SECOND].q.sum()).backward()
        assert torch.equal(model.encode(x), expected)
        model.blocks[0](x)  # begins anew: nothing of the run before stays
        assert [call.name for call in tap.calls] == [FIRST]
        model.blocks[1](x)
        model(x)
        assert {call.step for call in tap.calls} == {4}
        model.blocks[1](x)
        assert [call.name for call in tap.calls] == [SECOND]
    assert output.shape == x.shape
    assert tap[SECOND].timestep is None


class Cached(Attend):
    """Returns what it got where told so, as a cache would."""

    cached = False

    def forward(self, x: Tensor) -> Tensor:
        return x if self.cached else super().forward(x)


def test_skips_of_another_method_are_counted_once():
    model = Encoder(first := Cached(), Attend())
    with AttentionTap(model, [FIRST, SECOND], on_skip="count") as tap:
        model.encode(tokens())
        first.cached = True
        model.encode(tokens())
    assert tap.skipped == {FIRST: 1}


def test_a_layer_that_runs_after_the_model_begins_anew():
    model = Skipping()
    with AttentionTap(model, [FIRST, SECOND], keep="detached", on_skip="count") as tap:
        model(tokens(), False)
        model.blocks[1](tokens())
    assert [(call.name, call.step) for call in tap.calls] == [(SECOND, 1)]


# what others do to a tapped model


def test_a_tapped_models_weights_are_saved_but_not_the_model():
    model, file = Plain(), io.BytesIO()
    with AttentionTap(model, FIRST):
        torch.save(model.state_dict(), file)
        with pytest.raises(RuntimeError, match=r"tapped model cannot be pickled; save model.state_dict\(\)"):
            torch.save(model, io.BytesIO())
        model(tokens())
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    torch.save(model, io.BytesIO())


def test_a_tapped_network_of_diffusers_is_saved(tmp_path):
    network = wan().transformer
    with AttentionTap(network, WAN):
        network.save_pretrained(tmp_path)
        network(torch.zeros(1, 4, 1, 4, 4), torch.zeros(1), torch.zeros(1, 2, 8))
    again = type(network).from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_offloading_inside_an_open_tap_is_named():
    from diffusers.hooks import apply_group_offloading

    pipe, cpu = wan(), torch.device("cpu")
    expected = sample(pipe)

    def offload_late() -> None:
        with AttentionTap(pipe, WAN):
            apply_group_offloading(pipe.transformer, cpu, cpu, offload_type="block_level", num_blocks_per_group=1)
            assert torch.equal(sample(pipe), expected)

    with pytest.raises(RuntimeError, match=r"by a hook \(.*group_offloading.*\) put on .*before the tap is opened"):
        offload_late()
    assert torch.equal(sample(pipe), expected)
    with AttentionTap(pipe, WAN):
        assert torch.equal(sample(pipe), expected)


def test_other_replacements_are_named():
    model = Plain()

    def replace_late() -> None:
        with AttentionTap(model, FIRST):
            model(tokens())
            model.blocks[0].forward = lambda x: x

    with pytest.raises(RuntimeError, match=r"by other code; do that before the tap"):
        replace_late()


def test_pipelines_put_accelerates_hooks_on_again_after_each_run():
    pipe = stable_diffusion()
    expected = sample(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    with AttentionTap(pipe, STABLE_DIFFUSION, keep=Record()) as tap:
        for _ in range(2):
            assert torch.equal(sample(pipe), expected)
    assert len(tap.records(STABLE_DIFFUSION)) == 8
    assert {call.pass_of_step for call in tap.records(STABLE_DIFFUSION)} == {0}
    assert is_untouched(pipe.unet)
    with AttentionTap(stable := stable_diffusion(), STABLE_DIFFUSION, keep=Record()) as tap:
        stable.enable_model_cpu_offload(device="cpu")
        assert torch.equal(sample(stable), expected)
    assert len(tap.records(STABLE_DIFFUSION)) == 4
    assert is_untouched(stable.unet)
    assert torch.equal(sample(stable), expected)


def test_sequentially_offloaded_weights():
    import accelerate

    pipe = wan()
    expected = sample(pipe)
    for part in (pipe.vae, pipe.transformer):
        accelerate.cpu_offload(part, torch.device("cpu"))
    with torch.no_grad(), AttentionTap(pipe, WAN, keep=Record()) as tap:
        assert torch.equal(sample(pipe), expected)
    assert next(pipe.transformer.parameters()).is_meta
    assert len(tap.records(WAN)) == 8
    assert is_untouched(pipe.transformer)


# which network of a pipeline


def test_the_network_of_a_pipeline():
    pipe = wan()
    assert network_of(pipe) is network_of(pipe.transformer) is pipe.transformer
    assert network_of(stable := stable_diffusion()) is stable.unet
    part = nn.Linear(1, 1)
    assert network_of(SimpleNamespace(components={"prior": part, "text_encoder": nn.Linear(1, 1)})) is part
    assert network_of(SimpleNamespace(components={"prior_prior": part, "prior_text_encoder": nn.Linear(1, 1)})) is part
    two = SimpleNamespace(components={"transformer": part, "transformer_2": part, "vae": part})
    with pytest.raises(ValueError, match=r"several networks, transformer, transformer_2; give one, as in pipe.transf"):
        network_of(two)
    with pytest.raises(ValueError, match=r"has no transformer, unet or prior; give one of its networks: vae, decoder"):
        network_of(SimpleNamespace(components={"vae": part, "decoder": part, "scheduler": object()}))
    with pytest.raises(ValueError, match=r"expected a torch.nn.Module or a pipeline of diffusers, got str"):
        network_of("wan")
    with pytest.raises(
        ValueError, match=r"Wan\w+ has no method probe_inputs.*\(hidden_states, timestep, encoder_hidden"
    ):
        AttentionTap(pipe, 0)


def test_modules_that_may_attend_are_few():
    network = wan().transformer
    assert len(list(network.modules())) > 60
    with AttentionTap(network, "") as tap:
        wrapped = [name for name, module in network.named_modules() if "forward" in vars(module)]
        network(torch.zeros(1, 4, 1, 4, 4), torch.zeros(1), torch.zeros(1, 2, 8))
    assert len(wrapped) <= 20
    assert set(wrapped) == set(tap._watched)

"""A model of diffusers on flex attention, apart from the stand-ins, which diffusers would take for real packages."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from probe.capture import AttentionTap


@pytest.fixture(autouse=True)
def active_backend() -> Iterator[None]:
    """What one model's ``set_attention_backend`` sets is diffusers' choice for every model of the process."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    active, _ = registry.get_active_backend()
    yield
    registry.set_active_backend(active)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:Attention backends are an experimental feature")
def test_a_diffusers_model_on_flex_attention_is_seen():
    model, inputs = wan()
    with torch.no_grad():
        native = model(**inputs).sample
        model.set_attention_backend("flex")
        expected = model(**inputs).sample
        with AttentionTap(model, "", keep="detached") as tap:
            assert torch.equal(model(**inputs).sample, expected)
        with AttentionTap(model, "", edit=lambda call, run: run(call.q, call.k, call.v)):
            assert torch.equal(model(**inputs).sample, expected)
    assert [(call.name, call.kernel) for call in tap.calls] == [
        (f"blocks.{block}.{name}", "flex_attention") for block in range(2) for name in ("attn1", "attn2")
    ]
    torch.testing.assert_close(expected, native, rtol=0, atol=1e-5)


def wan() -> tuple[nn.Module, dict[str, Tensor]]:
    """A small Wan transformer with random weights, and its inputs."""
    from diffusers import WanTransformer3DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
            text_dim=16, freq_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
        ).eval()  # fmt: skip
        latents, text = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 5, 16)
    return model, {"hidden_states": latents, "timestep": torch.tensor([3]), "encoder_hidden_states": text}

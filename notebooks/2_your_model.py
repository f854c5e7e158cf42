# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Probe your own model
#
# Whatever calls PyTorch's fused attention (`scaled_dot_product_attention`) can be looked at, without hooks written for
# it. Looking changes no bit of its output. Here a stock video transformer of diffusers, small and with random weights,
# stands for your model: its frames are the views.
#
# An untrained network is also the first check of any probe: **it must score like chance**. Where it does not, the
# wiring (positions, cameras) finds the answer, and not what was learned.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import pandas as pd
import torch

from analysis.probing.page import make_page
from analysis.probing.tables import read_run
from probe import run
from probe.capture import AttentionTap
from probe.models import MultiViewModel, pixel_scheduler
from probe.models.model import model_layers

# %% [markdown]
# ## Parameters

# %%
SIZE = 32  # side of the views that the network sees, in pixels
PATCH = 4  # pixels of a token's side, so that a view has SIZE / PATCH tokens a side
PAIRS = 4  # pairs of views; rounded up to equal numbers for four bins of camera rotation
VIEWS = 2  # one clean reference, one noisy target
TIMESTEPS = "500"  # of 0 (clean) to 999 (pure noise)
OUT = Path(tempfile.mkdtemp(prefix="attention-probing-"))  # or Path("runs/mine"), to keep it


# %% [markdown]
# ## Describe the model
#
# Of six methods override those that differ from a plain pixel-space network. The noise schedule goes in as `alpha_bar`:
# the share of signal variance left at each t.
#
# | method | says | default |
# |---|---|---|
# | `encode`, `decode` | images in [0, 1] to latents and back | colours to [-1, 1] |
# | `condition` | what the network is told of cameras and references | mask and Plücker rays, 7 channels |
# | `denoise` | how to call it | `network(latents, t, **condition)` |
# | `probe_inputs` | small inputs by which layers are recognised | asks the network |
# | `fresh` | random weights, for the baseline `random` | diffusers' configuration |


# %%
class VideoModel(MultiViewModel):
    """A text-to-video transformer: frames are views, the prompt is empty, and it knows no cameras."""

    def condition(self, views, keep_cameras=None):
        return {"encoder_hidden_states": torch.zeros(len(views.image), 1, 8, device=views.image.device)}

    def denoise(self, latents, t, inputs):
        return self.network(latents.transpose(1, 2), t, **inputs, return_dict=False)[0].transpose(1, 2)

    def probe_inputs(self, views, scale=None):  # scale: tokens a side of the smallest grid; None: as it is used
        side = self.size if scale is None else PATCH * scale
        frames, prompt = torch.zeros(1, 3, views, side, side), torch.zeros(1, 1, 8)
        return {"hidden_states": frames, "timestep": torch.zeros(1), "encoder_hidden_states": prompt}


def make():
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 3, "ffn_dim": 96}
    ends = {"in_channels": 3, "out_channels": 3, "text_dim": 8, "freq_dim": 32, "patch_size": (1, PATCH, PATCH)}
    network = WanTransformer3DModel(**sizes, **ends)
    return VideoModel(name="my model", network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=SIZE)


# %% [markdown]
# ## What the suite sees in it
#
# Layers are recognised by how their token counts grow with views and image size: `3d` joins the tokens of all views,
# `view` stays within one, `cross` reads text. Only the first kind can match points between views. If the layer that you
# expect is missing, it does not call fused attention; the error of `AttentionTap` names the way out.

# %%
model = make()
layers = model_layers(model)
pd.DataFrame(layers)[["index", "name", "kind", "grid", "heads", "channels"]]

# %% [markdown]
# ## Look at one call
#
# The tap holds queries and keys as the kernel got them, after normalisation and rotary embedding: scenes, heads, tokens
# of all views, channels. `scale` is the factor of the logits.

# %%
first = next(layer for layer in layers if layer.kind == "3d")
with AttentionTap(model.network, [first], keep="detached") as tap, torch.no_grad():
    model.network(**model.probe_inputs(views=VIEWS))
print(first.name, tuple(tap[first].q.shape), f"scale {tap[first].scale:.3f}")

# %% [markdown]
# ## What will it cost?
#
# Before a large model is loaded, `dry_run` rehearses it without weights: tokens, memory and time. (On the command line:
# `--dry-run`.) Memory does not grow with the attention maps: they are never held whole. `docs/method.md` has the
# formula.

# %%
settings = {"model": "module:__main__.make", "pairs": PAIRS, "views": VIEWS, "timesteps": TIMESTEPS}
settings |= {"baselines": "none", "interventions": "none", "out": OUT}
run.main(run.Settings(**settings, dry_run=True))

# %% [markdown]
# ## Probe it
#
# `module:package.function` names a function that makes the model: here the notebook's own. Saved as `my_model.py`, the
# same cell serves the command line: `python -m probe.run --model module:my_model.make`.

# %%
run.main(run.Settings(**settings, resume=True, report=False))

# %% [markdown]
# ## Read it
#
# Points on the dotted line: chance, as they should be for random weights. With few scenes one layer may lie above it by
# luck; the evidence below says whether the interval does.

# %%
run_of_mine = read_run(OUT)
make_page(run_of_mine).figures["profile"]

# %%
print(run_of_mine.selection["evidence"])

# %% [markdown]
# ## For your own case
#
# - Latent diffusion: override `encode` and `decode`, set `channels` and `stride` (pixels per latent), and `prediction`.
# - Noise on all views, references too: `clean_references=False`.
# - Tokens of text or registers between those of the views are found by themselves, and left out of the matches.
# - Weights: load them in `make()`, with safetensors or `torch.load(..., weights_only=True)`.
# - CAT3D, MVGenMaster, Hunyuan-DiT, SEVA, MVDream and Stable Diffusion are known by name: `python -m probe.run --help`.

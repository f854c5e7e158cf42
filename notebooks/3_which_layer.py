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
# # 3. Which layer, and is it causal?
#
# A layer may *know* where points are without the model *using* it. So two questions are asked of each 3D layer:
#
# 1. **Correspondence**: how often does its attention find the true point, compared with what its token grid allows?
# 2. **Causal effect**: by how much does the denoised prediction get worse when the layer's attention is replaced?
#
# Correspondence chooses. Where it cannot separate layers, the greater causal effect does, then the lower cost.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

from IPython.display import Markdown

from analysis.probing.page import make_page
from analysis.probing.tables import read_run
from probe import run

# %% [markdown]
# ## Parameters
#
# Edits cost one denoising step per layer, edit, scene and timestep. Four scenes give wide intervals; take 16 or more.

# %%
MODEL = "cat3d-tiny"
SCENES = "shapes"
PAIRS = 4  # pairs of views; rounded up to equal numbers for four bins of camera rotation
VIEWS = 2  # one clean reference, one noisy target
TIMESTEPS = "300,700"  # of 0 (clean) to 999 (pure noise)
EDITS = "identity,shuffled_views"  # also: uniform, within_view, true_match
EDITED_AT = "500-999"  # edits act, and are measured, at the timesteps of this range
OUT = Path(tempfile.mkdtemp(prefix="attention-probing-"))  # or Path("runs/causal"), to keep it

# %% [markdown]
# *identity* is the paper's test: each token attends to itself only. *shuffled_views* keeps how much attention each
# other view gets, and shuffles which of its points gets it: what is lost is correspondence alone.

# %%
run.main(
    run.Settings(
        model=MODEL,
        scenes=SCENES,
        out=OUT,
        pairs=PAIRS,
        views=VIEWS,
        timesteps=TIMESTEPS,
        baselines="none",
        interventions=EDITS,
        edit_timesteps=EDITED_AT,
        sampling_steps=0,  # 10 judges sampled views as well: PSNR, SSIM, and pictures
        resume=True,
        report=False,
    )
)
probed = read_run(OUT)
page = make_page(probed)

# %% [markdown]
# ## Correspondence
#
# Grids differ: on 8 x 8 tokens half of the points cannot be hit at all, on 4 x 4 nine of ten. That is why layers are
# ranked by their **share of the ceiling**, and not by precision.

# %%
page.figures["profile"]

# %% [markdown]
# The other way to be fair: resample every layer's map to the finest grid, and ask all of them the same question.

# %%
page.figures["common"]

# %% [markdown]
# ## When does it know?
#
# `t` is the index of the noise schedule; ᾱ is the share of signal variance left. Late in sampling (low t) the target
# itself shows what it is; early on (high t) only cameras and references can tell.

# %%
page.figures["timesteps"]

# %% [markdown]
# ## Is it causal?
#
# By how much the error of the denoised prediction grows when one layer is edited, relatively: 0 % is no effect, 100 %
# twice the error. There is no ceiling here; the other layers are the comparison. All layers before the edited one stay
# as they were.

# %%
page.figures["effects"]

# %%
page.tables["effects"]

# %% [markdown]
# ## The choice
#
# The rule, and what it decided here:

# %%
Markdown("\n\n".join(page.causal))

# %% [markdown]
# The same is in `selection.json`. `ties` are layers that these scenes cannot separate from the chosen one: where there
# are any, measure more scenes before you build on the choice.

# %%
{key: probed.selection[key] for key in ("layer", "name", "metric", "scenes", "units", "ties", "ahead", "above_null")}

# %% [markdown]
# ## For your own case
#
# - `python -m train.cameo --layer auto --probe runs/causal` supervises the chosen layer.
# - One head instead of all: `edit_heads=True`; the table of effects then has a row per head.
# - Not every layer that correspondence chooses is causal, and a causal layer may carry something else than
#   correspondence (style, exposure). Say both numbers.

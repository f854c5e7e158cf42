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
# # 1. A tour in five minutes
#
# A multi-view diffusion model paints several views of one scene together. Its 3D attention lets every token look at
# every token of the other views. **Does it look at the same point of the scene?** This notebook measures that for the
# small model that ships with the suite, layer by layer, on procedural rooms whose geometry is exactly known. It needs
# no download and no GPU.
#
# In **Google Colab**: upload the repository as an archive (or write its `git+https://` address) and name it in the next
# cell, which installs it there. Elsewhere the cell does nothing.

# %%
import subprocess
import sys

ARCHIVE = "attention-probing.zip"
if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", ARCHIVE], check=True)

# %% [markdown]
# Everything here is one command too: `python -m probe.run`. The notebook calls the same functions and reads the same
# tables.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

from IPython.display import Markdown

from analysis.frame import PageFrame
from analysis.probing.page import make_page
from analysis.probing.tables import read_run
from analysis.report import build_report
from probe import run
from probe.scenes import Request, open_scenes
from probe.scenes.drawing import draw_scenes

# %% [markdown]
# ## Parameters
#
# Small, so that the notebook takes seconds. For numbers to rely on take `PAIRS = 64` or more and `TIMESTEPS =
# "100,300,500,700,900"`; the intervals below say whether it was enough.

# %%
MODEL = "cat3d-tiny"  # "cat3d-tiny:cameo" is the one whose attention was supervised
SCENES = "shapes"  # "shapes:cluttered", "rgbd:FOLDER", ...: notebook 5
PAIRS = 8  # pairs of views: VIEWS - 1 of each scene, the scenes spread over four bins of camera rotation
VIEWS = 3  # per scene: one clean reference, the others noisy targets
TIMESTEPS = "500"  # of the noise schedule: 0 is clean, 999 is pure noise
OUT = Path(tempfile.mkdtemp(prefix="attention-probing-"))  # or Path("runs/tour"), to keep it

# %% [markdown]
# ## What is true
#
# Each row is a scene, view 0 on the left. A line joins a point of view 0 with the place where another view *really
# shows it*: the point is projected there, and a depth test throws out what is hidden. Only such points are asked for
# below, so a model is never blamed for a point that nobody can see.

# %%
scenes = open_scenes(SCENES, Request(groups=2, views=VIEWS, n_ref=1))
draw_scenes([scenes.load(index)[0] for index in range(2)], matches=10)

# %% [markdown]
# ## Measure
#
# One denoising step per scene and timestep. In each 3D layer, every token of a noisy target view asks; its *match* is
# the token of the clean reference view with the highest attention weight, averaged over heads. The match is right if it
# lies within 5 % of the image's side of the true point: that share is the **precision**.

# %%
run.main(
    run.Settings(
        model=MODEL,
        scenes=SCENES,
        out=OUT,
        pairs=PAIRS,
        views=VIEWS,
        timesteps=TIMESTEPS,
        baselines="pixels,null",
        interventions="none",  # notebook 3
        resume=True,
        report=False,
    )
)

# %% [markdown]
# ## The answer
#
# A precision means nothing alone. Read it between two bounds that are computed on the same points:
#
# - **chance**: a token drawn uniformly, and the token at the *same position*, which is hard to beat where cameras
#   hardly move;
# - **ceiling**: the token that contains the true point. A coarse grid cannot do better, however good its features are.

# %%
page = make_page(read_run(OUT))
page.figures["profile"]

# %% [markdown]
# The page says the same in words, and so can you, of your own run:

# %%
Markdown("\n\n".join(filter(None, page.answer)))

# %% [markdown]
# ## Is it the model, or something simpler?
#
# The chosen layer beside what scored the same points. *Cameras only* is the same network with grey images: what rays
# and positions alone find. *Pixels* matches by colour. A layer that is not clearly above both has not been shown to see
# correspondence. In brackets: 95 % intervals over independent units (here rooms); below five there is none.

# %%
page.tables["matchers"]

# %% [markdown]
# ## How far apart may the cameras be?
#
# The same layer by the angle between the two cameras. Where the dashed line (same position) comes close, cameras that
# hardly move explain the score; look at the bins to the right.

# %%
page.figures["rotation"]

# %% [markdown]
# ## Go on
#
# The whole page, with every table and figure. It begins with the *match explorer*: point at a pixel and see where each
# layer looks.

# %%
PageFrame(build_report(OUT))

# %% [markdown]
# - your own network: `2_your_model`
# - which layer to supervise, and whether the model needs it: `3_which_layer`
# - what supervision does to training: `4_does_supervision_help`
# - your own pictures: `5_your_scenes`
# - the formulas: `docs/method.md`

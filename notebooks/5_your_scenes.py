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
# # 5. Bring your own scenes
#
# A probe needs three things of a scene: pictures, cameras, and for some pixels the point that they show. This notebook
# starts from a folder of colour images, depth images and poses, looks at what was understood, and probes on it. It
# writes a small folder of rendered frames to stand for yours; set `FOLDER` and it is skipped.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from PIL import Image

from analysis.probing.page import make_page
from analysis.probing.tables import read_run
from probe import run
from probe.correspondence import visible_tokens
from probe.geometry import point_map_to_depth
from probe.scenes import Request, open_scenes
from probe.scenes.drawing import draw_scenes
from probe.scenes.shapes import draw_shapes, make_views

# %% [markdown]
# ## Parameters

# %%
FOLDER = None  # Path("my/recording"), with the files listed below
LOADER = "rgbd"  # or co3d, nerfstudio, colmap, photos, navi, dtu, scannet: the README's table of layouts
IMAGE_SIZE = 128  # side in pixels of the images that truth is computed on; the model sees its own size
PAIRS = 4  # pairs of views; rounded up to equal numbers for the bins of camera rotation that the folder can fill
VIEWS = 2  # one clean reference, one noisy target
TIMESTEPS = "500"  # of 0 (clean) to 999 (pure noise)
OUT = Path(tempfile.mkdtemp(prefix="attention-probing-"))  # or Path("runs/scenes"), to keep it


# %% [markdown]
# ## The files
#
# ```
# camera-intrinsics.txt        3 x 3, in pixels
# frame-000000.color.png       8-bit colour
# frame-000000.depth.png       16-bit, millimetres; 0 or 65535 where it is missing
# frame-000000.pose.txt        4 x 4, camera to world, metres; x right, y down, z forward
# ```
#
# Most mistakes are in the pose: world to camera instead of camera to world, or the axes of OpenGL (y up, z backward).
# The picture of matches below shows either at once.


# %%
def write_recording(folder):
    """Photograph a procedural room from twelve places and write the frames as a recording."""
    generator = torch.Generator().manual_seed(0)
    turns = torch.linspace(8, 88, 11)[None]  # degrees against the first camera
    views = make_views(draw_shapes(1, generator=generator), turns, size=IMAGE_SIZE, n_ref=1, generator=generator)
    colour = (255 * views.image[0]).byte().movedim(1, -1).numpy()
    depth = (1000 * point_map_to_depth(views.point_map, views.world_to_cam)[0]).round().numpy().astype(np.uint16)
    folder.mkdir()
    np.savetxt(folder / "camera-intrinsics.txt", views.intrinsics[0, 0])
    for index, pose in enumerate(views.world_to_cam[0].inverse().numpy()):
        Image.fromarray(colour[index]).save(folder / f"frame-{index:06d}.color.png")
        Image.fromarray(depth[index]).save(folder / f"frame-{index:06d}.depth.png")
        np.savetxt(folder / f"frame-{index:06d}.pose.txt", pose)
    return folder


folder = FOLDER or write_recording(OUT / "recording")
spec = f"{LOADER}:{folder}"
sorted(path.name for path in folder.iterdir())[:5]

# %% [markdown]
# ## What was understood
#
# Scenes are drawn from the folder: view 0, and views that see at least a fifth of it, equally many for each 30 degrees
# of camera rotation that the folder can fill. Lines join a point with the place where another view really shows it.
# **Look at them**: if they join different points, cameras or depth are wrong, and so would be every number below.

# %%
scenes = open_scenes(spec, Request(groups=2, views=3, n_ref=1, size=IMAGE_SIZE))
loaded = [scenes.load(index)[0] for index in range(2)]
print(scenes.note)
draw_scenes(loaded, matches=8)

# %% [markdown]
# How much can be asked: pixels whose point is known, and tokens of view 0 that view 1 really shows. What is hidden or
# out of frame is not asked for; with less than a tenth left, draw pairs that lie closer (`min_overlap`).

# %%
seen = [visible_tokens(views, (16, 16))[0, 0, :, 1].float().mean().item() for views in loaded]
known = [views.valid.float().mean().item() for views in loaded]
pd.DataFrame({"pixels with a point": known, "tokens seen in view 1": seen}, index=[v.names[0] for v in loaded]).round(3)

# %% [markdown]
# ## Probe on them
#
# As in notebook 1, on your scenes. Metric scenes also get thresholds in metres.

# %%
settings = {"scenes": spec, "out": OUT / "probe", "pairs": PAIRS, "views": VIEWS, "timesteps": TIMESTEPS}
settings |= {"image_size": IMAGE_SIZE, "baselines": "pixels", "interventions": "none", "report": False}
run.main(run.Settings(**settings, resume=True))

# %%
page = make_page(read_run(OUT / "probe"))
page.figures["profile"]

# %%
Markdown("\n\n".join(filter(None, page.answer)))

# %% [markdown]
# Precision by threshold, between chance and ceiling. A threshold below half a token is out of reach of any matcher on
# this grid: its ceiling says so.

# %%
page.tables["thresholds"]

# %% [markdown]
# ## For your own case
#
# | you have | then |
# |---|---|
# | a published data set | `LOADER`, and its folder: the README's table |
# | photos only | `LOADER = "photos"` reconstructs them first (`pip install -e ".[colmap]"`) |
# | cameras but no depth | add `truth_source="tracks"` to the settings: SIFT matches that fit the cameras |
# | depth of your own network | `truth_source="module:my_points.points"`: a function, see `docs/extending.md` |
# | another file layout | a loader of about twenty lines: `docs/extending.md` |
#
# What a source of true points is worth, before you trust it: `python -m probe.truth_quality`.

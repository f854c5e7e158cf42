# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Does supervision help?
#
# CAMEO asks one layer's attention to look at true matches while the model trains. Two claims are to be told apart:
#
# 1. the **attention** finds true matches sooner;
# 2. the **images** get better sooner, which is what supervision is for.
#
# This notebook trains nothing. It reads the logs and tables of runs that are part of the repository, and takes seconds;
# point it at a folder of your own runs.

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

import analysis
from analysis.blocks import chart
from analysis.comparing.run import compare_evaluations, compare_probes_of_trainings
from analysis.study import figures
from analysis.study.page import make_study_page
from analysis.study.run import read_study
from analysis.study.tables import differences
from analysis.training.page import make_training_page
from analysis.training.run import read_training

# %% [markdown]
# ## Parameters

# %%
REPOSITORY = Path(analysis.__file__).parents[1]
REFERENCE = REPOSITORY / "reports/reference"  # or Path("runs")
STUDY = REFERENCE / "paper"  # made by python -m train.study --paper: variants times seeds
RUN = STUDY / "cameo-seed0"  # made by python -m train.cameo
PLAIN, SUPERVISED = STUDY / "plain-seed0", RUN  # two runs of one study, of equal seed
EMERGENCE = {  # measured on the same scenes for both
    "plain": PLAIN / "emergence.csv",
    "supervised": SUPERVISED / "emergence.csv",
}

# %% [markdown]
# ## One supervised run
#
# Precision of each layer's attention while the small model trained, with one layer supervised. The dotted line is
# chance, a uniform guess on that layer's grid.


# %%
def show(page, name):
    """Show the figures and tables of one section of a page, if the page has it."""
    for section in page.sections:
        if section.name == name:
            display(*section.charts, *section.tables.values())


run = read_training(RUN)
page = make_training_page(run)
print("supervised layer:", *run.supervised)
show(page, "precision")

# %% [markdown]
# That curve alone proves nothing: correspondence emerges in plain training too. Here is the same layer of both models,
# from the same first weights, on the same scenes. Bands are 95 % intervals over scenes; they say how sure each
# *model's* precision is, not how another seed of the training would have gone.

# %%
steps = [pd.read_csv(path).assign(who=who) for who, path in EMERGENCE.items()]
both = pd.concat(steps).query("layer == @run.supervised[0] and step <= @run.step").assign(panel="precision")
curves = figures.curves(
    both,
    titles={"precision": f"precision of layer {run.supervised[0]}"},
    styles=figures.looks(list(EMERGENCE)),
    name="emergence",
    alt="Precision over steps, plain and supervised",
    percent=["precision"],
)
words = (
    "How soon the attention finds the corresponding point, with and without supervision; read across at equal height."
)
chart("emergence", curves, words, source="python -m train.study --paper", table=both)

# %% [markdown]
# Attention is only half of it. The loss reads matches through a small mixing of the heads that is thrown away after
# training; that readout may learn what the attention itself does not. The **readout gap** shows it: points of precision
# that the loss claims and the attention lacks.

# %%
show(page, "readout")

# %% [markdown]
# Do the images follow? Two answers need no model: a copy of the nearest reference view, and that view's mean colour. A
# model that does not beat both has not been shown to use its cameras, whatever its attention does.

# %%
show(page, "quality")

# %% [markdown]
# ## Against the plain run of the same seed
#
# Same first weights, scenes and noise; only the supervision differs. `gain` is signed so that more is better; `ahead`
# counts the evaluations at which the supervised run leads.

# %%
plain, supervised = read_training(PLAIN), read_training(SUPERVISED)
compare_evaluations(plain, supervised).round(4)

# %% [markdown]
# And layer by layer, the precision of attention: `a` is plain, `b` supervised. The verdict is strict: *better* only
# where the two intervals over scenes lie apart.

# %%
probed = compare_probes_of_trainings(plain, supervised)
probed[["layer", "grid", "a", "a_low", "a_high", "b", "b_low", "b_high", "difference", "verdict"]].round(3)

# %% [markdown]
# One run each cannot tell a gain from the luck of a seed. That takes a study.

# %% [markdown]
# ## The study
#
# Variants times seeds: plain, the paper's loss, other mixings and truths, another layer, a rival, and a *control* whose
# truth is that of another scene. If the control helps as much, it is not the truth that helps.

# %%
results = read_study(STUDY)
page = make_study_page(results)
Markdown("\n\n".join(filter(None, page.answer)))

# %%
show(page, "convergence")

# %% [markdown]
# ## The statistics
#
# Each variant minus the plain run *of the same seed*, at the last step: pairing takes out what seed and scenes do to
# both. The interval is Student's t over seeds and needs three of them; below that, the verdict says *too few seeds* and
# nothing more can be said.

# %%
show(page, "variants")

# %%
gains = differences(results)
metrics = ["loss", "psnr", f"precision_{results.settings['layer']}"]
gains[gains["metric"].isin(metrics)].round(4)

# %% [markdown]
# ## How soon?
#
# The paper's claim is about time: half the steps to the same quality. So: how many steps does each variant take to the
# plain run's last value, divided by the steps of the plain run itself? 0.5 is the claim, 1 is no lead. The grey band is
# what plain runs of different seeds show against one another; the verdict rests on intervals that hold for all
# comparisons together.

# %%
show(page, "reach")

# %% [markdown]
# ## What may not be concluded

# %%
Markdown("\n".join(f"- {caveat}" for caveat in page.caveats))

# %% [markdown]
# ## For your own case
#
# `python -m train.study --variants plain,cameo,shuffled --seeds 0,1,2 --out runs/study` runs the least that answers the
# question: the method, its baseline, its control, and enough seeds for an interval. It can be stopped and goes on. Then
# set `STUDY = Path("runs/study")` above.

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour of an experiment
#
# This notebook reads what `pahq` wrote below `results/analysis/<experiment>/` and shows it. It computes
# nothing of its own. `tour.ipynb` and `tour.py` are one notebook (jupytext keeps them paired); run it as a whole with
# papermill.

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Image, Markdown, display

# %% tags=["parameters"]
root = "results"
experiment = "default"

# %%
folder = Path(root) / "analysis" / experiment
tables, figures = folder / "tables", folder / "figures"


def table(name: str) -> Markdown:
    """A table as the report prints it."""
    return Markdown((tables / f"{name}.md").read_text())


# %% [markdown]
# ## What was run
#
# One **cell** is one search: a task, a model, a method, a precision, a threshold and a seed. The methods
# share one algorithm, ACDC: test every edge of the model's graph once, from the output down, and remove
# it if the loss rises by less than the threshold. *ACDC* does so in full precision. *RTN-Q* rounds every
# attention head to a low format. *PAHQ* does too, except for the head whose edge is under test.

# %%
cells = pd.read_parquet(folder / "cells.parquet")
display(cells.groupby(["task", "method", "precision"], sort=False)["threshold"].apply(list).to_frame())

# %% [markdown]
# Cells that were planned and are not finished. They are in no table below.

# %%
display(pd.read_parquet(folder / "missing.parquet"))

# %% [markdown]
# ## How good are the circuits?
#
# Where somebody published the circuit of a task's model (here: the two compiled Tracr programs), each
# circuit found is a point: the share of the published edges that it has, against the share of all other
# edges that it has as well. A sweep over thresholds gives a curve. Its area is given twice: *steps*
# (ACDC's own, pessimistic) and *trapezoid*. With few points both say little, and the tables say so.

# %%
display(Image(filename=str(figures / "roc.png")))

# %% [markdown]
# Elsewhere there is no truth to compare with. What can be asked is whether a method finds what
# full-precision ACDC finds at the same threshold: the Jaccard index, beside the value that random
# circuits of equal size would reach.

# %%
display(table("auc"))

# %%
display(Image(filename=str(figures / "agreement.png")))

# %% [markdown]
# ## Do the circuits do the task?
#
# On prompts that the search never saw: how far the circuit's output is from the full model's (KL, or mean
# squared error for Tracr), and how much of the task's metric it keeps (faithfulness: 0 is the empty
# circuit, 1 the full model). Fewer edges and a smaller error are better: lower left wins.

# %%
display(Image(filename=str(figures / "edges_kl.png")))

# %%
display(table("circuits"))

# %% [markdown]
# ## How many bits are enough?
#
# The same searches by the format of the attention weights out of focus. Float32 is ACDC by construction,
# so its agreement is no finding.

# %%
display(Image(filename=str(figures / "bits.png")))

# %%
display(table("bits"))

# %% [markdown]
# ## What does it cost?
#
# Seconds and peak memory of the searches. These models are tiny, and low formats are unpacked before every
# product: the table shows what this run cost, not what low precision would save on larger models.

# %%
display(table("cost"))

# %% [markdown]
# The same tables, with all notes, are joined in `tables/REPORT.md`.

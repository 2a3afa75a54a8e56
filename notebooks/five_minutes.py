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
# # Five minutes on nano
#
# The package carries a small language model, `nano`. Here you search it for a circuit, look at the circuit, and see
# what a stricter search and fewer bits do to it. Everything runs on one core in seconds; nothing is downloaded.

# %%
import pahq
from pahq.experiments.compose import compose_runs

# %% [markdown]
# ## The question
#
# "Then , Agnes and Bruno went to the library . Bruno gave a kettle to" should go on with "Agnes". nano does that. The
# model is a graph: the heads and MLPs of every layer, and *edges* that carry what one of them writes to those that
# read it. Most edges have nothing to do with the task. Which ones do?
#
# The search removes one edge after the other, from the output down. Removing means that the edge carries what it
# carries for another prompt, in which the names are different. If the model's answers get worse by less than the
# threshold (here 0.1 nats of KL divergence), the edge stays out. The words below are those of the command line:
# `pahq task=nano-ioi method=acdc threshold=0.1` does the same.


# %%
def search(*words):
    """A finished search, from the words that the command line takes."""
    [(cell, run)] = compose_runs([*words, "run.progress=false", "wandb=disabled"])
    return pahq.run_cell(cell, run)


acdc = search("task=nano-ioi", "method=acdc", "threshold=0.1")
result = acdc.result
print(f"{result.kept:,} of {result.edges_addition + result.edges_direct:,} edges are left after {result.tests:,} tests")

# %% [markdown]
# ## The circuit
#
# Layers go up, heads across. A line is an edge, and the wider it is, the more the answers suffered when it was
# removed. The coloured slots below a head are its inputs: queries, keys and values.

# %%
pahq.draw(acdc.folder)

# %% [markdown]
# ## Is it any good?
#
# On prompts that the search has not seen: a faithfulness of 1 is the whole model's preference for the right name, and
# 0 that of a circuit without edges.

# %%
print(f"faithfulness {result.fresh.faithfulness:.2f}, KL divergence to the whole model {result.fresh.kl:.2f} nats")

# %% [markdown]
# A lower threshold keeps more edges, and a higher one fewer. The pictures stand one below the other; with a file's
# name, `pahq.draw(circuits, "sweep.html")`, they become one page with a slider.

# %%
searches = {t: search("task=nano-ioi", "method=acdc", f"threshold={t}") for t in (0.03, 0.1, 0.3)}
for threshold, one in searches.items():
    print(f"threshold {threshold}: {one.result.kept} edges, faithfulness {one.result.fresh.faithfulness:.2f}")

# %%
drawn = {threshold: one.folder for threshold, one in searches.items()}
pahq.draw(drawn, "sweep.html", title="nano-ioi")

# %% [markdown]
# ## In eight bits
#
# PAHQ searches with most weights in few bits, and only the head under test in full precision. `pahq-changes` is the
# variant that keeps to ACDC's circuits.

# %%
low = search("task=nano-ioi", "method=pahq-changes", "precision=int8", "threshold=0.1")
pahq.diff(acdc.folder, low.folder)

# %% [markdown]
# Where to go on: `your_own_task` searches on prompts of yours, `reading_a_circuit` says how far to trust what comes
# out, and `docs/choosing.md` how to choose a threshold.

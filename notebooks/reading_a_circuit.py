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
# # Reading a circuit
#
# A search always returns a circuit. This notebook asks of one: is it what was published, does it do the task, would
# other prompts have given it too, and what does another threshold change? The model is a Tracr program that reverses
# its input: it was compiled, not trained, so its true circuit is known.

# %%
import pandas as pd

import pahq
from pahq.circuits.published import published_circuit
from pahq.experiments.compose import compose_runs


# %%
def search(*words):
    """A finished search, from the words that the command line takes."""
    [(cell, run)] = compose_runs([*words, "run.progress=false", "wandb=disabled"])
    return pahq.run_cell(cell, run)


reverse = search("task=tracr-reverse", "method=acdc", "threshold=0.1")

# %% [markdown]
# ## Published edges
#
# Solid lines are published edges that were found, dashed ones are published and were not found, and dotted ones would
# be edges that nobody published.

# %%
pahq.draw(reverse.folder)

# %% [markdown]
# Some published edges are missing. What did the search find when it tested them?

# %%
circuit = pahq.Circuit.read(reverse.folder / "circuit.json")
published = published_circuit("tracr-reverse", circuit.graph)
tests = pd.read_json(reverse.folder / "decisions.jsonl", lines=True).set_index("edge")
effects = (tests["after"] - tests["before"]).reindex(sorted(published)).rename("effect").to_frame()
effects.assign(found=effects.index.isin(circuit.edges))

# %% [markdown]
# Two of the missing ones were tested, and without them the output is exactly what it was. When they are gone, nothing
# that the others feed reaches the output, so these needed no test (`NaN`). The program does without this part. So a
# miss is no mistake yet; the next question settles it.

# %% [markdown]
# ## Faithfulness
#
# On fresh prompts: the error of the circuit, of the whole model, and of a circuit without edges.

# %%
fresh = reverse.result.fresh
print(f"{fresh.metric}: circuit {fresh.value:.2g}, model {fresh.clean:.2g}, no edge {fresh.corrupted:.2g}")
print(f"faithfulness {fresh.faithfulness:.3f}")

# %% [markdown]
# Nothing is lost: the edges that were found do the whole task.
#
# ## Stability
#
# A trained model is less clear. On nano, would other prompts have given the same circuit? The prompts are drawn again
# with replacement, and each draw is searched. (`pahq stability FOLDER` does so for a finished cell.)

# %%
model = pahq.load_model("nano")
SENTENCE = "Then , {} and {} went to the {} . {} gave a {} to"
PEOPLE = [("Hugo", "Rosa"), ("Edith", "Jonas"), ("Leon", "Selma"), ("Noor", "Felix"), ("Mabel", "Otto")]
THINGS = [("library", "candle"), ("market", "ribbon"), ("station", "kettle"), ("chapel", "violin")]
prompts = pahq.prompts(
    model,
    clean=[SENTENCE.format(a, b, place, b, thing) for a, b in PEOPLE for place, thing in THINGS],
    corrupted=[SENTENCE.format("Vera", "Boris", place, "Wanda", thing) for _ in PEOPLE for place, thing in THINGS],
)
stable = pahq.stability(model, prompts, threshold=0.3, n=5, orders=False, progress=False)
to_original = stable.resamples.to_original
print(f"{len(stable.original)} edges; Jaccard index of resampled searches to it: {to_original.mean:.2f}")
print(f"by chance it would be {stable.resamples.by_chance:.2f}")

# %% [markdown]
# Edges that every draw keeps are safe to talk about; those that few keep are not.

# %%
inclusion = pd.Series(stable.inclusion)
inclusion = inclusion[inclusion > 0]
print(f"kept by all: {(inclusion == 1).sum()} edges; by less than half: {(inclusion < 0.5).sum()}")
pahq.draw(pahq.Circuit.from_names(stable.original.graph, inclusion[inclusion == 1].index), title="kept by every draw")

# %% [markdown]
# ## Two circuits
#
# What does a stricter threshold lose? The searches part at the first test in which they decide differently; from there
# on each tests a model of its own.

# %%
low, high = (pahq.acdc(model, prompts, threshold=t, progress=False) for t in (0.3, 1.0))
pahq.diff(low, high)

# %%
pahq.draw({0.3: low, 1.0: high}, "sweep.html", title="gifts")

# %% [markdown]
# `sweep.html` lies beside this notebook: open it in a browser, move the slider, hover over an edge. `docs/showing.md`
# says what else is on that page, and `pahq faithfulness FOLDER` adds intervals and hypothesis tests to a cell.

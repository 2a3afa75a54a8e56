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
# # Your own task
#
# A task is a table of prompt pairs. Here you write one, have it checked, search on it, and read the result. The model
# is `nano`, whose words are listed in `model.vocabulary`; with `pahq.load_model("folder/of/a/model")` it is yours
# (`docs/models.md`).

# %%
from pathlib import Path

import pandas as pd
from IPython.display import display

import pahq
from pahq.experiments.compose import compose_runs

# %% [markdown]
# ## The prompts
#
# `clean` is a prompt, `corrupted` its twin of equal length for which the answer is another one, `answer` the token
# that should follow, and `wrong` one that should not. Half of the rows are searched on; the other half judges the
# circuit.

# %%
rows = """
Hugo Rosa library candle    Vera Boris
Edith Jonas market ribbon   Greta Simon
Leon Selma station kettle   Ulf Irma
Noor Felix chapel violin    Petra Nils
Mabel Otto harbour lantern  Zelda Tomas
Ulf Gwen orchard compass    Kira Leon
"""
sentence = "Then , {} and {} went to the {} . {} gave a {} to"
gifts = pd.DataFrame(
    {
        "clean": sentence.format(a, b, place, b, thing),
        "corrupted": sentence.format(c, d, place, "Wanda", thing),
        "answer": a,
        "wrong": b,
    }
    for a, b, place, thing, c, d in map(str.split, rows.strip().splitlines())
)
gifts.to_csv("gifts.csv", index=False)
display(gifts)

# %% [markdown]
# ## The checks
#
# Everything is checked before a search begins, and a fault is told in one sentence with its row and column. An answer
# that the model has no token for, say:

# %%
gifts.assign(answer="Zebediah").to_csv("wrong.csv", index=False)
model = pahq.load_model("nano")
try:
    pahq.read_prompts(model, "wrong.csv")
except pahq.PahqError as error:
    print(error)
Path("wrong.csv").unlink()

# %% [markdown]
# ## The search
#
# With the words of the command line (`pahq task=own task.prompts=gifts.csv model=nano ...`). The metric is the
# difference of the logits of the right and the wrong answer; an edge stays if removing it costs 0.5 or more.

# %%
words = ["task=own", "task.prompts=gifts.csv", "task.metric=logit_diff", "model=nano", "method=acdc", "threshold=0.5"]
[(cell, run)] = compose_runs([*words, "run.progress=false", "wandb=disabled"])
found = pahq.run_cell(cell, run)
result = found.result

# %% [markdown]
# ## Does the model do the task at all?
#
# A circuit of a task that the model does not do tells nothing. Look here first.

# %%
check = result.task_check
print(f"on {check.done:.0%} of {check.items} prompts: {check.means}")
for example in check.examples:
    print(f"prompt {example.prompt}: wanted {example.answer}, likeliest tokens {', '.join(example.top)}")

# %% [markdown]
# ## The result
#
# How many edges are left, and how much of the model's preference they restore on the rows that were not searched on.

# %%
fresh = result.fresh
print(f"{result.kept:,} of {result.edges_addition + result.edges_direct:,} edges, {result.tests:,} tests")
print(f"{fresh.metric}: model {fresh.clean:.2f}, circuit {fresh.value:.2f}, no edge {fresh.corrupted:.2f}")
print(f"faithfulness {fresh.faithfulness:.2f}")

# %%
pahq.draw(found.folder)

# %% [markdown]
# The strongest edges by name: `a0.h6<v>` is the value input of head 6 of layer 0. `docs/graph.md` explains the names.

# %%
decisions = pd.read_json(found.folder / "decisions.jsonl", lines=True)
decisions["effect"] = decisions["after"] - decisions["before"]
decisions.nlargest(8, "effect")[["edge", "effect", "i"]]

# %% [markdown]
# ## The same without files
#
# In a notebook of your own the library is shorter: it writes nothing. Here by KL divergence, as unless said otherwise.

# %%
task = pahq.read_prompts(model, "gifts.csv")
pahq.acdc(model, task, threshold=0.3, progress=False)

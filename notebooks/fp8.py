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
# # Two ways in which FP8 fails, and what a scale does about them
#
# The PAHQ paper (arXiv 2510.23264) names two failures of plain FP8: **underflow** of values below $2^{-6}$, and
# **lost mantissa**. E4M3 has three bits of mantissa for magnitudes from $2^{-6}$ to 448. Below it has a fixed step of
# $2^{-9}$, so a weight loses a bit of mantissa for each halving and vanishes at $2^{-10}$. A language model's
# attention weights lie just there. Dividing each output's weights by their largest magnitude over 448, before the
# cast, moves them to where the format has all its bits. `docs/formats.md` has the definitions.

# %%
from io import BytesIO

import pandas as pd
import torch
from IPython.display import Image, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from pahq.model import load_model
from pahq.precision.formats import Format, round_trip

# %% tags=["parameters"]
model = "nano"

# %%
FORMATS = {
    "fp8, bare cast": Format("fp8", "none"),
    "fp8, scale per head": Format("fp8", "head"),
    "fp8, scale per row": Format("fp8", "row"),
    "int8, scale per row": Format("int8", "row"),
}


def measured(weight: torch.Tensor) -> pd.DataFrame:
    """By format: weights that become zero, weights that keep fewer than three bits of mantissa, and errors."""
    rows = {}
    for name, form in FORMATS.items():
        after = round_trip(weight, form)
        error, there = (after - weight).abs(), weight != 0
        rows[name] = {
            "underflow": float((after[there] == 0).float().mean()),
            # with three bits the error is at most 2^-4 of the weight (and a rounding of the scale)
            "lost mantissa": float((error[there] > weight[there].abs() * 2**-4 * 1.00001).float().mean()),
            "relative error": float(error.norm() / weight.norm()),
        }
    return pd.DataFrame(rows).T


def show(figure: Figure) -> None:
    """The figure as a picture, whatever backend draws it."""
    picture = BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight")
    plt.close(figure)
    display(Image(picture.getvalue()))


# %% [markdown]
# ## Random weights
#
# Eight heads of normal weights, of the spread named in the first column: .02 is what GPT-2 starts from. *Lost
# mantissa* is the share whose error exceeds the $2^{-4}$ that three bits of mantissa promise; int8, which has steps of
# equal width, has an error of that size at its small weights, too, and the smallest error on the whole.

# %%
generator = torch.Generator().manual_seed(0)
normal = torch.randn(8, 256, 64, generator=generator)
spreads = {spread: measured(spread * normal) for spread in (1.0, 0.1, 0.02, 0.004, 0.0005)}
display(pd.concat(spreads, names=["spread", "format"]).round(4))

# %% [markdown]
# The bare cast, weight by weight: the relative error by magnitude.

# %%
magnitude = torch.logspace(-14, 4, 4000, base=2)[None, :, None]
figure, axes = plt.subplots(figsize=(7, 3.2))
bare = round_trip(magnitude, Format("fp8", "none"))
axes.plot(magnitude.flatten(), ((bare - magnitude).abs() / magnitude).flatten(), lw=0.6, color="#E69F00")
axes.axvline(2**-6, color="black", lw=0.8)
axes.annotate("$2^{-6}$: the mantissa\nstarts to go", (2**-6, 0.8), xytext=(6, 0), textcoords="offset points")
axes.axvline(2**-10, color="black", lw=0.8, ls="--")
axes.annotate("$2^{-10}$:\nzero", (2**-10, 0.8), xytext=(-6, 0), textcoords="offset points", ha="right")
axes.set_xscale("log", base=2)
axes.set(xlabel="magnitude of the weight", ylabel="relative error", title="E4M3 without a scale")
show(figure)

# %% [markdown]
# ## A model's weights
#
# The same of each attention matrix of an embedded model, over its layers. The failures are of size: nano's weights are
# large, so a bare cast loses few of them and little on the whole; divide them by 50 and the first table's lower rows
# are what is left.

# %%
layers = load_model(model).layers
matrices = {
    name: measured(torch.cat([getattr(layer, name) for layer in layers])) for name in ("W_Q", "W_K", "W_V", "W_O")
}
display(pd.concat(matrices, names=["matrix", "format"]).round(4))

# %% [markdown]
# Where its weights lie, and where the format ends.

# %%
weights = torch.cat([layer.W_Q.flatten() for layer in layers]).abs()
figure, axes = plt.subplots(figsize=(7, 3.2))
axes.hist(weights.clamp(min=2**-14).log2().numpy(), bins=60, color="#0072B2")
axes.axvline(-6, color="black", lw=0.8)
axes.axvline(-10, color="black", lw=0.8, ls="--")
axes.set(
    xlabel="log2 of the magnitude of W_Q", ylabel="weights", title=f"{model}: bare FP8 has 3 bits right of the line"
)
show(figure)

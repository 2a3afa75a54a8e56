"""What a search minimises: logits in, one number per trial out.

Every objective reads logits at the items (example, position) its prompts name, already gathered: [*trial, item, vocab].
``value`` is the number papers report, the mean of ``each`` over the items; ``loss`` is what ACDC compares with its
threshold, so that damage raises it. All three are in float64; searches take their losses from ``pahq.engine.losses``,
which does not pass through rounded logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pahq.errors import PahqError


class Objective(Protocol):
    """A metric bound to its prompts' targets."""

    @property
    def name(self) -> str: ...

    def each(self, logits: Float[Tensor, "*trial item vocab"]) -> Float[Tensor, "*trial item"]: ...

    def value(self, logits: Float[Tensor, "*trial item vocab"]) -> Float[Tensor, "*trial"]: ...

    def loss(self, logits: Float[Tensor, "*trial item vocab"]) -> Float[Tensor, "*trial"]: ...


def kl(logits: Float[Tensor, "*trial item vocab"], clean: Float[Tensor, "item vocab"]) -> Float[Tensor, "*trial"]:
    """KL(clean || patched) in nats, summed over the vocabulary, mean over items.

    ``clean`` holds log-probabilities of the full-precision clean model. Conmy et al. 2023, section 3.
    """
    if logits.shape[-1] != clean.shape[-1]:
        raise ValueError(f"vocabularies differ: {logits.shape[-1]} and {clean.shape[-1]}")
    return kl_each(logits, clean).mean(-1)


def kl_each(
    logits: Float[Tensor, "*trial item vocab"], clean: Float[Tensor, "item vocab"]
) -> Float[Tensor, "*trial item"]:
    """The same, item by item, in float64.

    With d what the logits differ by, less its mean under the clean distribution p: log(sum p exp(d)). Differences of
    logarithms of probabilities would be off by rounding of the logarithms, which a small divergence drowns in.
    """
    flat = logits.reshape(-1, *clean.shape)
    logs = clean.double()
    p = logs.exp()
    each = [divergence(trial.double() - logs, logs, p) for trial in flat]  # one by one: float64 is twice as wide
    return torch.stack(each).view(logits.shape[:-1])


def divergence(
    change: Float[Tensor, "item vocab"], logs: Float[Tensor, "item vocab"], p: Float[Tensor, "item vocab"]
) -> Float[Tensor, " item"]:
    """``kl_each`` of one trial, from what its logits differ by and the clean log-probabilities ``logs`` and ``p``."""
    mass = p.sum(-1, keepdim=True)
    d = change - (p * change).sum(-1, keepdim=True) / mass
    highest = d.amax(-1, keepdim=True).clamp(min=0.0)
    small = torch.where(highest < 1, d, 0.0)  # or an endless exp(d), though not chosen below, would spoil the gradient
    near = ((p * (small.expm1() - small)).sum(-1) / mass[:, 0]).log1p()
    far = (logs + d).logsumexp(-1) - mass[:, 0].log()  # from logarithms: p may be nought where exp(d) is endless
    return torch.where(highest[:, 0] < 1, near, far)


@dataclass(frozen=True)
class Kl:
    """KL divergence from the clean full-precision model."""

    clean: Float[Tensor, "item vocab"]
    name: str = "kl"

    def each(self, logits: Tensor) -> Tensor:
        return kl_each(logits, self.clean)

    def value(self, logits: Tensor) -> Tensor:
        return kl(logits, self.clean)

    loss = value


@dataclass(frozen=True)
class LogitDifference:
    """Logit of the answer minus logit of the wrong answer, mean over items (Wang et al. 2022: IO - S)."""

    answer: Int[Tensor, " item"]
    wrong: Int[Tensor, " item"]
    name: str = "logit_diff"

    def each(self, logits: Tensor) -> Tensor:
        return pick(logits, self.answer).double() - pick(logits, self.wrong)

    def value(self, logits: Tensor) -> Tensor:
        return self.each(logits).mean(-1)

    def loss(self, logits: Tensor) -> Tensor:
        return -self.value(logits)


@dataclass(frozen=True)
class ProbabilityDifference:
    """Probability of the right tokens minus that of the wrong ones, softmax over the whole vocabulary.

    ``sign`` is +1 on right tokens, -1 on wrong ones, 0 elsewhere (Hanna et al. 2023, greater-than).
    """

    sign: Float[Tensor, "item vocab"]
    name: str = "prob_diff"

    def each(self, logits: Tensor) -> Tensor:
        return (logits.softmax(-1) * self.sign.to(logits.dtype)).sum(-1, dtype=torch.float64)

    def value(self, logits: Tensor) -> Tensor:
        return self.each(logits).mean(-1)

    def loss(self, logits: Tensor) -> Tensor:
        return -self.value(logits)


@dataclass(frozen=True)
class Margin:
    """Logit of the answer minus the largest logit among the wrong answers (Heimersheim and Janiak 2023)."""

    answer: Int[Tensor, " item"]
    wrong: Int[Tensor, "item choice"]
    name: str = "margin"

    def each(self, logits: Tensor) -> Tensor:
        index = self.wrong.expand(*logits.shape[:-1], self.wrong.shape[-1])
        return pick(logits, self.answer).double() - logits.gather(-1, index).amax(-1)

    def value(self, logits: Tensor) -> Tensor:
        return self.each(logits).mean(-1)

    def loss(self, logits: Tensor) -> Tensor:
        return -self.value(logits)


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """Negative log-likelihood of the answer in nats, mean over items."""

    answer: Int[Tensor, " item"]
    name: str = "nll"

    def each(self, logits: Tensor) -> Tensor:
        return -pick(logits.log_softmax(-1), self.answer).double()

    def value(self, logits: Tensor) -> Tensor:
        return self.each(logits).mean(-1)

    loss = value


@dataclass(frozen=True)
class SquaredError:
    """Mean squared difference to the clean model's outputs, over the output columns named."""

    clean: Float[Tensor, "item vocab"]
    columns: Int[Tensor, " column"]
    name: str = "mse"

    def each(self, logits: Tensor) -> Tensor:
        return (logits[..., self.columns].double() - self.clean[..., self.columns]).square().mean(-1)

    def value(self, logits: Tensor) -> Tensor:
        return self.each(logits).mean(-1)

    loss = value


def pick(values: Float[Tensor, "*trial item vocab"], index: Int[Tensor, " item"]) -> Float[Tensor, "*trial item"]:
    """The entry ``index[item]`` of every item."""
    return values.gather(-1, index.expand(values.shape[:-1])[..., None])[..., 0]


def objective(name: str, targets: Mapping[str, Tensor], clean_logits: Float[Tensor, "item vocab"]) -> Objective:
    """Bind metric ``name`` to the targets of one prompt set and the clean full-precision logits at its items.

    Raises PahqError when the prompts lack what the metric needs.
    """
    device = clean_logits.device
    known = {"kl": (), "logit_diff": ("answer", "wrong"), "prob_diff": ("sign",), "margin": ("answer", "choices")}
    known |= {"nll": ("answer",), "mse": ()}
    if name not in known:
        raise PahqError(f"unknown metric {name!r}; known: {', '.join(sorted(known))}")
    missing = [key for key in known[name] if key not in targets]
    if missing:
        possible = sorted(metric for metric, needs in known.items() if all(key in targets for key in needs))
        raise PahqError(f"metric {name!r} needs {missing[0]!r}, which this task lacks; it has: {', '.join(possible)}")
    at = {key: value.to(device) for key, value in targets.items()}
    if name == "kl":
        return Kl(clean_logits.double().log_softmax(-1).to(clean_logits.dtype))
    if name == "logit_diff":
        return LogitDifference(at["answer"], at["wrong"])
    if name == "prob_diff":
        return ProbabilityDifference(at["sign"])
    if name == "margin":
        return Margin(at["answer"], at["choices"])
    if name == "nll":
        return NegativeLogLikelihood(at["answer"])
    columns = at["columns"] if "columns" in at else torch.arange(clean_logits.shape[-1], device=device)
    return SquaredError(clean_logits, columns)


def of_items(objective: Objective, chosen: Int[Tensor, " chosen"]) -> Objective:
    """The same metric on some of its items alone, whose mean it then is."""
    bound: Any = objective
    tensors = {field.name: getattr(bound, field.name) for field in fields(bound) if field.name != "columns"}
    part: Objective = replace(
        bound, **{key: value[chosen.to(value.device)] for key, value in tensors.items() if isinstance(value, Tensor)}
    )
    return part


def gather_items(
    values: Float[Tensor, "*trial batch pos d"], items: Int[Tensor, "item 2"]
) -> Float[Tensor, "*trial item d"]:
    """Rows (example, position) of a [.., batch, pos, d] tensor, as the objectives read them."""
    at = items.to(values.device)
    return values[..., at[:, 0], at[:, 1], :]

"""Losses that read a whole distribution over the vocabulary, from the change of the final stream alone.

With p the clean full-precision distribution of a row, d the change of its logits and d' = d - sum p d, a KL divergence
is log1p(sum p (expm1(d') - d')): no two large numbers are subtracted, and an error in d enters times expm1(d'), so that
what all logits gain alike costs nothing. Probability differences and negative log-likelihoods follow from the same
sums. The vocabulary is walked in tiles that stay in cache; sums within a tile are float32's (pairwise: a product with a
vector of tens of thousands of numbers is added up in a row and off by 1e-4), between tiles float64's.

exp overflows where a logit gains more than 88. The loss is then no finite number, and ``careful`` losses, slower and in
float64, have to be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pahq.engine.problem import Problem
from pahq.model.forward import normalise
from pahq.model.logs import clean_log_probabilities
from pahq.tasks.metrics import Kl, NegativeLogLikelihood, ProbabilityDifference

TILE = 400_000  # logits of one vocabulary tile: 1.6 MB of float32, about one core's second-level cache
KEPT = 1 << 16  # clean probabilities up to which they are kept beside their logarithms
LIFT = 2.0**40  # probabilities are held so many times larger: float32 then knows 1e-50 as well as 1
LARGE = 5e-2  # nats: a mean divergence above it may be off by rounding of exp, some 1e-7 (more where logits are huge)

Part = Callable[[slice], Float[Tensor, "row trial tile"]]  # d' of a tile of the vocabulary


def rows_of(problem: Problem) -> tuple[Int[Tensor, "row 2"], Int[Tensor, " item"] | None]:
    """The distinct rows (example, position) that items read, and each item's among them; None: one each, in order."""
    items = problem.prompts.items.cpu()
    rows, index = torch.unique(items, dim=0, return_inverse=True)
    device = problem.corrupted.final.device
    return rows.to(device), None if torch.equal(rows, items) else index.to(device)


def at_items(values: Tensor, index: Tensor | None, dim: int) -> Tensor:
    """An entry for each item, from one for each row."""
    return values if index is None else values.index_select(dim, index)


def first_items(problem: Problem) -> Int[Tensor, " row"]:
    """Of each row the first item that reads it: any of them has the same clean run."""
    rows, index = rows_of(problem)
    items = torch.arange(len(problem.prompts.items), device=rows.device)
    if index is None:
        return items
    return items[: len(rows)].scatter_reduce(0, index, items, "amin", include_self=False)


class Change:
    """What normed final streams differ by from the clean full-precision run's, in float64.

    ``clean`` [row, d_model] is that run's normed final stream, ``index`` each item's row (see ``rows_of``).
    """

    def __init__(self, problem: Problem) -> None:
        ends = problem.store.ends
        self._config, self.index = ends.config, rows_of(problem)[1]
        self._norm = [None if x is None else x.double() for x in (ends.ln_final_w, ends.ln_final_b)]
        self.stream = problem.reference[first_items(problem)].double()
        self.clean = normalise(self._config, self.stream, *self._norm)

    def __call__(self, resid: Float[Tensor, "*trial row d_model"]) -> Float[Tensor, "*trial row d_model"]:
        return normalise(self._config, resid.double(), *self._norm) - self.clean


class Vocabulary:
    """The walk over the vocabulary that its losses share. Losses are [*trial] in float64."""

    def __init__(self, problem: Problem, tile: int, logs: Float[Tensor, "row vocab"] | None = None) -> None:
        self.careful, self._tile = False, tile
        self._kept: Tensor | None = None  # see _lifted
        self._change, self._W_U = Change(problem), problem.store.ends.W_U
        self._logs = clean_log_probabilities(problem.store.ends, self._change.clean) if logs is None else logs
        rows = len(self._change.clean)
        self._mass = self._change.clean.new_zeros(rows)  # of the probabilities as they are held: 1 but for rounding
        direction = torch.zeros_like(self._change.clean)
        for part in self._parts(rows):
            held = self._lifted(part).double()
            self._mass += held.sum(1)
            direction += held @ self._W_U[:, part].T.double()
        self._centre = direction / self._mass[:, None]  # sum p W_U, [row, d_model]

    def _lifted(self, part: slice) -> Float[Tensor, "row tile"]:
        """Clean probabilities times ``LIFT``, kept where they are few."""
        if self._logs.numel() > KEPT:
            return self._lift(part)
        if self._kept is None:
            self._kept = self._lift(slice(None))
        return self._kept[:, part]

    def _lift(self, part: slice) -> Float[Tensor, "row tile"]:
        """From roots: exp of the logarithm itself would underflow first."""
        return (self._logs[:, part] * 0.5).exp_().mul_(LIFT**0.5).square_()

    def _parts(self, rows: int) -> Iterator[slice]:
        vocabulary = self._W_U.shape[1]
        tile = min(vocabulary, max(256, self._tile // rows))
        return (slice(start, start + tile) for start in range(0, vocabulary, tile))

    def _mean_change(self, h: Float[Tensor, "trial row d_model"]) -> Float[Tensor, "trial row"]:
        """sum p d by trial and row, in float64."""
        return torch.einsum("tid,id->ti", h, self._centre)

    def _direct(self, h: Float[Tensor, "trial row d_model"]) -> Part:
        """d' of a tile by multiplying h with the unembedding."""
        mean = self._mean_change(h).T.to(self._W_U.dtype)
        rows = h.transpose(0, 1).to(self._W_U.dtype).flatten(0, 1)
        column = mean.reshape(-1, 1)
        return lambda part: torch.addmm(column, rows, self._W_U[:, part], beta=-1).view(*mean.shape, -1)

    def _sums(
        self, trials: int, d: Part, weights: Callable[[slice, Tensor], Tensor] | None = None
    ) -> tuple[Float[Tensor, "trial row"], Float[Tensor, "trial row"] | None]:
        """sum p (expm1(d') - d') and, with ``weights`` (of a tile, from p), sum weights expm1(d'), by trial and row."""
        first: Tensor | None = None
        second: Tensor | None = None
        for part in self._parts(len(self._mass) * trials):
            held, change = self._lifted(part), d(part)
            grown = change.expm1()
            if weights is not None:
                first = _added(first, (grown * weights(part, held)[:, None]).sum(-1))
            second = _added(second, grown.sub_(change).mul_(held[:, None]).sum(-1))
        assert second is not None
        return (second / self._mass[:, None]).T, None if first is None else (first / self._mass[:, None]).T

    def _grown(self, trials: int, d: Part) -> Float[Tensor, "trial row"]:
        """sum p exp(d') by trial and row, for divergences that rounding of exp (some 1e-7) is nothing to.

        As sum p (exp(d') - d'), for the sake of errors in d: these enter times expm1(d') here too.
        """
        total: Tensor | None = None
        for part in self._parts(len(self._mass) * trials):
            change = d(part)
            total = _added(total, change.exp().sub_(change).mul_(self._lifted(part)[:, None]).sum(-1))
        assert total is not None
        return (total / self._mass[:, None]).T

    def _carefully(
        self, h: Float[Tensor, "trial row d_model"], weights: Callable[[slice, Tensor], Tensor] | None = None
    ) -> tuple[Float[Tensor, "trial row"], Float[Tensor, "trial row"]]:
        """log(sum p exp(d')) and the mean of ``weights`` over p exp(d'): float64, no exponential that overflows.

        The highest logarithm so far is carried along, as the mean needs it; ``clean_log_probabilities`` needs the sum
        alone and adds up logarithms of tiles, which rounds otherwise.
        """
        mean, rows = self._mean_change(h).T, len(self._mass)
        wide = h.transpose(0, 1).flatten(0, 1)
        highest = mean.new_full((rows, h.shape[0], 1), float("-inf"))
        total, weighted = torch.zeros_like(mean), torch.zeros_like(mean)
        for part in self._parts(rows * h.shape[0]):
            logs = (wide @ self._W_U[:, part].double()).view(*mean.shape, -1) - mean[..., None]
            logs += self._logs[:, None, part]
            before, highest = highest, torch.maximum(highest, logs.amax(-1, keepdim=True))
            scale, grown = (before - highest).squeeze(-1).exp(), logs.sub_(highest).exp_()
            total = total * scale + grown.sum(-1)
            if weights is not None:
                ones = torch.ones_like(self._logs[:, part])
                weighted = weighted * scale + torch.bmm(grown, weights(part, ones).double()[..., None]).squeeze(-1)
        summed = total.log() + highest.squeeze(-1) - (self._mass / LIFT).log()[:, None]
        return summed.T, (weighted / total).T

    def _mean(self, each: Float[Tensor, "trial row"], like: Tensor) -> Float[Tensor, "*trial"]:
        return at_items(each, self._change.index, 1).mean(1).view(like.shape[:-2])


def _added(total: Float[Tensor, "row trial"] | None, more: Float[Tensor, "row trial"]) -> Tensor:
    """A sum of tiles' sums, in float64."""
    return more.double() if total is None else total.add_(more)


class KlLosses(Vocabulary):
    """KL divergence from the clean full-precision run."""

    def __init__(self, problem: Problem, tile: int = TILE) -> None:
        assert isinstance(problem.objective, Kl)
        logs, index = problem.objective.clean, rows_of(problem)[1]
        super().__init__(problem, tile, logs if index is None else logs[first_items(problem)])
        self.coarse = False  # whether divergences are taken to be large, so that exp serves, a quarter of expm1's time
        self._large = False  # whether the last ones were

    def expect(self, smallest: float) -> bool:
        """Say how small the last divergences were.

        Returns whether they were taken too coarsely for that, and should be asked again; they are then taken finely.
        """
        again = self.coarse and not smallest > LARGE
        self.coarse, self._large = self.coarse and not again, not again and smallest > 2 * LARGE
        return again

    def moved(self) -> None:
        """Say that the state is another. Only now are divergences taken otherwise: asked twice, they are the same."""
        self.coarse = self._large

    def __call__(self, resid: Tensor) -> Tensor:
        h = self._change(resid).view(-1, *resid.shape[-2:])
        if self.careful:
            return self._mean(self._carefully(h)[0], resid)
        return self._mean(self._each(len(h), self._direct(h)), resid)

    def along(
        self, resid: Float[Tensor, "trial row d_model"], change: Callable[[Tensor, Tensor], Part]
    ) -> Float[Tensor, "trial"]:
        """The same where the change of the logits is had more cheaply.

        ``change`` gives d' of a tile, from the clean run's stream [row, d_model] and the mean change [trial, row].
        """
        mean = self._mean_change(self._change(resid))
        return self._mean(self._each(len(resid), change(self._change.stream, mean)), resid)

    def _each(self, trials: int, d: Part) -> Float[Tensor, "trial row"]:
        return self._grown(trials, d).log() if self.coarse else self._sums(trials, d)[0].log1p()


class ProbabilityLosses(Vocabulary):
    """Minus (probability of the right tokens less that of the wrong ones)."""

    def __init__(self, problem: Problem, tile: int = TILE) -> None:
        super().__init__(problem, tile)
        assert isinstance(problem.objective, ProbabilityDifference)
        # signs are an item's, so that items of one row are walked apart
        self._sign = problem.objective.sign
        index = self._change.index
        if index is not None:
            self._kept = None
            self._logs, self._mass, self._centre = (x[index] for x in (self._logs, self._mass, self._centre))
        parts = list(self._parts(len(self._mass)))
        weighted = sum((self._weights(part, self._lifted(part)).double().sum(-1) for part in parts), self._mass * 0)
        self._clean = weighted / self._mass

    def _weights(self, part: slice, held: Tensor) -> Tensor:
        return held * self._sign[:, part].to(held.dtype)

    def __call__(self, resid: Tensor) -> Tensor:
        h = at_items(self._change(resid), self._change.index, -2)
        h = h.reshape(-1, *h.shape[-2:])
        if self.careful:
            value = self._carefully(h, self._weights)[1]
        else:
            second, first = self._sums(len(h), self._direct(h), self._weights)
            assert first is not None
            value = self._clean + (first - self._clean * second) / (1 + second)
        return -value.mean(-1).view(resid.shape[:-2])


class NllLosses(Vocabulary):
    """Negative log-likelihood of the answers."""

    def __init__(self, problem: Problem, tile: int = TILE) -> None:
        super().__init__(problem, tile)
        assert isinstance(problem.objective, NegativeLogLikelihood)
        answer, index = problem.objective.answer, self._change.index
        centre = at_items(self._centre, index, 0)
        self._answer = self._W_U[:, answer].T.double() - centre  # d' of the answer is h times it, [item, d_model]
        self._clean = -at_items(self._logs, index, 0).gather(-1, answer[:, None]).squeeze(1).double()

    def __call__(self, resid: Tensor) -> Tensor:
        h = self._change(resid).view(-1, *resid.shape[-2:])
        if self.careful:
            summed = self._carefully(h)[0]
        else:
            summed = self._sums(len(h), self._direct(h))[0].log1p()
        items = at_items(h, self._change.index, -2)
        each = self._clean - torch.einsum("tid,id->ti", items, self._answer) + at_items(summed, self._change.index, -1)
        return each.mean(-1).view(resid.shape[:-2])

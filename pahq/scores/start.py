"""What begins a scoring: a method by its name, with what it can be asked for."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.circuits.scores import Scores
from pahq.config.method import FLAT, STEPPED
from pahq.config.method import SCORING as METHODS
from pahq.engine.problem import Problem
from pahq.errors import PahqError, unknown
from pahq.scores.exact import exact_scores
from pahq.scores.focused import scores_in_focus
from pahq.scores.gradients import CONVENTIONS, gradient_scores


def score(
    problem: Problem, method: str, *, steps: int = 5, convention: str = "mean", batch_size: int | None = None
) -> Scores:
    """Scores of every edge of the problem's graph by a method of ``METHODS``; see ``pahq.scores.gradients``.

    Raises PahqError in one sentence for what cannot be asked or would be rounding noise.
    """
    check_asked(problem, method, steps=steps, convention=convention, batch_size=batch_size)

    def measure(focused: Problem, receivers: Sequence[Receiver] | None = None) -> Float[Tensor, " edge"]:
        if method == "exact":
            return exact_scores(focused, receivers=receivers)
        return gradient_scores(focused, method, steps=steps, convention=convention, batch_size=batch_size)

    in_focus = problem.focus == "receiver" and not problem.store.uniform
    found = scores_in_focus(problem, measure) if in_focus else measure(problem)
    return Scores(
        problem.graph,
        tuple(found.tolist()),
        method=method,
        metric=problem.made.metric,
        steps=steps if method in STEPPED else None,
        convention=convention,
        ablation=problem.made.ablation,
    )


def check_asked(problem: Problem, method: str, *, steps: object, convention: str, batch_size: object) -> None:
    """Raise PahqError unless the problem can be scored so."""
    if method not in METHODS:
        raise unknown("method of scoring", method, METHODS)
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value is None and name == "batch_size":
            continue
        if type(value) is not int or value < 1:
            raise PahqError(f"{name}: a whole number of at least 1 was expected (got {value!r})")
    metric = problem.made.metric
    if method == "eap" and metric in FLAT:
        others = "logit_diff, margin, nll, prob_diff"
        raise PahqError(
            f"method=eap with metric={metric} would be rounding noise: {metric} compares with the clean run, where it "
            f"is least, so that its gradient there is zero; use method=eap-ig, or a metric of the task ({others})"
        )
    if convention == "eap-ig" and problem.graph.n_direct:
        raise PahqError("convention=eap-ig is that of EAP-IG's code, whose graph has no Direct edges; use mean")

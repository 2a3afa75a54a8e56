"""What begins a scoring: a method by its name, with what it can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from pahq.circuits.scores import Scores, counted
from pahq.config.method import CLEAN, FLAT, FOCUSED, GRADIENTS, STEPPED, TrainingConfig, training_of
from pahq.config.method import SCORING as METHODS
from pahq.engine.problem import Problem
from pahq.errors import PahqError, unknown
from pahq.scores.audit import audited_scores
from pahq.scores.exact import exact_scores
from pahq.scores.focused import scores_in_focus
from pahq.scores.gradients import CONVENTIONS, gradient_scores
from pahq.scores.heads import head_scores
from pahq.scores.learned import Learner, Progress, State, learn
from pahq.scores.probing import Probing
from pahq.scores.pruning import EdgePruning, unit_of
from pahq.sentences import one_sentence

METRICS = "logit_diff, margin, nll, prob_diff"  # of tasks


def score(
    problem: Problem,
    method: str,
    *,
    steps: int = 5,
    convention: str = "mean",
    batch_size: int | None = None,
    seed: int = 0,
    size: int | float | None = None,
    training: TrainingConfig | Mapping[str, Any] | None = None,
    resume: State | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    scored: Callable[[int], object] = lambda edges: None,
    full: Problem | None = None,
) -> Scores:
    """Scores of every edge of the problem's graph by a method of ``METHODS``; see the modules of this room.

    ``full``: the problem in full precision, by which the top ``size`` of exact scores is audited
    (``pahq.scores.audit``).

    ``steps``, ``convention``: see ``pahq.scores.gradients``. ``seed``: of random scores and of what masks are drawn by.
    ``training``: how masks are learnt; ``size``: for how many edges, where ``training`` has no target; ``resume`` and
    ``report``: see ``pahq.scores.learned``; ``scored`` is told how many more edges are scored, where that takes one
    after the other (exact). Raises PahqError in one sentence for what cannot be asked or would be
    rounding noise.
    """
    check_asked(problem, method, steps=steps, convention=convention, batch_size=batch_size, seed=seed)
    if full is not None:
        return _audited(problem, full, method, size, seed, scored)
    learner = _learner(problem, method, _training(method, training), size)

    def measure(focused: Problem, edges: Sequence[int] | None = None) -> Float[Tensor, " edge"]:
        if method == "exact":
            return exact_scores(focused, edges=edges, report=scored)
        return gradient_scores(focused, method, steps=steps, convention=convention, batch_size=batch_size)

    if learner is not None:
        found = learn(problem, learner, seed=seed, resume=resume, report=report)
    elif method == "hisp":
        found = head_scores(problem, batch_size=batch_size)
    elif method == "random":
        found = random_scores(problem, seed)
    elif problem.focus == "receiver" and not problem.store.uniform:
        found = scores_in_focus(problem, measure)
    else:
        found = measure(problem)
    return Scores(
        problem.graph,
        tuple(found.tolist()),
        method=method,
        metric=problem.made.metric,
        steps=steps if method in STEPPED else None if learner is None else learner.steps,
        convention=convention,
        ablation=problem.made.ablation,
    )


def _audited(
    low: Problem,
    full: Problem,
    method: str,
    size: int | float | None,
    seed: int,
    report: Callable[[int], object],
) -> Scores:
    if method != "exact":
        one = "it gives all edges at once" if method in (*GRADIENTS, "hisp") else "that is another training"
        raise PahqError(f"audit=band is for method exact; method {method} needs none: in full precision {one}")
    if size is None:
        raise PahqError("audit=band looks at the edges near the cut of a size; give it one, as size=50 or size=0.02")
    found, audit = audited_scores(low, full, counted(size, len(low.graph.edges)), seed=seed, report=report)
    made = low.made
    return Scores(
        low.graph, tuple(found.tolist()), method=method, metric=made.metric, ablation=made.ablation, audit=audit
    )


def random_scores(problem: Problem, seed: int) -> Float[Tensor, " edge"]:
    """A number between 0 and 1 for every edge, drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(problem.graph.edges), generator=generator, dtype=torch.float64)


def _learner(
    problem: Problem, method: str, training: TrainingConfig | None, size: int | float | None
) -> Learner | None:
    """How the method learns masks; None where it learns none."""
    if size is not None and (training is None or method != "edge-pruning"):
        raise PahqError(
            f"size is of method edge-pruning and of audit=band; of the scores of {method} take a circuit by .top(size)"
        )
    if training is None:
        return None
    steps, rate = training.steps, training.learning_rate
    if method == "sp":
        assert training.regularisation is not None
        return Probing(problem.graph, steps, rate, training.regularisation)
    asked, edges = size if training.target is None else training.target, len(problem.graph.edges)
    if asked is None:
        raise PahqError("method edge-pruning learns masks for a size; give it one, as size=50 or size=0.02")
    assert training.warmup is not None
    kept = counted(asked, edges)
    return EdgePruning(edges, kept, steps, rate, training.warmup, unit_of(problem, kept))


def _training(method: str, given: TrainingConfig | Mapping[str, Any] | None) -> TrainingConfig | None:
    try:
        values = training_of(method, given)
        return None if values is None else TrainingConfig.model_validate(values)
    except ValidationError as error:
        raise PahqError(one_sentence(error, TrainingConfig, prefix="training.")) from None
    except ValueError as error:
        raise PahqError(str(error).replace("method.training.", "training.")) from None


def check_asked(
    problem: Problem, method: str, *, steps: object, convention: str, batch_size: object, seed: object
) -> None:
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
    if type(seed) is not int or seed < 0:
        raise PahqError(f"seed: a whole number of at least 0 was expected (got {seed!r})")
    if problem.focus != "none" and method not in FOCUSED:
        raise PahqError(
            f"focus={problem.focus}: method {method} looks at all edges at once, so that no head is under test; "
            f"a focus is for {', '.join(FOCUSED)}"
        )
    metric = problem.made.metric
    if method in CLEAN and metric in FLAT:
        raise PahqError(
            f"method={method} with metric={metric} would be rounding noise: {metric} compares with the clean run, "
            f"where it is least, so that its gradient there is zero; use method=eap-ig, or a metric of the task "
            f"({METRICS})"
        )
    if convention == "eap-ig" and method in GRADIENTS and problem.graph.n_direct:
        raise PahqError("convention=eap-ig is that of EAP-IG's code, whose graph has no Direct edges; use mean")

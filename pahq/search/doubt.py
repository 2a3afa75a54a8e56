"""Tests that float rounding could decide either way are decided in float64, on the spot.

How far rounding reaches is measured, never assumed: a float64 twin of the same network (``Problem.in_float64``)
measures a seeded sample of tests spread over the search, and the largest error of an effect that it finds, times
``SAFETY``, bounds the others'. Errors are told per unit of what they grow with. A KL divergence and a squared error are
zero at the clean run and curved there, so that an error in the logits enters times the root of the loss; other losses
are straight.

The twin costs a few forwards, so it is not made until a test comes nearer to the threshold than a cautious guess of the
noise. Then what the sample asks for so far is measured, and only if the test is still in doubt is it decided by the
twin. So whatever the guess reaches is judged by the whole sample up to there: a bound from an early, quiet part of the
search would say nothing of a late one. What is left of the sample is measured when the search is over (``finish``).
A search that goes on after a journal asks the twin just what the first one did (``repeat``), and ends with the same
decisions and the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pahq.engine.base import Engine
from pahq.search.acdc import Decision, is_removed, margin
from pahq.search.follow import Follower
from pahq.search.rounds import RoundFollower
from pahq.search.sample import drawn, unseen_share

SAFETY = 10.0  # an error counts as possible within this many times the largest of the sample
CONFIDENCE = 0.95
LEAST = 8  # tests of the sample before its largest error says anything; so many first tests are all in it
QUIET = 20.0  # of the guess, at least one part in so many counts as possible: a sample may have met dead edges alone
SHARE = 0.1  # of the tests are in the sample,
COUNT = 40  # and from test 400 on, so many for each e-fold of their number


def _share(index: int) -> float:
    """The probability with which the sample has a test."""
    return min(SHARE, COUNT / (index + 1))


@dataclass(frozen=True)
class Noise:
    """What float noise of an effect is told in: ``guess`` per unit, before anything is measured.

    ``unit`` gives, from a loss, what the errors of such losses are in proportion to.
    """

    guess: float
    unit: Callable[[float], float] = lambda loss: 1.0


class Doubts:
    """A judge (``pahq.search.acdc.Judge``): sees every decision in its order and replaces those in doubt.

    ``twin`` makes the engine that settles them, at the whole graph. Without ``settle`` nothing is replaced, and the
    sample alone is measured. ``round_size``: of the search (``pahq.search.rounds``).
    """

    def __init__(
        self,
        twin: Callable[[], Engine],
        noise: Noise,
        threshold: float,
        *,
        absolute: bool = False,
        settle: bool = True,
        layer_of: Callable[[int], Hashable] = lambda edge: None,
        focus: Callable[[int], Hashable] = lambda edge: None,
        seed: int = 0,
        round_size: int | None = None,
    ) -> None:
        self._round_size = round_size
        self._make, self._noise, self._threshold, self._absolute = twin, noise, threshold, absolute
        self._settle, self._layer_of, self._focus, self._seed = settle, layer_of, focus, seed
        self._twin: Follower | RoundFollower | None = None
        self._log: list[tuple[Decision, bool]] = []  # not yet shown to the twin; whether it is to be measured
        self._layers: set[Hashable] = set()
        self.largest = 0.0  # error per unit in the sample
        self._errors: list[float] = []

    @property
    def sampled(self) -> int:
        """How many tests of the sample have been measured."""
        return len(self._errors)

    def __call__(self, decision: Decision) -> Decision:
        """The decision that stands."""
        if self._doubtful(decision):
            decision = self._settled(decision)
        self._log.append((decision, self._wanted(decision)))
        return decision

    def repeat(self, decision: Decision) -> None:
        """Take over a decision of an earlier run, which stands; the twin is asked what it was asked then."""
        before, after = _rough(decision)
        if self._doubtful(replace(decision, before=before, after=after)):
            assert self._twin is not None
            self._twin.losses(decision.edge)
        self._log.append((decision, self._wanted(decision)))

    def pass_over(self, decision: Decision) -> None:
        """Take over a decision whose effect is not of the twin's network: only the state follows it."""
        self._log.append((decision, False))

    def bound(self, decision: Decision) -> float:
        """How far off the effect may be, as far as is known: the sample's largest error with ``SAFETY``, or a guess."""
        least = self._noise.guess / (QUIET if self.sampled >= LEAST else 1.0)
        return max(SAFETY * self.largest, least) * self._unit(_rough(decision))

    def at_risk(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Decisions of the searching engine that noise could have made the other way."""
        return [d for d in decisions if d.rough is None and not self._margin(d) > self.bound(d)]

    def finish(self) -> None:
        """Measure what is left of the sample and let the twin go; the search is over."""
        if any(wanted for _, wanted in self._log):
            self._catch_up()
        self._twin, self._log = None, []

    def record(self, decisions: Sequence[Decision]) -> dict[str, Any]:
        """For result.json: how noisy effects are and how that is known, what float64 decided, what is still at risk.

        ``noise`` is the largest bound of any effect's error: ``safety`` times the largest error per unit of loss among
        ``sample`` tests, of which the largest alone was ``largest_error``. That is a rule. What the sample is sure of:
        with ``confidence``, at most a share ``beyond`` of all tests err by more per unit than any of the sample.
        """
        settled = [d for d in decisions if d.rough is not None]
        changed = sum(self._falls(d.rough) != d.removed for d in settled if d.rough is not None)
        return {
            "noise": max((self.bound(d) for d in decisions), default=0.0),
            "sample": self.sampled,
            "largest_error": max(self._errors, default=None),
            "safety": SAFETY,
            "confidence": CONFIDENCE,
            "beyond": unseen_share([_share(d.index) for d in decisions], CONFIDENCE),
            "settled": len(settled),
            "settled_share": len(settled) / len(decisions) if decisions else 0.0,
            "overturned": changed,
            "at_risk": len(self.at_risk(decisions)),
        }

    def _falls(self, losses: tuple[float, float]) -> bool:
        return is_removed(losses[1] - losses[0], self._threshold, absolute=self._absolute)

    def _margin(self, decision: Decision) -> float:
        return margin(decision.effect, self._threshold, absolute=self._absolute)

    def _near(self, decision: Decision) -> bool:
        return not self._margin(decision) > self.bound(decision)

    def _doubtful(self, decision: Decision) -> bool:
        """Whether noise could decide, by all that the sample asks for up to this test."""
        if self._twin is not None and self._layer_of(decision.edge) not in self._layers:
            self._catch_up()  # errors grow from layer to layer: what is known of them is renewed in each
        guess = self._noise.guess * self._unit(_rough(decision))
        if not self._settle or self._margin(decision) > max(guess, self.bound(decision)):
            return False
        self._catch_up()
        return self._near(decision)

    def _wanted(self, decision: Decision) -> bool:
        """Whether the sample has this test: the first ones, the first of each layer, and a share drawn by ``seed``."""
        layer = self._layer_of(decision.edge)
        first = layer not in self._layers or decision.index < LEAST
        self._layers.add(layer)
        return first or drawn(self._seed, decision.index, _share(decision.index))

    def _catch_up(self) -> None:
        """Show the twin what was decided, and measure what the sample asks for."""
        if self._twin is None:
            engine, size = self._make(), self._round_size
            self._twin = Follower(engine, self._focus) if size is None else RoundFollower(engine, size)
        for decision, wanted in self._log:
            if wanted:
                self._see(decision, *self._twin.losses(decision.edge))
            self._twin.decided(decision.edge, decision.removed)
        self._log = []

    def _see(self, decision: Decision, before: float, after: float) -> None:
        rough = _rough(decision)
        error = abs((after - before) - (rough[1] - rough[0]))
        if math.isfinite(error):
            self.largest = max(self.largest, error / self._unit(rough))
            self._errors.append(error)

    def _unit(self, losses: tuple[float, float]) -> float:
        return self._noise.unit(max(losses))

    def _settled(self, decision: Decision) -> Decision:
        assert self._twin is not None
        before, after = self._twin.losses(decision.edge)
        removed = self._falls((before, after))
        return replace(decision, before=before, after=after, removed=removed, rough=(decision.before, decision.after))


def _rough(decision: Decision) -> tuple[float, float]:
    """The losses before and after as the searching engine had them."""
    return decision.rough or (decision.before, decision.after)

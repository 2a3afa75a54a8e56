"""Audited PAHQ: tests near the threshold are decided again in full precision, and that answer stands.

Near means within a band, which the run itself calibrates. Both networks are measured in the same state on the first
tests, on every test in the band and on a seeded sample of the others, and the band is ``safety`` times the largest
difference of effects seen so far. It begins wide (``near``) in each layer and stays so until ``enough`` tests so near
have been measured there: tests far from the threshold say little of how far off those near it are, and differences
jump from one layer to the next (on a model of GPT-2's shape several times over, late in a search). It is never
narrower than ``least``, since the largest difference is seldom among the few that were seen. The first test of all is
for a format that is all noise, which sees no test near the threshold. A quantile further down than the largest would
not do, since differences have heavy tails and grow as the circuit is taken apart: on SmolLM2 one test of thousands was
off by six times the 90% quantile, and one such test is enough to leave ACDC's path. The band is a rule, not a bound.
What bounds the tests that it missed is the sample: of those drawn outside the band of their time, so many of n fell the
other way. Large effects are off by more than small ones, and the largest are nowhere near the threshold, so differences
and margins are taken relative to |effect in low precision| + threshold.

Where only changes are in low precision, errors are in proportion to effects, and how large they can be is known before
anything is measured: 95% of a search's lie within about the error that the format makes of a weight
(``Problem.format_error``), and the largest were 2 to 5 times as large (``benchmarks/results/changes.json``, relative to
|effect| + threshold). There the band begins at, and is never narrower than, a multiple of
that error, which is far narrower than the one above.

A decision that falls as ACDC's leaves the state ACDC's. So the search stays ACDC's until an unaudited test differs, and
up to there each state in which the two networks were compared is one of ACDC's own.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pahq.circuits.graph import Graph
from pahq.config.band import BandConfig
from pahq.engine.base import Engine
from pahq.search.acdc import Decision, Judge, as_measured, is_removed, margin
from pahq.search.doubt import Doubts
from pahq.search.follow import Follower
from pahq.search.rounds import RoundFollower
from pahq.search.sample import binomial, drawn, upper_rate

SAMPLE_SEED = 0  # of the random sample, so that a search gone on with draws the same tests


@dataclass
class Calibration:
    """What the tests so far say of the band: a function of the decisions alone, so a journal brings it back.

    ``layer_of`` names the layer that an edge leads into. ``unit``: what ``settings.least`` and ``near`` are multiples
    of, in the same terms as the band. ``band``, ``largest`` and ``margins`` are relative to
    |effect in low precision| + threshold.
    """

    settings: BandConfig
    threshold: float
    absolute: bool = False
    layer_of: Callable[[int], Hashable] = lambda edge: None
    unit: float = 1.0
    seed: int = SAMPLE_SEED
    hopeless_at: int | None = None  # the test that showed it
    largest: float = 0.0  # difference of any test measured by both; one that is no number makes the band endless
    layers: dict[Hashable, int] = field(default_factory=dict)  # tests measured by both within ``settings.near``
    layer: Hashable = None  # of the last test
    margins: list[float] = field(default_factory=list)  # of all tests in low precision, sorted
    drawn: int = 0  # tests of the sample
    outside: int = 0  # of these, such as lay outside the band of their time
    missed: int = 0  # of these, such as fell the other way in full precision

    @property
    def hopeless(self) -> bool:
        return self.hopeless_at is not None

    @property
    def calibrated(self) -> bool:
        """Whether enough tests near the threshold have been measured in the layer at hand."""
        return self.layers.get(self.layer, 0) >= self.settings.enough

    @property
    def band(self) -> float:
        return max(self._seen, self.settings.least * self.unit, 0.0 if self.calibrated else self._near)

    @property
    def _near(self) -> float:
        return self.settings.near * self.unit

    @property
    def _seen(self) -> float:
        return self.settings.safety * self.largest

    def wants(self, decision: Decision) -> bool:
        """Whether a decision taken in low precision is to be audited."""
        self._enter(decision)
        return self._chosen(decision.index) or not self._margin(decision.effect) > self.band

    def note(self, decision: Decision) -> None:
        """Learn from a decision that stands."""
        if self.hopeless:
            return
        self._enter(decision)
        before, after = decision.low or (decision.before, decision.after)
        effect = after - before
        away = self._margin(effect)
        insort(self.margins, _finite_or_inf(away))
        if decision.low is None:
            return
        if self._sampled(decision.index):
            self.drawn += 1
            if away > self.band:
                self.outside += 1
                self.missed += is_removed(effect, self.threshold, absolute=self.absolute) != decision.removed
        self.layers[self.layer] += not away > self._near
        self.largest = max(self.largest, _finite_or_inf(self._relative(effect - decision.effect, effect)))
        if (self.calibrated or self._seen > self._near) and self._mostly_inside():
            self.hopeless_at = decision.index

    def _enter(self, decision: Decision) -> None:
        self.layer = self.layer_of(decision.edge)
        self.layers.setdefault(self.layer, 0)

    def _chosen(self, index: int) -> bool:
        return index < self.settings.first or self._sampled(index)

    def _sampled(self, index: int) -> bool:
        return drawn(self.seed, index, self.settings.share)

    def _mostly_inside(self) -> bool:
        """Whether so few tests outside the band would be rare if the share of tests inside were the one set.

        Asked after every audit, so that over a search a format is given up wrongly more often than 1 - confidence. All
        that costs is time: the rest is decided in full precision.
        """
        n, rate = len(self.margins), 1 - self.settings.hopeless
        out = n - bisect_right(self.margins, self.band)
        if out >= n * rate:
            return False
        return sum(binomial(n, i, rate) for i in range(out + 1)) < 1 - self.settings.confidence

    def _margin(self, effect: float) -> float:
        return self._relative(margin(effect, self.threshold, absolute=self.absolute), effect)

    def _relative(self, difference: float, effect: float) -> float:
        scale = abs(effect) + self.threshold
        return abs(difference) / scale if scale else abs(difference)


def _finite_or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf


class Auditor:
    """A judge: measures again by a full-precision ``engine``, which follows the state of the search.

    ``doubts``, of the full-precision network, settles what float noise could decide. ``round_size``: where the search
    itself moves the engine's state, by rounds (``pahq.search.rounds``).
    """

    def __init__(
        self, engine: Engine, calibration: Calibration, doubts: Doubts | None = None, *, round_size: int | None = None
    ) -> None:
        self._follower: Follower | RoundFollower
        self._follower = Follower(engine) if round_size is None else RoundFollower(engine, round_size, moves=False)
        self._calibration, self.doubts = calibration, doubts

    def __call__(self, decision: Decision) -> Decision:
        if self._calibration.hopeless:
            return decision  # the search ends at an earlier test
        if self._calibration.wants(decision):
            decision = self._audit(decision)
        elif self.doubts is not None:
            self.doubts.pass_over(decision)
        self._follower.decided(decision.edge, decision.removed)
        self._calibration.note(decision)
        return decision

    def repeat(self, decision: Decision) -> None:
        """Take over a decision of an earlier run."""
        self._calibration.note(decision)
        self._follower.decided(decision.edge, decision.removed)
        if self.doubts is not None:
            (self.doubts.repeat if decision.audited else self.doubts.pass_over)(decision)

    def _audit(self, decision: Decision) -> Decision:
        before, after = self._follower.losses(decision.edge)
        known = self._calibration
        removed = is_removed(after - before, known.threshold, absolute=known.absolute)
        low = (decision.before, decision.after)
        found = Decision(decision.index, decision.edge, before, after, removed, audited=True, low=low)
        return found if self.doubts is None else self.doubts(found)


def banded(
    low: Callable[[Judge, Sequence[Decision]], Iterator[Decision]],
    full: Callable[[Judge, Sequence[Decision]], Iterator[Decision]],
    auditor: Auditor,
    calibration: Calibration,
    done: Sequence[Decision] = (),
) -> Iterator[Decision]:
    """The decisions of a low-precision search with its audit.

    ``low(judge, done)`` begins the low-precision search, ``full(judge, done)`` ACDC, each after ``done``. When
    the calibration shows that the format is hopeless (more than the set share of tests lie in the band), all that is
    left is decided by ``full``: ACDC at ACDC's cost.
    """
    taken = list(done)
    for decision in taken:
        auditor.repeat(decision)
    if not calibration.hopeless:
        for decision in low(auditor, done):
            taken.append(decision)
            yield decision
            if decision.index == calibration.hopeless_at:
                break
        else:
            return
    for decision in full(auditor.doubts or as_measured, [replace(decision, low=None) for decision in taken]):
        yield replace(decision, audited=True)


def layers_of(graph: Graph) -> Callable[[int], Hashable]:
    """The layer that an edge leads into: a layer's heads and its MLP together, the logits on their own."""

    def layer(edge: int) -> Hashable:
        receiver = graph.edges[edge].receiver
        return receiver.kind if receiver.kind == "logits" else receiver.layer

    return layer


def record(
    decisions: Sequence[Decision],
    threshold: float,
    settings: BandConfig,
    *,
    absolute: bool = False,
    layer_of: Callable[[int], Hashable] = lambda edge: None,
    unit: float = 1.0,
) -> dict[str, Any]:
    """What an audit did and how sure it is, for result.json.

    ``layers``: how many were tested before the format was given up, if it was, and in how many of them enough tests
    near the threshold were measured. ``band`` is the last test's, at least ``near`` if its layer had too few of them.
    ``outside``: tests drawn that lay outside the band of their time, and how many of them full precision overturned.
    They are a random sample of those left unaudited, hence ``could_differ``: with the confidence, as many unaudited
    tests at most are expected to have fallen otherwise than in full precision. A sample of n can bound no rate below
    about 3 / n at 95%, and a short search draws too few to say anything. ``band`` is None if it is endless.
    """
    known = Calibration(settings, threshold, absolute, layer_of, unit)
    for decision in decisions:
        known.note(decision)
    audited = [decision for decision in decisions if decision.audited]
    flips = sum(
        d.low is not None and is_removed(d.low[1] - d.low[0], threshold, absolute=absolute) != d.removed
        for d in audited
    )
    unaudited = len(decisions) - len(audited)
    return {
        "kind": "band",
        "tests": len(audited),
        "share": len(audited) / len(decisions),
        "overturned": flips,
        "layers": {
            "tested": len(known.layers),
            "calibrated": sum(count >= settings.enough for count in known.layers.values()),
        },
        "sample": known.drawn,
        "outside": {"drawn": known.outside, "overturned": known.missed},
        "confidence": settings.confidence,
        "safety": settings.safety,
        "band": _number(known.band),
        "largest_error": _number(known.largest),
        "could_differ": unaudited * upper_rate(known.missed, known.outside, settings.confidence),
        "hopeless": known.hopeless,
        "hopeless_at": known.hopeless_at,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None

"""What became of a claim: a value, and the one line that tells it. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pahq.search.sample import upper_rate

CONFIDENCE = 0.95  # of what a sample says of all tests


@dataclass(frozen=True)
class Claim:
    """Whether a bundle's claim holds; ``first`` is the first thing that does not, in words, and None if all does.

    ``tests`` of the search (or edges that were scored), of which ``checked`` were decided again and ``equal`` came out
    alike. ``worst``: the largest difference of an effect in the metric's units, or of a score in proportion to the
    largest one. ``margin``: how near the threshold an effect came here, None of scores. ``at_risk``: tests that fell
    the other way here, within the noise that the cell itself states of them. ``seed``: of the sample, None where all
    were checked; with the ``confidence``, at most a share ``could_differ`` of all tests would come out otherwise.
    ``notes``: what else there is to say.
    """

    name: str
    kind: Literal["search", "scores"]
    tests: int
    edges: int
    kept: int
    checked: int = 0
    equal: int = 0
    worst: float = 0.0
    margin: float | None = None
    at_risk: int = 0
    seed: int | None = None
    by: str = "the reference engine in float64"
    before: str = ""  # what a disagreement may come from
    first: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return self.first is None

    @property
    def confidence(self) -> float | None:
        return None if self.seed is None else CONFIDENCE

    @property
    def could_differ(self) -> float | None:
        """With the ``confidence``, at most this share of all tests would come out otherwise."""
        if self.seed is None:
            return None
        return upper_rate(self.checked - self.equal, self.checked, CONFIDENCE)

    def __str__(self) -> str:
        if self.first is not None:
            return f"{self.name}: the claim does NOT hold: {self.before}{self.first}"
        what = "tests" if self.kind == "search" else "scores"
        some = f"a sample of {self.checked:,} of {self.tests:,} {what} (seed {self.seed})"
        told = [some if self.seed is not None else f"all {self.tests:,} {what}"]
        told[0] += f" came out alike by {self.by}"
        if self.at_risk:
            told[0] += f", but for {self.at_risk} that the cell itself calls at risk"
        if self.could_differ is not None:
            told.append(f"with {CONFIDENCE:.0%} confidence at most {self.could_differ:.2%} of all would not")
        unit = "of an effect" if self.kind == "search" else "in proportion to the largest score"
        told.append(f"worst difference {unit} {self.worst:.1e}")
        if self.margin is not None:
            told.append(f"smallest margin to the threshold {self.margin:.1e}")
        told.append(f"the circuit of {self.kept:,} of {self.edges:,} edges and its fresh prompts are as said")
        notes = "".join(f" ({note})" for note in self.notes)
        return f"{self.name}: the claim holds: {', '.join(told)}{notes}"

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        name, kind, first = values.pop("name"), values.pop("kind"), values.pop("first")
        sure = {"confidence": self.confidence, "could_differ": self.could_differ}
        told = {"name": name, "kind": kind, "agrees": self.holds} | values | sure
        del told["before"]
        return told | {"first": None if first is None else f"{self.before}{first}"}

"""What a finished cell's ``result.json`` says, as one type: written from it and read into it. No torch.

Times are in seconds, memory in bytes, losses and effects in the units of the search metric (KL in nats). Whatever is a
number here is finite: JSON has no word for anything else, and neither has a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, NonNegativeInt, PositiveInt, ValidationError

from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.sentences import one_sentence

SCHEMA = 3
REPAIR = "run.repair=true (or `pahq repair`) sets it aside and computes the cell anew"
Share = Annotated[float, Field(ge=0, le=1)]
Hex = Annotated[str, Field(pattern="^[0-9a-f]+$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Search(_Part):
    """The loss before any edge was removed (of the rounded network), and the one that the last test left.

    Where only changes are in low precision the first is full precision's, and the last is told by the last test itself.
    ``smallest_margin``: of all tests, how near an effect came to the threshold.
    """

    start: float
    final: float
    smallest_margin: float


class Float64Audit(_Part):
    """``audit=float64``: ``tests`` at risk by float noise were measured again in float64, and ``flipped`` would fall
    otherwise (edges by name). ``worst_difference`` is the largest of their effects'."""

    kind: Literal["float64"] = "float64"
    tests: NonNegativeInt
    flipped: tuple[str, ...]
    worst_difference: float


class Layers(_Part):
    """Of layers before a format was given up: how many were tested, and in how many the band was measured enough."""

    tested: NonNegativeInt
    calibrated: NonNegativeInt


class Outside(_Part):
    """Of tests drawn: how many lay outside the band, and how many of those full precision decided otherwise."""

    drawn: NonNegativeInt
    overturned: NonNegativeInt


class BandAudit(_Part):
    """``audit=band``: full precision decided ``tests`` (a ``share`` of all), and ``overturned`` of them otherwise.

    ``sample``: tests drawn. ``band``: the last one, None if it is endless. ``largest_error``: of all effects measured
    in both precisions, relative to |effect| + threshold. ``could_differ``: with ``confidence``, so many decisions of
    unaudited tests at most are expected to be others than full precision's. ``hopeless``: whether, and ``hopeless_at``
    from which test on, the rest was decided in full precision. ``bits_share``: bits of weights read a test, of full
    precision's; above 1 where both networks ran. All from ``pahq.search.band.record`` and ``pahq.precision.bits``.
    """

    kind: Literal["band"] = "band"
    tests: NonNegativeInt
    share: Share
    overturned: NonNegativeInt
    layers: Layers
    sample: NonNegativeInt
    outside: Outside
    confidence: Share
    safety: float
    band: float | None
    largest_error: float | None
    could_differ: float
    hopeless: bool
    hopeless_at: NonNegativeInt | None
    bits_share: float


class Rescored(_Part):
    """``audit=band`` of exact scores: the fields of ``pahq.circuits.scores.ScoreAudit``, which says what they mean."""

    rescored: NonNegativeInt
    share: Share
    sample: NonNegativeInt
    band: float
    largest_error: float
    changed: NonNegativeInt
    beyond: Share


class Certainty(_Part):
    """How far float noise reaches, how that is known, and what it could have decided (``pahq.search.doubt.Doubts``).

    ``noise``: the largest bound of any effect's error, ``safety`` times the largest error per unit of loss that
    ``sample`` tests had, measured in float64; ``largest_error``: the largest of these errors itself, None without a
    sample. With ``confidence``, at most a share ``beyond`` of all tests err by more per unit than any of the sample.
    ``settled`` tests (``settled_share`` of all) were decided in float64, ``overturned`` of them otherwise than
    measured; ``at_risk`` tests were not and could fall either way. ``drift``: the largest difference that a loss
    carried along had from the same computed anew, None where every loss was computed anew. ``audit``: None without one.
    """

    noise: float
    sample: NonNegativeInt
    largest_error: float | None
    safety: float
    confidence: Share
    beyond: Share
    settled: NonNegativeInt
    settled_share: Share
    overturned: NonNegativeInt
    at_risk: NonNegativeInt
    drift: float | None
    audit: Annotated[Float64Audit | BandAudit, Discriminator("kind")] | None


class Fresh(_Part):
    """The circuit on fresh prompts and the full-precision network: KL to that, and the task's own metric.

    ``value`` is the metric of the circuit, ``clean`` of the whole and ``corrupted`` of the empty graph. Faithfulness is
    (value - corrupted) / (clean - corrupted), None where rounding alone may tell the two apart.
    """

    kl: float
    metric: str
    value: float
    clean: float
    corrupted: float
    faithfulness: float | None


class Example(_Part):
    """An item of prompt number ``prompt``: the answer, and the network's likeliest tokens."""

    prompt: NonNegativeInt
    answer: str | None
    top: tuple[str, ...]


class TaskCheck(_Part):
    """Whether the network does the task at all (``pahq.tasks.ability``): on a share ``done`` of ``items``.

    ``means`` says in which sense. ``among_top``: the share on which the answer is among the ten likeliest tokens, None
    where no single token answers.
    """

    items: PositiveInt
    done: Share
    means: str
    among_top: Share | None
    examples: tuple[Example, ...]
    warning: str | None


class Versions(_Part):
    """Of what the cell was computed with."""

    pahq: str
    torch: str
    python: str


class Result(_Part):
    """A finished cell: what was searched, what came of it, and what it took.

    Of a method that scores edges ``tests`` are the edges scored, ``seconds`` those of the scoring (which cells of other
    sizes share), and ``search`` and ``certainty`` are None; ``rescored`` is an audit's.
    ``model_digest``: sha256 of the weights. ``edges_*``: of the graph, and ``kept*`` of the circuit (Addition edges;
    ``kept_cleaned``: without edges that change no output under the cell's ablation). ``seconds``: of all tests.
    ``set_up_seconds``: of the last process, for model, prompts and rounding. ``peak_bytes``: of the last process too.
    ``levels``: sha256 of what calibrated rounding chose, None without it. ``store``: how the weights under test were
    held. ``resumed``: whether a journal was gone on with. ``files``: sha256 of the cell's other files, by name.
    """

    id: str = Field(min_length=1)
    config: CellConfig
    model_digest: Hex
    edges_addition: NonNegativeInt
    edges_direct: NonNegativeInt
    tests: NonNegativeInt
    kept: NonNegativeInt
    kept_addition: NonNegativeInt
    kept_cleaned: NonNegativeInt
    search: Search | None
    certainty: Certainty | None
    rescored: Rescored | None = None
    fresh: Fresh
    task_check: TaskCheck | None
    seconds: float
    set_up_seconds: float
    peak_bytes: NonNegativeInt
    levels: Hex | None
    store: Literal["packed", "plain"]
    resumed: bool
    versions: Versions
    device: str
    threads: PositiveInt
    files: dict[str, Hex] = Field(default_factory=dict)

    @property
    def edges(self) -> int:
        """How many edges the graph has."""
        return self.edges_addition + self.edges_direct

    @property
    def band(self) -> BandAudit | None:
        """What ``audit=band`` found; None for another audit or none."""
        audit = None if self.certainty is None else self.certainty.audit
        return audit if isinstance(audit, BandAudit) else None

    def to_json(self) -> dict[str, Any]:
        """The contents of result.json, without the seal."""
        return {"schema": SCHEMA} | self.model_dump(mode="json")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], path: Path) -> Result:
        """What ``to_json`` gave, read from ``path``; PahqError naming the file and the field that is not as it was."""
        try:
            return cls.model_validate_json(json.dumps({key: values[key] for key in values if key != "schema"}))
        except ValidationError as error:
            raise PahqError(f"{path} is not a whole result: {one_sentence(error)}; {REPAIR}") from None

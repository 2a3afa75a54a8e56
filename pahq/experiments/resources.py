"""What a cell is likely to take of a machine, for those who hand out jobs: memory and time. No torch.

Both are estimates before the fact: how many edges a search tests depends on the circuit, which nobody knows yet. The
constants below are fitted to recorded runs of nano, SmolLM2 and two compiled programs, on one core of a machine that
others used too; tests/experiments/test_resources.py says how far off they are. What a job asks for has a margin on
top, and more at each further attempt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pahq.config.cell import CellConfig
from pahq.config.promptfile import read_pairs

MIB = 1 << 20
# Tokens of a prompt by the task's kind, as English tokenizers cut it; `induction` on a model with words has 24.
LENGTHS = {"ioi": 16, "greaterthan": 11, "greaterthan-digits": 18, "docstring": 40, "induction": 24}
LENGTHS |= {"tracr-reverse": 4, "tracr-proportion": 4}
LETTERS_A_TOKEN = 3  # of a prompt file: few, so that the estimate errs on the long side
LEAST_THRESHOLD = 1e-6  # below, a search tests no more
INTERPRETER = 1200 * MIB  # Python with torch and what else is imported, and Snakemake beside it
START, PER_CELL = 540.0, 3.0  # seconds: of a job (imports from a slow disk), of a cell (prompts, judging its circuit)
MEMORY_MARGIN, TIME_MARGIN = 1.5, 3.0  # what is asked for over what is estimated, at the first attempt
# Fitted: a search's seconds are SEARCH edges^EDGES threshold^-THRESHOLD (1 + work / WORK)^POWER, where work is prompts'
# tokens times weights of matrices, then times a factor; MANY where metrics read many positions of a prompt.
SEARCH, EDGES, THRESHOLD, WORK, POWER, MANY = 2.84e-4, 0.605, 0.322, 3.31e7, 0.906, 1.52
FACTORS, BANDED = {"acdc": 0.66, "pahq": 1.11, "rtn-q": 0.7}, {"network": 1.07, "changes": 1.18}
REFERENCE = 100.0  # of engine=reference, which takes 15 to 500 times as long (benchmarks/results/engine-*.json)
READ_MANY = ("induction", "tracr-reverse", "tracr-proportion")
MACHINE = "one core of a 2-core Xeon with AVX2"  # on which most of what the constants were fitted to was recorded
PROMPTS, THRESHOLD_ASKED = 10, 0.01  # of the search that `usual_search` is
# Fitted: a search's bytes, over those of its weights and of the caches that it may take.
BASE, WEIGHTS, CACHES, AUDIT, LOW = 25 * MIB, 1.8, 0.5, 1.47, 0.85
# Fitted: seconds of a run with its gradient, and for each unit of work; of an edge that is tested on its own.
PASS, PASS_WORK, TEST = 0.01, 2.0e-10, 3e-4


@dataclass(frozen=True)
class Shape:
    """Of a model's configuration what decides how much there is to compute."""

    layers: int
    heads: int
    kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    d_vocab_out: int
    context: int
    gated: bool = False
    tied_embedding: bool = False
    positions: str = "learned"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From the configuration in a model's file (`pahq models NAME --out FILE`)."""
        return cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})

    @classmethod
    def read(cls, path: str) -> Shape:
        """From the file itself."""
        with open(path) as file:  # a text, not a Path: Snakemake compares what an error says is absent with its inputs
            return cls.of(json.load(file)["config"])

    @property
    def matrices(self) -> int:
        """Weights of all attention and MLP matrices."""
        attention = self.d_model * self.d_head * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + self.d_model * self.d_mlp * (3 if self.gated else 2))

    @property
    def parameters(self) -> int:
        ends = self.d_vocab * self.d_model + (0 if self.tied_embedding else self.d_model * self.d_vocab_out)
        return self.matrices + ends + (self.context * self.d_model if self.positions == "learned" else 0)

    @property
    def senders(self) -> int:
        return 1 + self.layers * (self.heads + (self.d_mlp > 0))

    @property
    def edges(self) -> int:
        """Between all pairs of a sender and a later receiver (Direct edges are few)."""
        inputs, step = self.heads + 2 * self.kv_heads, self.heads + (self.d_mlp > 0)
        into = sum((1 + layer * step) * inputs for layer in range(self.layers))
        if self.d_mlp:
            into += sum(1 + layer * step + self.heads for layer in range(self.layers))
        return into + self.senders


@dataclass(frozen=True)
class Estimate:
    """Of one cell: seconds of its search or scores on one core; bytes of them with the weights."""

    seconds: float
    bytes: float


@dataclass(frozen=True)
class Needs:
    """What a job asks for."""

    memory_mb: int
    minutes: int


def prompt_length(cell: CellConfig) -> int:
    """Tokens of the longest prompt, about."""
    task = cell.task
    if task.kind == "own" and task.prompts is not None:
        longest = max(len(text) for pair in read_pairs(Path(task.prompts)) for text in (pair.clean, pair.corrupted))
        return longest // LETTERS_A_TOKEN + 2
    return task.positions or LENGTHS.get(task.kind, LENGTHS["induction"])


def estimate(cell: CellConfig, shape: Shape) -> Estimate:
    """What a cell takes on one core, all of it computed anew."""
    rows = cell.task.examples * prompt_length(cell)
    return Estimate(_seconds(cell, shape, rows * shape.matrices), _bytes(cell, shape, rows))


@dataclass(frozen=True)
class Usual:
    """What an ACDC search in float32 is likely to take, and what it is taken to be: KL, 10 prompts as long as ioi's."""

    seconds: float
    bytes: float
    method: str
    precision: str
    threshold: float
    prompts: int
    tokens: int
    machine: str

    def __str__(self) -> str:
        return (
            f"about {_duration(self.seconds)} and {_size(self.bytes)} beside Python's own {_size(INTERPRETER)}: "
            f"{self.method} in {self.precision}, threshold {self.threshold:g}, {self.prompts} prompts of {self.tokens} "
            f"tokens, on {self.machine}"
        )


def usual_search(shape: Shape, reach: int) -> Usual:
    """The estimate for a model of that shape whose prompts have ``reach`` tokens at most, before anything else is
    known of a search."""
    tokens = min(LENGTHS["ioi"], reach)
    task = {"name": "usual", "kind": "ioi", "examples": PROMPTS, "metric": "kl", "positions": tokens}
    cell = CellConfig(
        task=task,
        model={"name": "usual", "source": "usual"},
        method={"name": "acdc"},
        precision="float32",
        threshold=THRESHOLD_ASKED,
    )
    found = estimate(cell, shape)
    return Usual(found.seconds, found.bytes, "ACDC", "float32", THRESHOLD_ASKED, PROMPTS, tokens, MACHINE)


def _duration(seconds: float) -> str:
    """Two digits at most, in the unit that suits."""
    for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return f"{float(f'{seconds / unit:.2g}'):,.0f} {name}"
    return f"{float(f'{seconds:.1g}'):g} s" if seconds < 10 else f"{seconds:.0f} s"


def _size(number: float) -> str:
    return f"{float(f'{number / 1e9:.2g}'):,g} GB" if number >= 1e9 else f"{math.ceil(number / 1e6)} MB"


def _seconds(cell: CellConfig, shape: Shape, work: int) -> float:
    many = MANY if cell.task.kind in READ_MANY else 1.0
    if cell.method.name == "exact":
        return float(shape.edges * TEST * (1 + work / WORK) ** POWER * many)
    if cell.method.scores:
        return passes(cell, shape) * (PASS + work * PASS_WORK)
    threshold = max(cell.search_threshold, LEAST_THRESHOLD)
    factor = FACTORS[cell.method.name] * (BANDED[cell.method.arithmetic] if cell.audit == "band" else 1.0)
    if cell.engine.name == "reference":
        factor *= REFERENCE
    taken = SEARCH * shape.edges**EDGES * threshold**-THRESHOLD
    return float(taken * (1 + work / WORK) ** POWER * many * factor)


def _bytes(cell: CellConfig, shape: Shape, rows: int) -> float:
    weights = 4 * shape.parameters
    if cell.method.scores:
        return BASE + weights + result_caches(shape, rows)
    held = BASE + WEIGHTS * weights + CACHES * result_caches(shape, rows)
    if cell.audit == "band":
        held += AUDIT * weights
    low = not cell.precision.is_full and cell.method.arithmetic == "network"
    return held - LOW * weights if low else held


def passes(cell: CellConfig, shape: Shape) -> int:
    """Runs with their gradients that scores take."""
    method = cell.method
    if method.training is not None:
        return method.training.steps
    known = {"random": 0, "clean-corrupted": 2, "eap-ig": method.steps}
    return known.get(method.name, method.steps * shape.layers if method.name == "eap-ig-activations" else 1)


def result_caches(shape: Shape, rows: int) -> int:
    """Bytes of two result-caches, projections and a layer's inputs: what a search on so many rows may take."""
    stream = 4 * rows * shape.d_model
    narrow = stream * shape.d_head // shape.d_model
    streams = 2 * shape.senders + 2 * shape.layers + 1 + 3 * shape.heads
    return streams * stream + shape.layers * (shape.heads + 2 * shape.kv_heads) * narrow


def needs(cells: Iterable[tuple[CellConfig, Shape]], attempt: int = 1, searches: int = 1) -> Needs:
    """What a job asks for that computes these cells one after another, each so many times.

    With margins, and for so many times as much as at the first ``attempt`` (counted from 1).
    """
    found = [estimate(cell, shape) for cell, shape in cells]
    seconds = START + sum(PER_CELL + TIME_MARGIN * searches * one.seconds for one in found)
    memory = INTERPRETER + MEMORY_MARGIN * max((one.bytes for one in found), default=0)
    return Needs(math.ceil(attempt * memory / MIB), math.ceil(attempt * seconds / 60) + 1)

"""``pahq.diff``: what two circuits have in common, and where the searches that found them part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pahq.cell.files import read_result
from pahq.cell.journal import read_journal
from pahq.cell.story import check_cell
from pahq.circuits.agreement import Agreement
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph
from pahq.errors import PahqError
from pahq.report.cells import finished
from pahq.report.library import Drawable

FEW = 10  # edges of a list in words; all of them are in the value, and in JSON


@dataclass(frozen=True)
class Tested:
    """One search's test: the edge, its effect (rise in loss), and whether it was kept."""

    edge: str
    effect: float
    kept: bool

    def __str__(self) -> str:
        return f"{'kept' if self.kept else 'removed'} {self.edge} (effect {self.effect:.4g})"


@dataclass(frozen=True)
class Parting:
    """The first test, counted from 1, in which two searches differ; None for a search that was over."""

    number: int
    a: Tested | None
    b: Tested | None

    def __str__(self) -> str:
        a, b = (str(test) if test else "was over" for test in (self.a, self.b))
        return f"test {self.number}: A {a}, B {b}"


@dataclass(frozen=True)
class Swap:
    """The second circuit on the first cell's task: fresh prompts, the full-precision network.

    ``own_*``: of the first cell's own circuit.
    """

    kl: float
    own_kl: float
    metric: str
    value: float
    own_value: float
    faithfulness: float | None
    own_faithfulness: float | None

    def __str__(self) -> str:
        own, swapped = (
            ("" if self.metric == "mse" else f"KL {kl:.4g}, ")
            + f"{self.metric} {value:.4g}"
            + ("" if faith is None else f", faithfulness {faith:.3f}")
            for kl, value, faith in (
                (self.own_kl, self.own_value, self.own_faithfulness),
                (self.kl, self.value, self.faithfulness),
            )
        )
        return f"on A's task (fresh prompts): A {own}; B {swapped}"


@dataclass(frozen=True, repr=False)
class Difference:
    """Two circuits, edge by edge. ``left``: names of edges that A has alone; ``came``: that B has alone.

    ``first``: None where a circuit comes from no search, or no decision differs. ``swap``: None without two cells.
    ``note``: a sentence on what could not be compared.
    """

    a: str
    b: str
    agreement: Agreement
    left: tuple[str, ...]
    came: tuple[str, ...]
    searches: bool
    first: Parting | None = None
    swap: Swap | None = None
    note: str = ""

    @property
    def jaccard(self) -> float:
        return self.agreement.jaccard

    def to_json(self) -> dict[str, Any]:
        """What ``pahq diff --json`` prints."""
        by_chance = self.agreement.jaccard_by_chance
        counts = {"shared": self.agreement.shared, "jaccard": self.jaccard, "jaccard_by_chance": by_chance}
        values = asdict(self)
        del values["agreement"], values["searches"]
        return {"a": self.a, "b": self.b} | counts | values

    def __repr__(self) -> str:
        return "\n".join(self.sentences())

    def sentences(self, *, names: bool = True) -> list[str]:
        """The comparison line by line; ``names``: of edges that left and came, too."""
        both = self.agreement
        lines = [f"A  {self.a}", f"B  {self.b}"]
        share = f"Jaccard index {both.jaccard:.3f} (by chance {both.jaccard_by_chance:.3f})"
        lines.append(f"{both.shared:,} edges in both, {len(self.left):,} left, {len(self.came):,} came: {share}")
        if names:
            lines += _listed("left", self.left) + _listed("came", self.came)
        if self.first is not None:
            lines.append(f"the searches part at {self.first}")
        elif self.searches:
            lines.append("the searches take the same decisions")
        if self.swap is not None:
            lines.append(str(self.swap))
        return lines + ([self.note] if self.note else [])


def _listed(word: str, names: Sequence[str]) -> list[str]:
    more = f", and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return [f"{word}: {', '.join(names[:FEW])}{more}"] if names else []


def diff(a: Drawable, b: Drawable, *, swap: bool = True) -> Difference:
    """What changed from circuit ``a`` to circuit ``b``: results of searches, circuits, or folders of finished cells.

    All edges that each kept are compared. Where one graph has no Direct edges, Addition edges alone are. Of two cells
    ``swap`` judges B's circuit on A's task, for which the model is loaded. Raises PahqError for circuits of models of
    different shapes and for what has no circuit.
    """
    first, second = _circuit(a), _circuit(b)
    if first.graph.shape != second.graph.shape:
        raise PahqError(
            f"diff: the circuits are of models of different shapes: {first.graph.shape} and {second.graph.shape}"
        )
    both = first.graph == second.graph
    smaller = min((first.graph, second.graph), key=lambda graph: len(graph.edges))
    here, there = ([edge for edge in circuit.edges if edge in smaller.edge_index] for circuit in (first, second))
    tests = [_tests(one, circuit.graph) for one, circuit in ((a, first), (b, second))]
    known = [found for found in tests if found is not None]
    cells = isinstance(a, str | Path) and isinstance(b, str | Path)
    return Difference(
        a=_name(a),
        b=_name(b),
        agreement=Agreement.of(set(here), set(there), len(smaller.edges)),
        left=tuple(edge for edge in here if edge not in set(there)),
        came=tuple(edge for edge in there if edge not in set(here)),
        searches=len(known) == 2,
        first=_parting(*known) if len(known) == 2 else None,
        swap=_swap(Path(str(a)), Path(str(b)), second) if swap and cells else None,
        note="" if both else "One of them has no Direct edges, so only edges between two nodes are compared.",
    )


def _circuit(what: Drawable) -> Circuit:
    """All edges that were kept, those that change no output too."""
    if isinstance(what, str | Path):
        check_cell(finished(Path(what)))
        return Circuit.read(Path(what) / "circuit.json")
    found = what if isinstance(what, Circuit) else getattr(what, "circuit", None)
    if not isinstance(found, Circuit):
        raise PahqError(
            f"diff: a search's result, a circuit or a cell's folder was expected, not {type(what).__name__}"
        )
    return found


def _name(what: Drawable) -> str:
    if isinstance(what, str | Path):
        return read_result(what).id
    circuit = _circuit(what)
    return f"{len(circuit):,} of {len(circuit.graph.edges):,} edges"


def _tests(what: Drawable, graph: Graph) -> list[Tested] | None:
    """A search's tests in order; None for what no search found."""
    if isinstance(what, str | Path):
        if read_result(what).config.method.scores:
            return None
        lines = read_journal(Path(what) / "decisions.jsonl")
        return [Tested(line.edge, line.after - line.before, not line.removed) for line in lines]
    if isinstance(what, Circuit):
        return None
    return [Tested(str(graph.edges[one.edge]), one.effect, not one.removed) for one in what.decisions]


def _parting(a: Sequence[Tested], b: Sequence[Tested]) -> Parting | None:
    for number, (one, other) in enumerate(zip(a, b, strict=False), 1):
        if (one.edge, one.kept) != (other.edge, other.kept):
            return Parting(number, one, other)
    if len(a) == len(b):
        return None
    shorter = min(len(a), len(b))
    one_more = [tests[shorter] if len(tests) > shorter else None for tests in (a, b)]
    return Parting(shorter + 1, *one_more)


def _swap(a: Path, b: Path, circuit: Circuit) -> Swap:
    """B's circuit judged as A's was, on a graph with the edges that B's has."""
    from pahq.cell.outcome import judge
    from pahq.cell.provenance import check_weights
    from pahq.cell.run import load

    result, other = read_result(a), read_result(b).config
    check_weights(a, result.config, result)
    method = result.config.method.model_copy(update={"direct_edges": other.method.direct_edges})
    model, task = load(result.config, "cpu")
    fresh, own = judge(model, task, circuit, result.config.model_copy(update={"method": method})), result.fresh
    return Swap(fresh.kl, own.kl, own.metric, fresh.value, own.value, fresh.faithfulness, own.faithfulness)

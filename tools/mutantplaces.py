"""Where code can be changed, and how: cosmic-ray's operators, drawn evenly over rooms by a seed.

A place is a position in a file at which cosmic-ray knows at least one change (``<`` into ``<=``, ``1`` into ``2``,
``and`` into ``or``, a loop that never runs, a decorator that is gone). A mutant is one change at one place.
"""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

LOOKS_AT = {"ReplaceBinaryOperator": "operator", "ReplaceComparisonOperator": "comparison"}  # the many: kinds of nodes


@dataclass(frozen=True)
class Place:
    """A position in a file (by its path below the repository), and the changes there: an operator's name, its turn."""

    file: str
    line: int
    column: int
    changes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Mutant:
    """A changed file: ``before`` and ``after`` are the lines that differ, ``text`` is the whole changed file."""

    room: str
    file: str
    line: int
    operator: str
    before: str
    after: str
    text: str


@cache
def _operators() -> dict[str, Any]:
    """cosmic-ray's operators that need no arguments, by their names."""
    from cosmic_ray.plugins import get_operator, operator_names

    known = {name: get_operator(name) for name in operator_names()}
    return {name: operator() for name, operator in sorted(known.items()) if not operator.arguments()}


def places(file: str, source: str) -> list[Place]:
    """All places of a file, from its beginning, but for what does not run: annotations, what type checkers see."""
    from cosmic_ray.ast import ast_nodes, get_ast

    unseen = [span for node in ast.walk(ast.parse(source)) for span in _unseen(node)]
    nodes = list(ast_nodes(get_ast(source)))
    kinds = {kind: [node for node in nodes if node.type == kind] for kind in LOOKS_AT.values()}
    changes: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
    for name, operator in _operators().items():
        family = name.removeprefix("core/").split("_")[0]
        seen = kinds[LOOKS_AT[family]] if family in LOOKS_AT else nodes
        positions = (start for node in seen for start, _ in operator.mutation_positions(node))
        for turn, start in enumerate(positions):
            if not any(first <= tuple(start) < last for first, last in unseen):
                changes[start[0], start[1]].append((name, turn))
    return [Place(file, line, column, tuple(found)) for (line, column), found in sorted(changes.items())]


def draw(rooms: Mapping[str, Sequence[Place]], seed: int) -> Iterator[tuple[str, Place, tuple[str, int]]]:
    """One room after another gives a place, each place once with one of its changes, until all rooms are empty."""
    order = {}
    for room, found in rooms.items():
        chance = random.Random(f"{seed} {room}")
        order[room] = [(place, chance.choice(place.changes)) for place in chance.sample(found, len(found))]
    for turn in range(max(map(len, order.values()), default=0)):
        for room, drawn in order.items():
            if turn < len(drawn):
                yield room, *drawn[turn]


def mutants(root: Path, rooms: Mapping[str, Sequence[Place]], seed: int) -> Iterator[Mutant]:
    """What ``draw`` draws, made. A change that Python cannot compile, or that changes nothing, is no mutant."""
    for room, place, (name, turn) in draw(rooms, seed):
        source = (root / place.file).read_text()
        text = mutated(source, name, turn)
        if text is not None:
            line, before, after = difference(source, text)
            yield Mutant(room, place.file, line, name.removeprefix("core/"), before, after, text)


def mutated(source: str, name: str, turn: int) -> str | None:
    """A file's text with one change, or None where that is no other program."""
    from cosmic_ray.mutating import mutate_code

    text: str | None = mutate_code(source, _operators()[name], turn)
    try:
        return text if text and ast.dump(ast.parse(text)) != ast.dump(ast.parse(source)) and _compiles(text) else None
    except SyntaxError:
        return None


def difference(source: str, text: str) -> tuple[int, str, str]:
    """The first line that differs, counted from 1, and the lines that differ, before and after."""
    old, new = source.splitlines(), text.splitlines()
    shortest = min(len(old), len(new))
    head = next((n for n in range(shortest) if old[n] != new[n]), shortest)
    tail = next((n for n in range(shortest - head) if old[-1 - n] != new[-1 - n]), shortest - head)
    before, after = ("\n".join(line.strip() for line in lines[head : len(lines) - tail]) for lines in (old, new))
    return head + 1, before, after


def function_at(source: str, line: int) -> int:
    """The first line of the innermost function or class around a line, as Python's code objects count it; 0: none."""
    spans = _spans(compile(source, "", "exec", dont_inherit=True))
    return max((first for first, last in spans if first <= line <= last), default=0)


def _spans(code: CodeType) -> Iterator[tuple[int, int]]:
    """First and last lines of all functions and classes in a code object; of lambdas and comprehensions, none."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if not inner.co_name.startswith("<"):
                yield inner.co_firstlineno, _last(inner)
            yield from _spans(inner)


def _last(code: CodeType) -> int:
    """The last line that a code object or one within it has."""
    own = max((number for _, _, number in code.co_lines() if number), default=0)
    return max([own, *(_last(inner) for inner in code.co_consts if isinstance(inner, CodeType))])


def _compiles(text: str) -> bool:
    return compile(text, "mutant", "exec", dont_inherit=True) is not None


def _unseen(node: ast.AST) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where a node holds what never runs or decides no value, as (line, column) pairs."""
    found: list[ast.AST | None] = []
    if isinstance(node, ast.AnnAssign | ast.arg):
        found = [node.annotation]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        found = [node.returns]
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        found = [node]
    elif isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
        for decorator in (one for member in node.body for one in getattr(member, "decorator_list", ())):
            yield (decorator.lineno, 0), (decorator.end_lineno or 0, decorator.end_col_offset or 0)
    elif isinstance(node, ast.keyword) and node.arg in ("slots", "strict"):
        found = [node.value]  # of a dataclass: memory; of zip: an assertion; neither decides a value
    for part in found:
        if isinstance(part, ast.expr | ast.stmt):
            yield (part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)

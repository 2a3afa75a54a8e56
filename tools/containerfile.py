"""The Dockerfile as data: its stages, and what one variant does step by step. Nothing here runs anything.

It knows the instructions that our recipe is made of, and refuses any other by its line, so that a recipe that is read
can be followed. ``tools/containersteps.py`` follows one.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

KNOWN = ("ARG", "CMD", "COPY", "ENV", "FROM", "RUN", "USER", "WORKDIR")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Docker's, where an image says nothing
REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its line in the file (from 1), its name in capitals, and what stands behind it."""

    line: int
    name: str
    value: str


@dataclass(frozen=True)
class Stage:
    """What one FROM begins: the image or stage below it, its own name (empty without AS), its instructions."""

    base: str
    name: str
    body: tuple[Instruction, ...]


@dataclass(frozen=True)
class Step:
    """One step on files: ``RUN`` (a command for a shell), ``COPY`` (sources and a target) or ``WORKDIR`` (a folder).

    ``user`` and ``folder`` are those in force, ``environment`` what ENV and ARG said until here.
    """

    line: int
    name: str
    words: tuple[str, ...]
    user: str
    folder: str
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plan:
    """One variant: the image at the bottom, the steps upon it, and how a container is started: command and user."""

    image: str
    steps: tuple[Step, ...]
    command: tuple[str, ...]
    user: str
    environment: tuple[tuple[str, str], ...]


def read(text: str) -> tuple[dict[str, str], tuple[Stage, ...]]:
    """The arguments above the first FROM with their defaults, and the stages; ValueError names a faulty line."""
    outer: dict[str, str] = {}
    stages: list[Stage] = []
    for found in _instructions(text):
        if found.name == "FROM":
            base, *rest = found.value.split()
            if rest and not (len(rest) == 2 and rest[0].upper() == "AS"):
                raise ValueError(f"line {found.line}: FROM IMAGE [AS NAME] was expected, got {found.value!r}")
            stages.append(Stage(base, rest[1] if rest else "", ()))
        elif stages:
            last = stages[-1]
            stages[-1] = Stage(last.base, last.name, (*last.body, found))
        elif found.name == "ARG":
            outer.update([_argument(found)])
        else:
            raise ValueError(f"line {found.line}: {found.name} stands above the first FROM")
    if not stages:
        raise ValueError("there is no FROM")
    return outer, tuple(stages)


def plan(text: str, arguments: Mapping[str, str]) -> Plan:
    """What ``docker build`` with these ``--build-arg`` would do for the last stage, stages below it included."""
    outer, stages = read(text)
    outer = {name: arguments.get(name, default) for name, default in outer.items()}
    by_name = {stage.name: stage for stage in stages if stage.name}
    chain = [stages[-1]]
    while (below := _expanded(chain[0].base, outer)) in by_name:
        chain.insert(0, by_name[below])
    asked = {name for stage in stages for one in stage.body if one.name == "ARG" for name in [_argument(one)[0]]}
    if absent := sorted(set(arguments) - asked - set(outer)):
        raise ValueError(
            f"no ARG of the Dockerfile is called {absent[0]!r}; there are {', '.join(sorted(asked | set(outer)))}"
        )
    return _followed(below, chain, arguments)


def left_out(lines: Iterable[str], path: str) -> bool:
    """Whether a ``.dockerignore`` of these lines keeps ``path`` (below its folder, with /) out of the image."""
    out = False
    for line in map(str.strip, lines):
        if line and not line.startswith("#") and _covers(line.removeprefix("!"), path):
            out = not line.startswith("!")
    return out


def _covers(pattern: str, path: str) -> bool:
    """Docker's rule: a pattern begins at the root and also covers what lies below a folder that it names."""
    parts = []
    for piece in re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/")):
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        parts.append(known.get(piece, re.escape(piece)))
    return re.fullmatch(f"{''.join(parts)}(?:/.*)?", path) is not None


def _instructions(text: str) -> Iterator[Instruction]:
    held, begun = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        begun = begun or number
        held += line.strip().removesuffix("\\")
        if line.rstrip().endswith("\\"):
            continue
        name, _, value = held.partition(" ")
        if name.upper() not in KNOWN:
            raise ValueError(f"line {begun}: {name} is none of {', '.join(KNOWN)}")
        yield Instruction(begun, name.upper(), value.strip())
        held, begun = "", 0
    if held:
        raise ValueError(f"line {begun}: the file ends in the middle of an instruction")


def _argument(found: Instruction) -> tuple[str, str]:
    name, _, default = found.value.partition("=")
    return name, default


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """With ``$NAME`` and ``${NAME}`` in place; what nobody set is empty, as in Docker."""
    return REFERENCE.sub(lambda match: known.get(match[1] or match[2], ""), text)


def _followed(image: str, chain: Sequence[Stage], arguments: Mapping[str, str]) -> Plan:
    environment = {"PATH": PATH}
    user, folder, steps, command = "0:0", "/", [], ()
    for stage in chain:
        local: dict[str, str] = {}  # an ARG ends with its stage
        for found in stage.body:
            known = {**local, **environment}
            if found.name == "ARG":
                name, default = _argument(found)
                local[name] = arguments.get(name, default)
            elif found.name == "ENV":
                pairs = [word.partition("=") for word in shlex.split(found.value)]
                environment.update({name: _expanded(value, known) for name, _, value in pairs})
            elif found.name == "USER":
                user = _expanded(found.value, known)
            elif found.name == "CMD":
                command = tuple(json.loads(found.value))
            else:
                words = (found.value,) if found.name == "RUN" else tuple(_expanded(found.value, known).split())
                if found.name == "WORKDIR":
                    folder = words[0]
                steps.append(Step(found.line, found.name, words, user, folder, tuple(known.items())))
    return Plan(image, tuple(steps), command, user, tuple(environment.items()))

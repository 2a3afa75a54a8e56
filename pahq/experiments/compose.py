"""Hydra's YAML files as cells: overrides -> configurations, an experiment's name -> its cells. No torch.

Command line, sweeps and Snakemake all come through here, so one cell has one address however it was typed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pahq.config import presets
from pahq.config.cell import SIZE, THRESHOLD, CellConfig, ModelChoice, RunConfig, parse_config
from pahq.config.method import SCORING
from pahq.config.precision import PrecisionConfig
from pahq.config.presets import GROUPS as GROUPS
from pahq.config.presets import configuration_folder as configuration_folder
from pahq.errors import PahqError, nearest, unknown
from pahq.experiments.composer import Composer
from pahq.experiments.grids import expand
from pahq.experiments.jobs import MOST, RESAMPLES, SEARCHES, Asked, Cell, Group, check_depends_on_prompts, joined
from pahq.experiments.typed import as_typed, read_word
from pahq.sentences import no_mapping

SWEPT = ("threshold", "size")  # keys of which all of a row's values share one process
EXTRAS = ("stability", "together")  # keys of a row that ask for more than its cells: see Asked
_WHERE = ("run", "wandb", "hydra")  # keys that say where and how loudly: no business of an experiment's

# The defaults of a precision for Hydra, which refuses keys that no file of its own names: conf/precision has the rest.
ConfigStore.instance().store(
    group="precision",
    name="defaults",
    node={name: field.default for name, field in PrecisionConfig.model_fields.items() if not field.is_required()},
)


def options(group: str) -> tuple[str, ...]:
    """Names of the files of a configuration group, ``task`` say, or of all experiments (``experiment``)."""
    return presets.options(group, configuration_folder())


def compose_runs(overrides: Iterable[str], *, sweep: bool = False) -> list[tuple[CellConfig, RunConfig]]:
    """Every cell that a command line means, composed and validated before any of them runs; duplicates once.

    ``sweep`` splits lists of values as Hydra's basic sweeper does. Raises PahqError in one sentence.
    """
    parsed = parse_overrides(overrides, sweep=sweep)
    if sweep:
        try:
            lines = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
        except HydraException as error:
            raise PahqError(_first_line(error)) from None
    else:
        for override in parsed:
            if override.is_sweep_override():
                raise PahqError(f"several values in {override.input_line!r} are a sweep; put -m in front")
        lines = [[str(override.input_line) for override in parsed]]
    composer = Composer(_compose, configuration_folder())
    with _hydra():
        runs = [parse_config(composer.composed(line), _keys(parsed)) for line in lines]
    return list({cell.id: (cell, run) for cell, run in runs}.values())


def parse_overrides(overrides: Iterable[str], *, sweep: bool = False) -> list[Override]:
    """Hydra's reading of ``key=value``, texts as typed; PahqError for what it cannot read and for unknown names."""
    parsed: list[Override] = []
    for text in overrides:
        override = read_word(as_typed(text, sweep=sweep))
        if override is None or not override.key_or_group:
            raise PahqError(f"cannot read the override {text!r}; write key=value, say threshold=0.01")
        parsed.append(override)
    keys = {override.key_or_group for override in parsed}
    if {"focus", "method.focus"} <= keys:
        raise PahqError("focus is short for method.focus; give one of them")
    for override in parsed:
        group = override.key_or_group
        if group not in GROUPS or override.is_delete():
            continue
        several = override.is_sweep_override()
        for value in override.sweep_string_iterator() if several else [override.value()]:
            if value not in options(group):
                raise unknown(group, value, options(group))
    return parsed


def _keys(parsed: Iterable[Override]) -> frozenset[str]:
    return frozenset(override.key_or_group for override in parsed)


def cells(name: str) -> dict[str, Cell]:
    """All cells of ``conf/experiment/<name>.yaml`` by id, in the file's order; PahqError if it is faulty."""
    found: dict[str, Cell] = {}
    for group in groups(name):
        found.update(group.cells)
    return found


def groups(name: str) -> list[Group]:
    """An experiment's cells in bundles that differ in threshold or size alone, or in precision too (``together``)."""
    if name not in options("experiment"):
        raise unknown("experiment", name, options("experiment"))
    swept: dict[tuple[str, ...], dict[tuple[str, ...], Asked]] = {}
    for row in _rows(name):
        asked = _asked(name, row)
        for base, at in _products(name, {key: row[key] for key in row if key not in EXTRAS}):
            known = swept.setdefault(base, {})
            known[at] = known.get(at, Asked()) | asked
    composer = Composer(_compose, configuration_folder())
    with _hydra():
        bundles = [_bundle(name, base, values, composer) for base, values in swept.items()]
    _check_models(name, bundles)
    return joined(_named(bundles))


def _check_models(name: str, bundles: Iterable[Mapping[str, Cell]]) -> None:
    """Raise PahqError where two models have one name, by which files and tables call them."""
    known: dict[str, ModelChoice] = {}
    for cell in itertools.chain.from_iterable(bundle.values() for bundle in bundles):
        model = cell.config.model
        other = known.setdefault(model.name, model)
        if other != model:
            both = f"{other.source!r} and {model.source!r}"
            raise PahqError(f"experiment {name!r} calls two models {model.name!r} ({both}); give one a model.name")


def _asked(name: str, row: Mapping[str, Any]) -> Asked:
    stability, together = row.get("stability", False), row.get("together", False)
    if not isinstance(together, bool):
        raise PahqError(f"experiment {name!r} gives 'together' the value {together!r}; true or false was expected")
    if not isinstance(stability, bool) and not (isinstance(stability, int) and 2 <= stability <= SEARCHES):
        wanted = f"true, false or a number of resamples from 2 to {SEARCHES} was expected"
        raise PahqError(f"experiment {name!r} gives 'stability' the value {stability!r}; {wanted}")
    return Asked(together, RESAMPLES if stability is True else int(stability))


def _rows(name: str) -> list[Mapping[str, Any]]:
    path = configuration_folder() / "experiment" / f"{name}.yaml"
    try:
        rows = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise PahqError(f"experiment {name!r} is not readable YAML: {_first_line(error)}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row for row in rows):
        example = "{task: nano-ioi, threshold: [0.01, 0.1]}"
        raise PahqError(f"experiment {name!r} must be a list of rows such as {example}")
    return rows


def _products(name: str, row: Mapping[str, Any]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """A row's combinations: (overrides without threshold and size, these as typed)."""
    row = dict(row)
    try:
        if "threshold" in row:
            row["threshold"] = expand(row["threshold"])
    except PahqError as error:
        raise PahqError(f"experiment {name!r}: {error}") from None
    for key, value in row.items():
        if str(key).split(".")[0].split("/")[0].lstrip("+~") in _WHERE:
            raise PahqError(f"experiment {name!r} sets {key!r}; rows say what is computed, not where")
        if isinstance(value, dict) or value == []:
            raise PahqError(f"experiment {name!r} gives {key!r} neither a name, a number nor a list of these")
    values = [value if isinstance(value, list) else [value] for value in row.values()]
    combinations: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for choice in itertools.product(*values):
        typed = dict(zip(row, map(_typed, choice), strict=True))
        words = {key: as_typed(f"{key}={value}") for key, value in typed.items()}
        swept = tuple(words.pop(key) for key in SWEPT if key in words)
        if not swept:
            swept = (f"size={SIZE}",) if typed.get("method") in SCORING else (f"threshold={THRESHOLD}",)
        combinations.append((tuple(words.values()), swept))
    return combinations


def _typed(value: Any) -> str:
    """A YAML value as it is typed on a command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _bundle(
    name: str, base: tuple[str, ...], swept: Mapping[tuple[str, ...], Asked], composer: Composer
) -> dict[str, Cell]:
    try:
        typed = _keys(parse_overrides(base))
        bundle: dict[str, Cell] = {}
        for at, asked in swept.items():
            cell, _ = parse_config(composer.composed((*base, *at)), typed)
            if asked.resamples:
                check_depends_on_prompts(cell)
            known = bundle.get(cell.id)  # the same threshold typed in another way
            bundle[cell.id] = Cell((*base, *at), cell, asked | (known.asked if known else Asked()))
        return bundle
    except PahqError as error:
        raise PahqError(f"experiment {name!r}, row {' '.join(base)}: {error}") from None


def _named(bundles: list[dict[str, Cell]]) -> list[Group]:
    """Give every bundle a readable name of its own, in parts of up to ``MOST`` cells; a cell that two bundles share
    stays in the first.

    It keeps what both ask for.
    """
    asked: dict[str, Asked] = {}
    for cell_id, cell in itertools.chain.from_iterable(bundle.items() for bundle in bundles):
        asked[cell_id] = asked.get(cell_id, Asked()) | cell.asked
    seen: set[str] = set()
    used: dict[str, int] = {}
    named: list[Group] = []
    for bundle in bundles:
        own = {cell_id: replace(cell, asked=asked[cell_id]) for cell_id, cell in bundle.items() if cell_id not in seen}
        seen.update(own)
        if not own:
            continue
        config = next(iter(own.values())).config
        name = f"{config.task.name}-{config.method.label}-{config.precision.name}"
        ids = list(own)
        for part in (ids[first : first + MOST] for first in range(0, len(ids), MOST)):
            used[name] = used.get(name, 0) + 1
            whole = name if used[name] == 1 else f"{name}-{used[name]}"
            named.append(Group(whole, {cell_id: own[cell_id] for cell_id in part}))
    return named


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra on our folder, whatever the caller has it on: Hydra itself refuses to be initialised twice."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    """One configuration through Hydra, as plain values; PahqError in one sentence. Needs ``_hydra()``."""
    try:
        composed = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise PahqError(hydra_sentence(error)) from None
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items()}


def hydra_sentence(error: Exception) -> str:
    """Hydra's or OmegaConf's words in one sentence, with the known keys where a key is not known."""
    text = _first_line(error)
    merged = re.fullmatch(r"Error merging override \+*([\w.]+)=(.*)", text)
    if merged and isinstance(settings := _usual(merged.group(1)), dict):
        return no_mapping(merged.group(1), merged.group(2), map(str, settings))
    match = re.search(r"Could not override '([^']*)'", text)
    if not match:
        return text
    parents, _, key = match.group(1).rpartition(".")
    settings = _usual(parents)
    where = f" in {parents!r}" if parents else ""
    known = sorted(str(name) for name in settings) if isinstance(settings, dict) else []
    return f"unknown key {key!r}{where}; known: {', '.join(known) or 'none'}{nearest(key, known)}"


def _usual(place: str) -> Any:
    """What the configuration has at a key with dots where nothing is typed, all of it for no key; None for no such."""
    with _hydra():
        found: Any = _compose(())
    for part in filter(None, place.split(".")):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

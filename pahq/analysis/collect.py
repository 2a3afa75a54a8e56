"""An experiment's cells as one tidy table: one row a finished cell, and a list of the unfinished ones."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pahq.analysis.names import precision_columns
from pahq.analysis.rows import Rows
from pahq.cell.files import cell_folder
from pahq.cell.journal import read_journal
from pahq.cell.result import BandAudit, Rescored, Result
from pahq.cell.story import check_cell
from pahq.circuits.circuit import Circuit
from pahq.circuits.packed import PackedCircuits
from pahq.config.band import BANDS
from pahq.config.cell import CellConfig, EngineConfig
from pahq.config.precision import BITS, PrecisionConfig
from pahq.config.presets import preset
from pahq.errors import PahqError

_ORDER = ["task", "method", "precision", "variant", "threshold", "kept"]
_NUMBERS = ["faithfulness", "threshold", "size", "search_start", "search_final"]  # of which some, or all, may be None

# What may differ between a search and the ACDC search it is compared with. Engines are exact; audits have a table.
_FREE = (
    *(f"method.{name}" for name in ("name", "focus", "arithmetic", "round", "steps", "convention", "training")),
    *("select", "precision", "engine", "audit", "band"),
)
_WHERE = "task.prompts"  # where a file of prompts lies says nothing: its sha256 does
_SWEPT = ("threshold", "size")  # what the cells of a series differ in
_TOLD = {"precision.rounding": "nearest", "precision.compute": "float32", "audit": "none"}
_PLAIN = {"audit": "none"} | {f"engine.{name}": field.default for name, field in EngineConfig.model_fields.items()}


@dataclass(frozen=True)
class Collected:
    """``cells``: one row a finished cell; ``missing``: columns id, reason; ``circuits``: by cell id."""

    cells: pd.DataFrame
    missing: pd.DataFrame
    circuits: PackedCircuits


def collect(root: str | Path, ids: Sequence[str]) -> Collected:
    """Read the cells ``ids`` below ``root``.

    Columns that join cells: ``series`` is equal for cells that differ in threshold alone, ``pair`` for
    cells that differ in method, precision, engine, audit and threshold alone (so it finds a cell's ACDC),
    ``without_schedule`` is equal for cells that differ in nothing but the schedule,
    ``variant`` tells apart the series of one task, method and precision (empty where there is just one).

    Raises PahqError, naming the file, for a result that is not readable or contradicts its circuit or its
    journal.
    """
    rows: Rows | None = None
    missing, settings, circuits = [], _Settings(), PackedCircuits()
    for cell_id in dict.fromkeys(ids):
        folder = cell_folder(root, cell_id)
        if not (folder / "result.json").exists():
            missing.append({"id": cell_id, "reason": _why_missing(folder)})
            continue
        row, result, circuit = read_cell(folder, cell_id)
        rows = rows or Rows(row)
        rows.add(row)
        settings.add(result.config)
        circuits.add(cell_id, circuit)
    frame = pd.DataFrame() if rows is None else rows.frame().assign(variant=settings.variants())
    if len(frame):
        frame[_NUMBERS] = frame[_NUMBERS].astype(float)
        frame = frame.sort_values(_ORDER, kind="stable", ignore_index=True)
    return Collected(frame, pd.DataFrame(missing, columns=["id", "reason"]), circuits)


def read_cell(folder: Path, cell_id: str) -> tuple[dict[str, Any], Result, Circuit]:
    """A finished cell's row, its result and its circuit."""
    result = check_cell(folder)
    if result.id != cell_id:
        where = folder / "result.json"
        raise PahqError(f"{where} belongs to the cell {result.id!r}, not to its folder's {cell_id!r}")
    return cell_row(result), result, Circuit.read(folder / "circuit.json")


def cell_row(result: Result) -> dict[str, Any]:
    """What tables and figures use of a result, in the units that it has there."""
    config = result.config
    flat = flatten(config.model_dump(mode="json"))
    return {
        "id": result.id,
        "task": config.task.name,
        "kind": config.task.kind,
        "ablation": config.task.ablation,
        "search_metric": config.task.metric,
        "model": config.model.name,
        "method": config.method.label,
        "focus": config.method.focus,
        "absolute": config.method.absolute,
        **precision_columns(config.precision),
        "full_precision": config.precision.is_full,
        "bits": BITS[config.precision.format],
        "engine": config.engine.name,
        "dtype": config.engine.dtype,
        "schedule": config.engine.schedule,
        "doubts": config.engine.doubts,
        "round": config.method.round,
        "audit": config.audit,
        "usual_band": config.band == BANDS[config.method.arithmetic],
        "threshold": config.threshold,
        "size": config.size,
        "scores": config.method.scores,
        "series": _digest(flat, leave_out=_SWEPT),
        "pair": _digest(flat, leave_out=(*_SWEPT, *_FREE)),
        "without_schedule": _digest(flat, leave_out=("engine.schedule",)),
        "tests": result.tests,
        "edges": result.edges,
        "kept": result.kept,
        "kept_cleaned": result.kept_cleaned,
        "search_start": None if result.search is None else result.search.start,
        "search_final": None if result.search is None else result.search.final,
        **result.fresh.model_dump(),
        "seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
        "resumed": result.resumed,
        "device": result.device,
        "threads": result.threads,
        "pahq_version": result.versions.pahq,
        "torch_version": result.versions.torch,
        "python_version": result.versions.python,
        **_audit(result.band, result.rescored),
    }


def _audit(band: BandAudit | None, rescored: Rescored | None) -> dict[str, Any]:
    """What a cell's row holds of an audit; no numbers unless it is a band's.

    Of scores, ``overturned`` counts edges that came into the top.
    """
    if band is None:
        none = dict.fromkeys(("audited_share", "overturned", "could_differ", "bits_share"), math.nan)
        if rescored is not None:
            none |= {"audited_share": rescored.share, "overturned": float(rescored.changed)}
        return none | {"hopeless": False}
    return {
        "audited_share": band.share,
        "overturned": float(band.overturned),
        "could_differ": band.could_differ,
        "bits_share": band.bits_share,
        "hopeless": band.hopeless,
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _digest(flat: Mapping[str, Any], *, leave_out: Sequence[str]) -> str:
    dropped = {key for key in flat for name in (_WHERE, *leave_out) if key == name or key.startswith(name + ".")}
    kept = {key: value for key, value in flat.items() if key not in dropped}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def variants(configs: Iterable[CellConfig]) -> list[str]:
    """By cell: what tells its series from others of equal task, method and precision, such as ``seed=1``."""
    settings = _Settings()
    for config in configs:
        settings.add(config)
    return settings.variants()


class _Settings:
    """The settings of cells by which series are told apart. Cells of one series share what is kept of them."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._flats: list[dict[str, Any]] = []
        self._cells: list[int] = []  # by cell, which of these are its own

    def add(self, config: CellConfig) -> None:
        flat = flatten(config.model_dump(mode="json"))
        flat = {key: value for key, value in flat.items() if key not in (_WHERE, *_SWEPT)}
        number = self._known.setdefault(json.dumps(flat, sort_keys=True), len(self._flats))
        self._flats += [flat] if number == len(self._flats) else []
        self._cells.append(number)

    def variants(self) -> list[str]:
        """By cell, in the order in which they were added."""
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for flat in self._flats:
            groups.setdefault(_group(flat), []).append(flat)
        differing = {name: _differing(group) for name, group in groups.items()}
        told = [_told(flat, differing[_group(flat)]) for flat in self._flats]
        return [told[number] for number in self._cells]


def _differing(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which those of one group differ, where they have a say."""
    keys = sorted({key for flat in group for key in flat})
    return [key for key in keys if _differs(key, [flat for flat in group if _applies(key, flat)])]


def _told(flat: Mapping[str, Any], differing: Iterable[str]) -> str:
    """A setting that is as ever stays unsaid, so that the plain series keeps its plain name."""
    plain = _plain(flat["precision.name"], flat["method.arithmetic"])
    told = [key for key in differing if flat[key] != plain.get(key, ...) and _applies(key, flat)]
    # Calibrated rounding, low products and audits are no part of any name, so they are always told.
    told += [key for key, usual in _TOLD.items() if key not in told and flat[key] != plain.get(key, usual)]
    return " ".join(f"{key}={flat[key]}" for key in told)


def _plain(precision: str, arithmetic: str) -> dict[str, Any]:
    """Settings that a variant leaves unsaid: usual engine and band, no audit, what the precision's name stands for."""
    fields = PrecisionConfig.model_fields.items()
    usual = {name: field.default for name, field in fields if not field.is_required()}
    try:
        usual |= preset("precision", precision)
    except PahqError:  # a name of one's own stands for nothing, so all of it that differs is told
        usual = {}
    band = {f"band.{name}": value for name, value in BANDS[arithmetic].model_dump().items()}
    return _PLAIN | band | {f"precision.{name}": value for name, value in usual.items()}


def _differs(key: str, flats: Iterable[Mapping[str, Any]]) -> bool:
    return len({json.dumps(flat[key]) for flat in flats}) > 1


def _applies(key: str, flat: Mapping[str, Any]) -> bool:
    """Whether a setting has a say: those of a band have where there is one."""
    return flat["audit"] == "band" or not key.startswith("band.")


def _group(flat: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(flat.get(key) for key in ("task.name", "method.name", "method.arithmetic", "precision.name"))


def _why_missing(folder: Path) -> str:
    if not folder.exists():
        return "not started"
    tests = len(read_journal(folder / "decisions.jsonl"))
    return f"unfinished after {tests} tests" if tests else "started, no test done"

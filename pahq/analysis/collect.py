"""An experiment's cells as one tidy table: one row a finished cell, and a list of the unfinished ones."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pahq.cell.files import cell_folder
from pahq.cell.journal import read_journal
from pahq.cell.story import check_cell
from pahq.circuits.circuit import Circuit
from pahq.errors import PahqError

BITS: dict[str, int] = {"float32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "int4": 4, "int4s": 4, "nf4": 4}

_ORDER = ["task", "method", "precision", "variant", "threshold"]

# What may differ between a search and the ACDC search it is compared with. Engines are exact; audits have a table.
_FREE = ("method.name", "method.focus", "precision", "engine", "audit", "band")


@dataclass(frozen=True)
class Collected:
    """``cells``: one row a finished cell; ``missing``: columns id, reason; ``circuits``: by cell id."""

    cells: pd.DataFrame
    missing: pd.DataFrame
    circuits: Mapping[str, Circuit]


def collect(root: str | Path, ids: Sequence[str]) -> Collected:
    """Read the cells ``ids`` below ``root``.

    Columns that join cells: ``series`` is equal for cells that differ in threshold alone, ``pair`` for
    cells that differ in method, precision, engine, audit and threshold alone (so it finds a cell's ACDC),
    ``twin`` is equal for cells that differ in nothing but the schedule,
    ``variant`` tells apart the series of one task, method and precision (empty where there is just one).

    Raises PahqError, naming the file, for a result that is not readable or contradicts its circuit or its
    journal.
    """
    rows, missing, configs = [], [], []
    circuits: dict[str, Circuit] = {}
    for cell_id in dict.fromkeys(ids):
        folder = cell_folder(root, cell_id)
        if not (folder / "result.json").exists():
            missing.append({"id": cell_id, "reason": _why_missing(folder)})
            continue
        row, config, circuits[cell_id] = read_cell(folder, cell_id)
        rows.append(row)
        configs.append(config)
    for row, variant in zip(rows, variants(configs), strict=True):
        row["variant"] = variant
    frame = pd.DataFrame(rows)
    if rows:
        frame["faithfulness"] = frame["faithfulness"].astype(float)  # all None would be no number at all
        frame = frame.sort_values(_ORDER, kind="stable", ignore_index=True)
    return Collected(frame, pd.DataFrame(missing, columns=["id", "reason"]), circuits)


def read_cell(folder: Path, cell_id: str) -> tuple[dict[str, Any], dict[str, Any], Circuit]:
    """A finished cell's row, its configuration as stored, and its circuit."""
    result = check_cell(folder)
    circuit = Circuit.read(folder / "circuit.json")
    journal = read_journal(folder / "decisions.jsonl")
    where = folder / "result.json"
    try:
        config, fresh = result["config"], result["fresh"]
        row = _row(result, config, fresh)
    except (KeyError, TypeError) as error:
        raise PahqError(f"{where} is not a whole result: {error} is missing or of another form") from None
    if row["id"] != cell_id:
        raise PahqError(f"{where} belongs to the cell {row['id']!r}, not to its folder's {cell_id!r}")
    row["median_test_seconds"] = statistics.median(line.seconds for line in journal) if journal else float("nan")
    return row, config, circuit


def _row(result: Mapping[str, Any], config: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    task, method, precision = config["task"], config["method"], config["precision"]
    search, versions = result["search"], result["versions"]
    return {
        "id": str(result["id"]),
        "task": task["name"],
        "kind": task["kind"],
        "ablation": task["ablation"],
        "search_metric": task["metric"],
        "model": result["model"]["name"],
        "model_digest": result["model"]["digest"],
        "method": method["name"],
        "focus": method["focus"],
        "order": method["order"],
        "absolute": bool(method.get("absolute", False)),
        "precision": precision["name"],
        "format": precision["format"],
        "scales": precision["scales"],
        "rounding": precision.get("rounding", "nearest"),
        "mlp": precision["mlp"],
        "cache": precision.get("cache", "float32"),
        "compute": precision.get("compute", "float32"),
        "kernel": precision.get("kernel", "unpack"),
        "bits": BITS[precision["format"]],
        "engine": config["engine"]["name"],
        "dtype": config["engine"]["dtype"],
        "schedule": config["engine"].get("schedule", "overlapped"),
        "seed": int(config["seed"]),
        "audit": config.get("audit", "none"),
        "threshold": float(config["threshold"]),
        "series": _digest(flatten(config), leave_out=("threshold",)),
        "pair": _digest(flatten(config), leave_out=("threshold", *_FREE)),
        "twin": _digest(flatten(config), leave_out=("engine.schedule",)),
        "tests": int(result["tests"]),
        "edges": int(result["graph"]["addition"]) + int(result["graph"]["direct"]),
        "edges_addition": int(result["graph"]["addition"]),
        "edges_direct": int(result["graph"]["direct"]),
        "kept": int(result["kept"]),
        "kept_addition": int(result["kept_addition"]),
        "kept_direct": int(result["kept_direct"]),
        "kept_cleaned": int(result["kept_cleaned"]),
        "search_start": float(search["start"]),
        "search_final": float(search["final"]),
        "smallest_margin": float(search["smallest_margin"]),
        "kl": float(fresh["kl"]),
        "metric": fresh["metric"],
        "value": float(fresh["value"]),
        "clean": float(fresh["clean"]),
        "corrupted": float(fresh["corrupted"]),
        "faithfulness": None if fresh["faithfulness"] is None else float(fresh["faithfulness"]),
        "seconds": float(result["seconds"]),
        "set_up_seconds": float(result.get("set_up_seconds", "nan")),  # results from before it was kept have none
        "peak_bytes": int(result["peak_bytes"]),
        "resumed": bool(result["resumed"]),
        "device": result["device"],
        "threads": int(result["threads"]),
        "pahq_version": versions["pahq"],
        "torch_version": versions["torch"],
        "python_version": versions["python"],
    } | _audit(result.get("certainty", {}).get("audit"))


def _audit(audit: object) -> dict[str, Any]:
    """Of a result's audit: what a cell's row holds of it; no numbers unless it is a band's."""
    names = ("share", "overturned", "could_differ", "bits_share")
    band = audit if isinstance(audit, Mapping) and audit.get("kind") == "band" else {}
    values = [float(band[name]) if band else float("nan") for name in names]
    columns = ("audited_share", "overturned", "could_differ", "bits_share")
    return {**dict(zip(columns, values, strict=True)), "hopeless": bool(band and band["hopeless"])}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _digest(flat: Mapping[str, Any], *, leave_out: Sequence[str]) -> str:
    dropped = {key for key in flat for name in leave_out if key == name or key.startswith(name + ".")}
    kept = {key: value for key, value in flat.items() if key not in dropped}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def variants(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """By cell: what tells its series from others of equal task, method and precision, such as ``seed=1``."""
    flats = [flatten(config) for config in configs]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for flat in flats:
        groups.setdefault(_group(flat), []).append(flat)
    found = []
    for flat in flats:
        group = groups[_group(flat)]
        keys = sorted({key for other in group for key in other} - {"threshold"})
        differing = [key for key in keys if len({json.dumps(o.get(key)) for o in group if _has(o, key)}) > 1]
        # an audit is the exception, and so is its setting: the plain series keeps its plain name
        told = [key for key in differing if _has(flat, key) and flat.get(key) != _PLAIN.get(key)]
        # which is no part of a precision's name, and unsaid where it is the usual one
        told += [key for key in ("precision.rounding",) if key in flat and key not in told]
        found.append(" ".join(f"{key}={flat.get(key)}" for key in told))
    return found


_PLAIN = {"audit": "none"}


def _has(flat: Mapping[str, Any], key: str) -> bool:
    """Whether a setting applies: those of a band do where there is one."""
    return key in flat or not key.startswith("band.")


def _group(flat: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(flat.get(key) for key in ("task.name", "method.name", "precision.name"))


def _why_missing(folder: Path) -> str:
    if not folder.exists():
        return "not started"
    tests = len(read_journal(folder / "decisions.jsonl"))
    return f"unfinished after {tests} tests" if tests else "started, no test done"

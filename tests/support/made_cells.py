"""Makes cell folders as ``run_cell`` leaves them, without running anything."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pahq.cell.files import read_result, write_result
from pahq.cell.result import Result
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.circuits.published import published_circuit
from pahq.config.cell import CellConfig
from pahq.files.text import write_json

GRAPHS = {
    "tracr-reverse": build_graph(ModelShape(4, 1, 1, mlp=True, split_embed=True)),
    "tracr-proportion": build_graph(ModelShape(2, 1, 1, mlp=True, split_embed=True)),
    "induction": build_graph(ModelShape(2, 4, 4, mlp=False)),
    "docstring": build_graph(ModelShape(2, 2, 2, mlp=True)),
}
TASKS = {  # name: kind, search metric, own metric, ablation
    "tracr-reverse": ("tracr-reverse", "mse", "mse", "corrupted"),
    "tracr-proportion-zero": ("tracr-proportion", "mse", "mse", "zero"),
    "nano-docstring": ("docstring", "kl", "margin", "corrupted"),
    "nano-induction": ("induction", "kl", "nll", "corrupted"),
}
FORMATS = {
    "float32": ("float32", "none"),
    "bf16": ("bf16", "none"),
    "fp8": ("fp8", "row"),
    "int8": ("int8", "row"),
    "int4": ("int4", "group32"),
}
NOISE = {"float32": 0.0, "bf16": 0.02, "int8": 0.05, "fp8": 0.15, "int4": 0.6}


def graph_of(task: str) -> Graph:
    return GRAPHS[TASKS[task][0]]


def make_config(task: str, method: str, precision: str, threshold: float, seed: int = 0) -> CellConfig:
    """``method``: a label, such as ``pahq-changes``."""
    kind, metric, _, ablation = TASKS[task]
    model = kind if kind.startswith("tracr") else "nano"
    heads, scales = FORMATS[precision]
    name, arithmetic = method.removesuffix("-changes"), "changes" if method.endswith("-changes") else "network"
    focus = "receiver" if name == "pahq" else "none"
    mlp = "float32" if precision == "float32" else "bf16"
    return CellConfig.model_validate(
        {
            "task": {"name": task, "kind": kind, "examples": 6, "metric": metric, "ablation": ablation},
            "model": {"name": model, "source": model},
            "method": {"name": name, "focus": focus, "arithmetic": arithmetic},
            "precision": {"name": precision, "format": heads, "scales": scales, "mlp": mlp},
            "threshold": threshold,
            "seed": seed,
        }
    )


def make_cell(root: Path, config: CellConfig, edges: Iterable[str], **changes: Any) -> str:
    """Write a finished cell of circuit ``edges``; ``changes`` replace entries of result.json. Its id.

    Removed edges have no effect, and those that were kept .1 more than the threshold.
    """
    graph = graph_of(config.task.name)
    circuit = Circuit.from_names(graph, edges)
    folder = root / "cells" / config.id
    folder.mkdir(parents=True)
    quality = len(circuit) / len(graph.edges)
    own = TASKS[config.task.name][2]
    clean, corrupted = (0.0, 1.5) if own == "mse" else (4.0, -0.5)
    lines = [
        {
            "i": i,
            "edge": str(edge),
            "before": 0.0,
            "after": config.threshold + 0.1 if kept else 0.0,
            "removed": not kept,
            "seconds": 0.002,
        }
        for i, (edge, kept) in enumerate(zip(graph.edges, circuit.present, strict=True))
    ]
    counts = {
        "edges_addition": graph.n_addition,
        "edges_direct": graph.n_direct,
        "tests": len(lines),
        "kept": len(circuit),
        "kept_addition": sum(not graph.edges[i].direct for i in circuit.indices),
        "kept_cleaned": len(circuit.cleaned(ablation=config.task.ablation)),
        "seconds": 0.002 * len(lines),
        "search": {"start": NOISE[config.precision.name] / 10},
        "fresh": {
            "kl": (1 - quality) ** 2,
            "metric": own,
            "value": corrupted + quality * (clean - corrupted),
            "clean": clean,
            "corrupted": corrupted,
            "faithfulness": quality,
        },
    }
    write_json(folder / "config.json", config.model_dump(mode="json"))
    write_json(folder / "provenance.json", {"model": "0" * 64, "pahq": "0.1.0"})
    (folder / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder / "circuit.json", circuit.to_json(ablation=config.task.ablation))
    write_result(folder, make_result(config, **_merged(counts, changes)))
    return config.id


def make_result(config: CellConfig, **changes: Any) -> Result:
    """What a small search of that cell might have come to; ``changes`` replace entries, of nested ones those named."""
    values = {
        "id": config.id,
        "config": config.model_dump(mode="json"),
        "model_digest": "0" * 64,
        **{"edges_addition": 6, "edges_direct": 3, "tests": 9, "kept": 2, "kept_addition": 1, "kept_cleaned": 2},
        "search": {"start": 0.0, "final": 0.2, "smallest_margin": 1e-4},
        "certainty": {
            **{"noise": 1e-7, "sample": 8, "largest_error": 1e-8, "safety": 10.0, "confidence": 0.95, "beyond": 0.3},
            **{"settled": 0, "settled_share": 0.0, "overturned": 0, "at_risk": 0, "drift": None, "audit": None},
        },
        "fresh": {"kl": 0.1, "metric": "nll", "value": 1.0, "clean": 2.0, "corrupted": 0.0, "faithfulness": 0.5},
        "task_check": None,
        **{"seconds": 0.018, "set_up_seconds": 0.5, "peak_bytes": 50 * 2**20, "levels": None, "store": "plain"},
        **{"resumed": False, "device": "cpu", "threads": 1},
        "versions": {"pahq": "0.1.0", "torch": "2.13.0", "python": "3.11.0"},
    }
    return Result.from_json(_merged(values, changes), Path("made"))


def change_result(folder: Path, **changes: Any) -> None:
    """Write a finished cell's result anew, with other entries, and with the digests that its files have now."""
    old = read_result(folder).to_json()
    write_result(folder, Result.from_json(_merged(old, changes), folder / "result.json"))


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {key: (values[key], new) for key, new in changes.items() if key in values}
    nested = {key: _merged(*pair) for key, pair in both.items() if all(isinstance(part, dict) for part in pair)}
    return values | changes | nested


BAND = {  # of an audited cell's certainty
    **{"kind": "band", "tests": 20, "share": 0.2, "overturned": 3, "layers": {"tested": 2, "calibrated": 2}},
    **{"sample": 4, "outside": {"drawn": 3, "overturned": 0}, "confidence": 0.95, "safety": 2.5, "band": 0.1},
    **{"largest_error": 0.05, "could_differ": 1.5, "hopeless": False, "hopeless_at": None, "bits_share": 0.4},
}


def make_experiment(root: Path, thresholds: tuple[float, ...] = (0.001, 0.01, 0.1, 0.5)) -> list[str]:
    """All tasks x (acdc, pahq and rtn-q at five formats); the fewer bits, the more edges are mistaken."""
    ids = []
    searches = [("acdc", "float32")] + [(method, name) for method in ("pahq", "rtn-q") for name in FORMATS]
    for task in TASKS:
        graph = graph_of(task)
        truth = published_circuit(TASKS[task][0], graph) or frozenset()
        draw = random.Random(task)
        effect = {name: 10 ** draw.uniform(-4, 0) * (20 if name in truth else 1) for name in graph.edge_index}
        for method, precision in searches:
            noise = NOISE[precision] * (1.5 if method == "rtn-q" else 1.0)
            seen = {name: value * 10 ** draw.gauss(0, noise) for name, value in effect.items()}
            for threshold in thresholds:
                edges = [name for name in graph.edge_index if seen[name] >= threshold]
                ids.append(make_cell(root, make_config(task, method, precision, threshold), edges))
    return ids

"""Makes cell folders as ``run_cell`` leaves them, without running anything."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pahq.cell.files import SCHEMA, write_result
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
    kind, metric, _, ablation = TASKS[task]
    model = kind if kind.startswith("tracr") else "nano"
    heads, scales = FORMATS[precision]
    focus = "receiver" if method == "pahq" else "none"
    mlp = "float32" if precision == "float32" else "bf16"
    return CellConfig.model_validate(
        {
            "task": {"name": task, "kind": kind, "examples": 6, "metric": metric, "ablation": ablation},
            "model": {"name": model, "source": model},
            "method": {"name": method, "focus": focus},
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
    direct = sum(graph.edges[i].direct for i in circuit.indices)
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
    result = {
        "schema": SCHEMA,
        "id": config.id,
        "config": config.model_dump(mode="json"),
        "model": {"name": config.model.name, "digest": "0" * 16},
        "graph": {"addition": graph.n_addition, "direct": graph.n_direct},
        "tests": len(lines),
        "kept": len(circuit),
        "kept_addition": len(circuit) - direct,
        "kept_direct": direct,
        "kept_cleaned": len(circuit.cleaned(ablation=config.task.ablation)),
        "search": {
            "metric": config.task.metric,
            "start": NOISE[config.precision.name] / 10,
            "final": 0.2,
            "smallest_margin": 1e-4,
        },
        "fresh": {
            "kl": (1 - quality) ** 2,
            "metric": own,
            "value": corrupted + quality * (clean - corrupted),
            "clean": clean,
            "corrupted": corrupted,
            "faithfulness": quality,
        },
        "seconds": 0.002 * len(lines),
        "peak_bytes": 50 * 2**20,
        "resumed": False,
        "versions": {"pahq": "0.1.0", "torch": "2.13.0", "python": "3.11.0"},
        "device": "cpu",
        "threads": 1,
    } | changes
    write_json(folder / "config.json", config.model_dump(mode="json"))
    write_json(folder / "provenance.json", {"model": "0" * 16, "pahq": "0.1.0"})
    (folder / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder / "circuit.json", circuit.to_json(ablation=config.task.ablation))
    write_result(folder, result)
    return config.id


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

"""Circuit search in transformers with per-head mixed precision: ACDC, RTN-Q and PAHQ on one engine.

Public names load on first use: ``import pahq`` costs nothing, torch comes with the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pahq.api import Found, acdc, prompts, read_prompts, run_cell, score, sweep
    from pahq.cell.files import read_result
    from pahq.circuits.circuit import Circuit
    from pahq.circuits.graph import Graph, ModelShape, build_graph
    from pahq.circuits.scores import Scores
    from pahq.config.cell import CellConfig, RunConfig, parse_config
    from pahq.errors import PahqError
    from pahq.experiments.compose import cells
    from pahq.model import load_model
    from pahq.report.difference import diff
    from pahq.report.library import draw
    from pahq.resamples.library import stability
    from pahq.resamples.measures import Stability
    from pahq.verify.bundle import Bundle, bundle
    from pahq.verify.claim import verify_bundle
    from pahq.verify.claimed import Claim

__version__ = "0.2.0"

_HOMES = {
    "Bundle": "pahq.verify.bundle",
    "CellConfig": "pahq.config.cell",
    "Circuit": "pahq.circuits.circuit",
    "Claim": "pahq.verify.claimed",
    "Found": "pahq.api",
    "Graph": "pahq.circuits.graph",
    "ModelShape": "pahq.circuits.graph",
    "PahqError": "pahq.errors",
    "RunConfig": "pahq.config.cell",
    "Scores": "pahq.circuits.scores",
    "Stability": "pahq.resamples.measures",
    "acdc": "pahq.api",
    "build_graph": "pahq.circuits.graph",
    "bundle": "pahq.verify.bundle",
    "cells": "pahq.experiments.compose",
    "diff": "pahq.report.difference",
    "draw": "pahq.report.library",
    "load_model": "pahq.model",
    "parse_config": "pahq.config.cell",
    "prompts": "pahq.api",
    "read_prompts": "pahq.api",
    "read_result": "pahq.cell.files",
    "run_cell": "pahq.api",
    "score": "pahq.api",
    "stability": "pahq.resamples.library",
    "sweep": "pahq.api",
    "verify_bundle": "pahq.verify.claim",
}

__all__ = [
    "Bundle",
    "CellConfig",
    "Circuit",
    "Claim",
    "Found",
    "Graph",
    "ModelShape",
    "PahqError",
    "RunConfig",
    "Scores",
    "Stability",
    "__version__",
    "acdc",
    "build_graph",
    "bundle",
    "cells",
    "diff",
    "draw",
    "load_model",
    "parse_config",
    "prompts",
    "read_prompts",
    "read_result",
    "run_cell",
    "score",
    "stability",
    "sweep",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pahq' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

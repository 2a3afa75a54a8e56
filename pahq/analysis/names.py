"""Names that several steps of an analysis share: its files, its figures, the columns that say which series a row is.

What can be set of a precision is declared in ``PrecisionConfig`` alone; columns of it follow from there.
"""

from __future__ import annotations

from typing import Any

from pahq.config.precision import PrecisionConfig

EVALUATED = (
    "cells",
    "missing",
    "roc",
    "auc",
    "agreement",
    "stability",
    "inclusion",
    "effects",
    "errors",
    "pairs",
)  # parquet files
FIGURES = (
    *("roc", "edges_kl", "methods", "cost", "pairs", "bits", "agreement", "errors", "faithfulness", "stability"),
    *("inclusion", "pareto"),
)
TABLES = (  # in the report's order
    *("auc", "grids", "printed", "methods", "pairs", "arithmetic", "circuits", "bits", "stability", "faithfulness"),
    *("faithfulness_cells", "edges", "cost", "models", "scheduler", "pareto", "audit", "effects", "auc_against_acdc"),
)

# Methods by their label, as figures and sentences call them, in the order in which they are shown.
METHODS = {
    "acdc": "ACDC",
    "pahq": "PAHQ",
    "pahq-changes": "PAHQ, changes",
    "rtn-q": "RTN-Q",
    "rtn-q-changes": "RTN-Q, changes",
    "eap": "EAP",
    "eap-ig": "EAP-IG",
    "eap-ig-activations": "EAP-IG, activations",
    "clean-corrupted": "EAP, clean and corrupted",
    "exact": "exact scores",
    "hisp": "HISP",
    "sp": "SP",
    "edge-pruning": "Edge Pruning",
    "random": "random",
}

NAMED = ("task", "method", "precision", "variant")  # enough to tell a series of an experiment from all others
SHOWN = ("task", "search_metric", "method", "precision", "bits", "variant")  # what most tables show of one
SERIES = (  # what a row of any file says of its series
    *("task", "kind", "ablation", "search_metric", "model", "method", "precision", "format", "bits", "variant"),
    "series",
)


def precision_columns(precision: PrecisionConfig) -> dict[str, Any]:
    """A precision's name as ``precision``, and each of its settings by its own name."""
    return {"precision": precision.name} | precision.model_dump(mode="json", exclude={"name"})


SETTINGS = tuple(name for name in PrecisionConfig.model_fields if name != "name")  # of a precision, as columns

"""The words of ``pahq faithfulness``, read before torch is there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pahq.config.arguments import Arguments
from pahq.faithfulness.settings import Settings


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, Settings]:
    """What a command line asks for, and the sizes of samples; PahqError for what cannot be read."""
    parser = Arguments(
        prog="pahq faithfulness", description="judge circuits on fresh prompts: intervals, curves, hypothesis tests"
    )
    parser.add_argument("what", nargs="*", metavar="EXPERIMENT|FOLDER", help="an experiment or folders of cells")
    parser.add_argument("--root", type=Path, default=Path("results"))
    parser.add_argument("--task", help="of an experiment the cells of this task alone")
    parser.add_argument("--cells", nargs="+", metavar="ID", help="of an experiment these cells alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-progress", action="store_true")
    for field in fields(Settings):
        kind: Any = float if field.type == "float" else int
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=kind, default=field.default, help=f"default {field.default}")
    given = parser.parse_args(words)
    return given, Settings(**{field.name: getattr(given, field.name) for field in fields(Settings)})

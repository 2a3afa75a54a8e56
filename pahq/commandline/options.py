"""Arguments and options that several commands take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pahq.commandline.completion import experiments, models

Engine = Literal["suffix", "reference"]
Dtype = Literal["float32", "float64"]
Format = Literal["eap-ig", "mib", "networkx", "csv"]

Json = Annotated[bool, typer.Option("--json", help="Print what came of it as one JSON document.")]
Root = Annotated[Path, typer.Option("--root", metavar="FOLDER", help="Folder of results.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="cpu, or cuda for a GPU.")]
Threads = Annotated[int, typer.Option("--threads", metavar="N", help="Threads of the processor.")]
MemoryGb = Annotated[
    float | None, typer.Option("--memory-gb", metavar="GB", help="Ceiling of a search, as run.memory_gb.")
]
NoLock = Annotated[bool, typer.Option("--no-lock", help="As run.lock=false.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Show no bar.")]

Experiment = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="A name of conf/experiment.", autocompletion=experiments)
]
Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME", help="An experiment, or folders of finished cells.", autocompletion=experiments),
]
Cell = Annotated[Path, typer.Argument(metavar="CELL", help="A finished cell's folder.")]
Cells = Annotated[list[Path], typer.Argument(metavar="CELL", help="A finished cell's folder; several of a sweep.")]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="An embedded model, a folder, or a hub name with --revision.", autocompletion=models
    ),
]

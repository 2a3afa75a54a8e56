"""Peak memory of searches, each in a fresh process, beside the sum of its parts.

    python benchmarks/memory.py --json FILE
    python benchmarks/memory.py --device cuda --json FILE

Rows: float32 with result-caches (every sender's output d_model wide, twice, and one layer's inputs: the layout of ACDC
and its descendants; here the reference engine), float32 with z-caches (the suffix engine), and PAHQ in packed int8 and
int4 with z-caches. "Changes" is ``method.arithmetic=changes``: low bits for trials, and the full precision that its
state takes read from the file a layer at a time. A row's process opens the model's file, sets the search up and runs
it: whole by the suffix engine,
a few tests by the reference engine, whose every test takes the same. The suffix engine is given the least that it can
do with (``--kept``: what it takes by itself), so that rows differ in layout alone. Peaks are VmHWM above the level
before the model was opened, torch and its libraries warm. On a GPU they are the allocator's (``reserved_bytes``: what
it took from the card for that), and the full-precision attention weights of every row lie in page-locked host memory.

Result-caches in 16 bits are this benchmark's alone: both caches, and sums read from them, in bf16.
``precision.cache`` rounds what heads hold, d_head wide, whose outputs do not fit 16 bits; a cache of rounded outputs is
another network, which a search would have to be told of.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from output import publish
from synthetic import Shape, make_model, make_prompts

from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import ChangeEngine, SuffixEngine
from pahq.engine.suffix.budget import before_bytes, least_bytes
from pahq.model.memory import PeakMemory
from pahq.model.run import sender_outputs
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.sources.find import open_model, save_model
from pahq.model.weights import Model, ModelConfig
from pahq.precision.masterstore import MasterStore
from pahq.search.start import search_by

GPT2 = Shape(vocabulary=50257, tied=True)
LLAMA = ModelConfig(  # the proportions of Llama-3.2-1B at a size that fits this benchmark: grouped queries, gated MLPs
    name="llama-like", layers=8, heads=16, kv_heads=4, d_model=1024, d_head=64, d_mlp=4096, d_vocab=32000,
    d_vocab_out=32000, context=64, norm="rms", activation="silu", gated=True, positions="rotary", rotary_base=500000.0,
    tied_embedding=True,
)  # fmt: skip
ROWS = {  # format of heads, engine, what absent edges carry (reference: what its result-caches are held in)
    "float32, result-caches": ("float32", "reference", "float32"),
    "float32, result-caches in bf16": ("float32", "reference", "bf16"),
    "float32, z-caches": ("float32", "suffix", "float32"),
    "float32, z-caches, ablated run in bf16": ("float32", "suffix", "bf16"),
    "PAHQ int8, z-caches": ("int8", "suffix", "float32"),
    "PAHQ int8, z-caches, ablated run in bf16": ("int8", "suffix", "bf16"),
    "PAHQ int4, z-caches": ("int4", "suffix", "float32"),
    "PAHQ int4, z-caches, ablated run in bf16": ("int4", "suffix", "bf16"),
    "PAHQ int8, changes": ("int8", "suffix", "float32"),
    "PAHQ int4, changes": ("int4", "suffix", "float32"),
    "PAHQ int8, result-caches": ("int8", "reference", "float32"),
    "PAHQ int8, result-caches in bf16": ("int8", "reference", "bf16"),
}

_FULL = "float32, result-caches"
RATIOS = {
    "pahq_int8_over_full": ("PAHQ int8, z-caches", _FULL),
    "pahq_int4_over_full": ("PAHQ int4, z-caches", _FULL),
    "changes_int8_over_full": ("PAHQ int8, changes", _FULL),
    "changes_int4_over_full": ("PAHQ int4, changes", _FULL),
    "z_caches_alone": ("float32, z-caches", _FULL),
    "bits_alone": ("PAHQ int8, result-caches", _FULL),
    "pahq_int8_bf16_cache_over_full": ("PAHQ int8, z-caches, ablated run in bf16", _FULL),
    "result_caches_bf16_over_full": ("float32, result-caches in bf16", _FULL),
    "bits_alone_bf16_caches": ("PAHQ int8, result-caches in bf16", "float32, result-caches in bf16"),
    "bits_on_top_of_z": ("PAHQ int8, z-caches", "float32, z-caches"),
}


def llama_like() -> Model:
    """Random weights of the Llama-like shape."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, size in tensor_shapes(LLAMA).items():
        tensors[name] = torch.randn(size, generator=generator) * (0.0 if ".b" in name else size[-2:][0] ** -0.5)
        if name.endswith(".w"):
            tensors[name] = torch.ones(size)
    return model_from_tensors(LLAMA, tensors)


def precision(name: str, cache: str) -> PrecisionConfig:
    values: dict[str, Any] = {"name": name, "format": name, "cache": cache}
    if name == "float32":
        return PrecisionConfig(**values)
    return PrecisionConfig(**values, scales="group32" if name == "int4" else "row", mlp="bf16")


def parts(problem: Problem, engine: str, examples: int, width: int) -> dict[str, int]:
    """Bytes by part, from shapes: what the peak should consist of. ``width``: bytes of a number in a result-cache."""
    config, final = problem.store.config, problem.corrupted.final
    stream = final.numel() * final.element_size()
    narrow = stream * config.d_head // config.d_model
    senders = len(problem.graph.senders)
    logits = examples * config.d_vocab_out * final.element_size()
    values = {"weights": problem.weight_bytes, "clean logits": logits}
    z = config.layers * config.heads * narrow + (config.layers * (config.d_mlp > 0) + 1) * stream
    projections = config.layers * (config.heads + 2 * config.kv_heads) * narrow
    if engine == "reference":
        return values | {
            "corrupted cache": senders * stream * width // 4 + problem.corrupted.nbytes,
            "corrupted streams": 2 * config.layers * stream,
            "online cache": senders * stream * width // 4,
            "corrupted projections": projections,
            "a layer's inputs": config.heads * stream * (4 + width) // 4,  # what changed, and the inputs with it
            "logits": 2 * logits,
        }
    values |= {"corrupted cache": problem.corrupted.nbytes, "clean cache": z + stream, "projections": projections}
    if problem.changes is None:
        return values
    return values | {"MLPs before activation": before_bytes(problem)}


def measure(
    folder: Path,
    row: str,
    examples: int,
    positions: int,
    threshold: float,
    kept: bool,
    device: str = "cpu",
    tests: int | None = None,
) -> dict[str, Any]:
    """One row, in this process."""
    torch.set_num_threads(1)
    torch.ones(256, 256, device=device) @ torch.ones(256, 256, device=device)
    name, engine_name, cache = ROWS[row]
    memory = PeakMemory(device)
    with torch.no_grad():
        file = open_model(folder, device=device)
        shape = Shape(vocabulary=file.config.d_vocab, positions=positions)
        prompts = make_prompts(shape, examples)
        focus = "none" if name == "float32" else "receiver"
        carried = cache if engine_name == "suffix" else "float32"
        problem = build_problem(
            file,
            prompts,
            metric="kl",
            precision=precision(name, carried),
            focus=focus,
            store="packed",
            arithmetic="changes" if row.endswith("changes") else "network",
        )
        set_up = memory.bytes()
        if engine_name == "reference":
            if cache == "bf16":
                half = sender_outputs(problem.store.network(), problem.corrupted, dtype=torch.bfloat16)
                vars(problem)["corrupted_senders"] = (
                    half  # in place of what the engine would make; its other cache is alike
                )
            engine = ReferenceEngine(problem)
            last = len(problem.graph.edges) - 1
            for edge in (last, last // 2, 0):
                engine.measure([Trial(edge, (edge,))])
            kept_edges, seconds = None, None
        else:
            kind = SuffixEngine if problem.changes is None else ChangeEngine
            suffix = kind(problem, memory_bytes=None if kept else least_bytes(problem))
            clock = time.process_time()
            search = islice(search_by(suffix, problem, Order(), threshold), tests)
            kept_edges = sum(not found.removed for found in search)
            seconds = time.process_time() - clock
    card = {}
    if device != "cpu":
        card = {"reserved_bytes": torch.cuda.max_memory_reserved(), "device": torch.cuda.get_device_name()}
    return {
        "row": row,
        "peak_bytes": memory.bytes(),
        **card,
        "set_up_bytes": set_up,
        "kept_edges": kept_edges,
        "planned_bytes": None if engine_name == "reference" else least_bytes(problem),
        "cpu_seconds": None if seconds is None else round(seconds, 1),
        "read_bytes": problem.store.read_bytes if isinstance(problem.store, MasterStore) else 0,
        "parts": parts(problem, engine_name, examples, 2 if engine_name == "reference" and cache == "bf16" else 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--positions", type=int, default=15)
    parser.add_argument("--threshold", type=float, default=0.004)
    parser.add_argument("--kept", action="store_true", help="let the suffix engine keep what saves work")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tests", type=int, help="stop each search after so many tests; peaks are then of these alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", default="", help="only rows with this in their name; several: a;b")
    parser.add_argument("--jobs", type=int, default=1, help="how many rows at a time")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        found = measure(
            options.folder,
            options.row,
            options.prompts,
            options.positions,
            options.threshold,
            options.kept,
            options.device,
            options.tests,
        )
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    report: dict[str, Any] = {
        "settings": {
            key: vars(options)[key] for key in ("prompts", "positions", "threshold", "kept", "device", "tests")
        }
    }
    for name, make in {"gpt2-small shape": lambda: make_model(GPT2), "llama-like shape": llama_like}.items():
        with tempfile.TemporaryDirectory() as folder:
            save_model(make(), folder)
            with ThreadPoolExecutor(options.jobs) as pool:
                wanted = [row for row in ROWS if any(part in row for part in options.rows.split(";"))]
                rows = list(pool.map(partial(fresh, Path(folder), options), wanted))
        peaks = {row["row"]: row["peak_bytes"] for row in rows}
        report[name] = {"rows": rows} | {
            key: peaks[above] / peaks[below]
            for key, (above, below) in RATIOS.items()
            if above in peaks and below in peaks
        }
    gpt2 = report["gpt2-small shape"]
    report |= {key: gpt2[key] for key in ("pahq_int8_over_full", "bits_alone") if key in gpt2}
    publish(report, options.json)
    return 0


def fresh(folder: Path, options: argparse.Namespace, row: str) -> dict[str, Any]:
    """A row in a process of its own."""
    command = [sys.executable, __file__, "--row", row, "--folder", str(folder), "--prompts", str(options.prompts)]
    command += ["--positions", str(options.positions), "--threshold", str(options.threshold)]
    command += ["--device", options.device] + ["--kept"] * options.kept
    command += [] if options.tests is None else ["--tests", str(options.tests)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(output)
    return found


if __name__ == "__main__":
    sys.exit(main())

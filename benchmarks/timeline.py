"""What runs on a GPU while PAHQ tests edges: every kernel and copy by its stream, around a change of focus.

    python benchmarks/timeline.py --json FILE                       # on a GPU
    python benchmarks/timeline.py --draw FILE --out PICTURE.png     # anywhere

Traced by PyTorch's profiler: by the reference engine two tests of one head, then two of the next; by the suffix engine
so many tests in the middle of a search. ``busy`` is the share of time in which at least one stream works, ``together``
the share in which at least two do. The profiler slows the host down, so that gaps are wider than without it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from card import SHAPES, THRESHOLDS, WAYS
from output import publish
from synthetic import make_model, make_prompts
from torch.profiler import ProfilerActivity, profile

from pahq.engine.base import Trial
from pahq.engine.problem import Problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.graph import Receiver
from pahq.precision.store import focus_of
from pahq.search.order import Order
from pahq.search.speculate import speculate

KINDS = {"kernel": "kernel", "gpu_memcpy": "copy", "gpu_memset": "kernel"}


def traced(work: Callable[[], object]) -> list[dict[str, Any]]:
    """Kernels and copies of a piece of work: stream, start and duration in microseconds, kind."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        found.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    chosen = [event for event in events if event.get("cat") in KINDS]
    first = min(event["ts"] for event in chosen)
    return [
        {
            "stream": event["args"]["stream"],
            "start": round(event["ts"] - first, 2),
            "duration": round(event["dur"], 2),
            "kind": "copy from host" if "HtoD" in event["name"] else KINDS[event["cat"]],
        }
        for event in sorted(chosen, key=lambda event: event["ts"])
    ]


def shares(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the time from the first start to the last end."""
    marks: list[tuple[float, int, int]] = []
    for event in events:
        marks += [(event["start"], 1, event["stream"]), (event["start"] + event["duration"], -1, event["stream"])]
    active: dict[int, int] = {}
    spent, last = [0.0, 0.0], 0.0
    for at, step, stream in sorted(marks):
        streams = sum(count > 0 for count in active.values())
        for least in (1, 2):
            spent[least - 1] += (at - last) * (streams >= least)
        active[stream] = active.get(stream, 0) + step
        last = at
    return {"microseconds": last, "busy": spent[0] / last, "together": spent[1] / last}


def by_reference(problem: Problem, layer: int) -> list[dict[str, Any]]:
    """Two tests of a head's q input, and two of the next head's."""
    engine, graph = ReferenceEngine(problem), problem.graph
    edges = [graph.incoming(Receiver("head", layer, head, "q"))[i] for head in (1, 0) for i in (0, 1)]

    def work() -> None:
        for edge in edges:
            engine.measure([Trial(edge, (edge,))])

    work()
    return traced(work)


def by_suffix(problem: Problem, threshold: float, skipped: int, tests: int) -> list[dict[str, Any]]:
    """So many tests of a search after the first ``skipped``."""
    edges = problem.graph.edges
    decisions = speculate(
        SuffixEngine(problem),
        Order(),
        threshold,
        focus=lambda edge: focus_of(problem.graph, edges[edge], problem.focus),
    )
    list(islice(decisions, skipped))
    return traced(lambda: list(islice(decisions, tests)))


def draw(report: dict[str, Any], path: Path, milliseconds: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = report["panels"]
    figure, axes = plt.subplots(len(panels), 1, figsize=(11, 2.1 * len(panels)), constrained_layout=True, squeeze=False)
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        events = panel["events"]
        copies = {event["stream"] for event in events if event["kind"] == "copy from host"}
        load = [event["start"] for event in events if event["kind"] == "copy from host"]
        begin = max(0.0, (load[0] if load else 0.0) - 300 * milliseconds)  # a change of focus, not at the very edge
        streams = sorted({event["stream"] for event in events})
        for row, stream in enumerate(streams):
            for kind, colour in (("kernel", "#0072B2"), ("copy", "#56B4E9"), ("copy from host", "#D55E00")):
                bars = [
                    ((event["start"] - begin) / 1e3, max(event["duration"], 1.0) / 1e3)
                    for event in events
                    if event["stream"] == stream and event["kind"] == kind
                ]
                axis.broken_barh(bars, (row - 0.4, 0.8), color=colour)
        names = [f"stream {stream}" + (" (copies)" if stream in copies else "") for stream in streams]
        axis.set_yticks(range(len(streams)), names)
        axis.set_xlim(0, milliseconds)
        axis.set_title(panel["name"], fontsize=10, loc="left")
    axes[-1, 0].set_xlabel(f"milliseconds ({report['device']}, {report['shape']} shape, int8, focus=receiver)")
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="gpt2")
    parser.add_argument("--way", choices=tuple(WAYS), default="int8")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--skipped", type=int, default=1500)
    parser.add_argument("--tests", type=int, default=60)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--draw", type=Path, help="a report to draw, on any machine")
    parser.add_argument("--milliseconds", type=float, default=10.0, help="of each panel, with --draw")
    parser.add_argument("--out", type=Path, help="the picture, with --draw")
    options = parser.parse_args()
    if options.draw is not None:
        if options.out is None:
            parser.error("--draw needs --out")
        draw(json.loads(options.draw.read_text()), options.out, options.milliseconds)
        return 0
    if not torch.cuda.is_available():
        parser.error("tracing needs a CUDA GPU")
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    shape = SHAPES[options.shape]
    model = make_model(shape, device="cpu" if options.shape == "gpt2" else "cuda").to(device="cuda")
    problem = WAYS[options.way].problem(model, make_prompts(shape, options.prompts))
    panels = []
    for name, events in (
        ("Reference engine: two tests of one head, two of the next", by_reference(problem, shape.layers // 2)),
        (
            f"Suffix engine: tests {options.skipped} to {options.skipped + options.tests} of a search",
            by_suffix(problem, THRESHOLDS[options.shape], options.skipped, options.tests),
        ),
    ):
        panels.append({"name": name, **shares(events), "events": events})
    publish(
        {"device": torch.cuda.get_device_name(), "shape": options.shape, "way": options.way, "panels": panels},
        options.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What runs on a GPU while PAHQ tests edges: every kernel and copy by its stream, around a change of focus.

    python benchmarks/timeline.py --json FILE                       # on a GPU
    python benchmarks/timeline.py --draw FILE ... --out PICTURE.png     # anywhere

Traced by PyTorch's profiler: by the reference engine two tests of one head, then two of the next; by the suffix engine
so many tests in the middle of a search. Events are kept of a short while alone; ``busy`` is the share of all the time
in which at least one stream works, ``together`` the share in which at least two do. The profiler slows the host down,
so that gaps are wider than without it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from card import SHAPES, THRESHOLDS, WAYS
from output import publish
from synthetic import make_model, make_prompts
from torch.profiler import ProfilerActivity, profile

from pahq.circuits.graph import Receiver
from pahq.circuits.order import Order
from pahq.engine.base import Trial
from pahq.engine.problem import Problem
from pahq.engine.reference import ReferenceEngine
from pahq.search.start import start_search

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
    decisions = start_search("suffix", problem, Order(), threshold)
    list(islice(decisions, skipped))
    return traced(lambda: list(islice(decisions, tests)))


def cut(events: Sequence[dict[str, Any]], milliseconds: float) -> dict[str, Any]:
    """So much of it, from just before the first event beside the busiest stream (``main``), if there is any."""
    main = Counter(event["stream"] for event in events).most_common(1)[0][0]
    beside = [event["start"] for event in events if event["stream"] != main]
    start = max(0.0, min(beside, default=0.0) - 50 * milliseconds)
    inside = [event for event in events if 0 <= event["start"] - start < 1e3 * milliseconds]
    return {"main": main, "events": [event | {"start": round(event["start"] - start, 2)} for event in inside]}


def draw(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """The reference engine's panel of each report."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    colours = {"kernel": "#0072B2", "copy": "#56B4E9", "copy from host": "#D55E00"}
    figure, axes = plt.subplots(len(reports), 1, figsize=(11, 2.2 * len(reports)), layout="constrained", squeeze=False)
    for axis, report in zip(axes[:, 0], reports, strict=True):
        panel = report["panels"][0]
        events = panel["events"]
        counts = Counter(event["stream"] for event in events)
        copying = {stream for stream in counts if all("copy" in e["kind"] for e in events if e["stream"] == stream)}
        streams = sorted(counts, key=lambda stream: (stream != panel["main"], -counts[stream]))
        names = {stream: "focus, to the card" if stream in copying else "head in focus" for stream in streams}
        names[streams[0]] = "all else"
        for row, stream in enumerate(streams):
            for kind, colour in colours.items():
                bars = [
                    (event["start"] / 1e3, event["duration"] / 1e3)
                    for event in events
                    if event["stream"] == stream and event["kind"] == kind
                ]
                axis.broken_barh(bars, (row - 0.4, 0.8), color=colour, linewidth=0.6, edgecolor=colour)
        axis.set_yticks(range(len(streams)), [names[stream] for stream in streams])
        axis.set_xlim(0, report["milliseconds"])
        together = f"two streams at once in {panel['together']:.1%} of all the time traced"
        axis.set_title(f"{report['shape']}, {report['way']}: {together}", fontsize=10, loc="left")
    axes[-1, 0].set_xlabel(f"milliseconds of a patched forward by the reference engine ({reports[0]['device']})")
    handles = [Patch(color=colour) for colour in colours.values()]
    figure.legend(handles, list(colours), loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="gpt2")
    parser.add_argument("--way", choices=tuple(WAYS), default="int8")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--skipped", type=int, default=1500)
    parser.add_argument("--tests", type=int, default=60)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--draw", type=Path, nargs="+", help="reports to draw, on any machine")
    parser.add_argument("--milliseconds", type=float, default=3.0, help="whose events are kept")
    parser.add_argument("--out", type=Path, help="the picture, with --draw")
    options = parser.parse_args()
    if options.draw is not None:
        if options.out is None:
            parser.error("--draw needs --out")
        draw([json.loads(path.read_text()) for path in options.draw], options.out)
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
        panels.append({"name": name, **shares(events), **cut(events, options.milliseconds)})
    publish(
        {
            **{"device": torch.cuda.get_device_name(), "shape": options.shape, "way": options.way},
            **{"milliseconds": options.milliseconds, "panels": panels},
        },
        options.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

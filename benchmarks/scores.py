"""What scoring every edge costs, beside one full patched forward an edge: CPU seconds of one process on one thread.

    python benchmarks/scores.py --json FILE
    python benchmarks/scores.py --nano --json FILE
    python benchmarks/scores.py --card llama-3-8b --json FILE       EAP-IG on a GPU, seconds by the clock

A seeded model of 6 layers, 8 heads, d_model 512 and a vocabulary of 5,003, 16 prompts of 15 tokens. Each method is
timed whole: the ablated run, the clean run and the scores. A full forward an edge is the reference engine's, of a
sample of edges spread over the graph, one now and then while the exact scores are computed (its seconds are not
theirs), which the sample also checks; the plain forward of the model, which removes nothing, is timed beside it. With
``--nano`` instead: what the methods' scores are worth on the tasks of the model nano, by their agreement with the exact
scores and the KL divergence of circuits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from floor import wait
from output import publish
from scipy.stats import spearmanr
from synthetic import LLAMA_3_8B, Shape, make_model, make_prompts

import pahq
from pahq.circuits.scores import Scores
from pahq.config.method import GRADIENTS
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine, circuit_logits
from pahq.experiments.compose import compose_runs
from pahq.model.forward import final_stream
from pahq.model.weights import Model
from pahq.scores.start import score
from pahq.tasks import build_task
from pahq.tasks.task import Prompts

SHAPE = Shape(layers=6, heads=8, d_model=512, d_head=64, vocabulary=5003, positions=15)
PROMPTS = 16
STEPS = 5
METHODS = (*GRADIENTS, "exact")
CARDS = {"llama-3-8b": LLAMA_3_8B, "small": SHAPE}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, and what the work gave."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def problem_for(model: Model, prompts: Prompts, metric: str) -> Problem:
    with torch.no_grad():
        return build_problem(model, prompts, metric=metric, direct_edges=False)


def _score(model: Model, prompts: Prompts, metric: str, method: str) -> Scores:
    return score(problem_for(model, prompts, metric), method, steps=STEPS)


def gradients(model: Model, prompts: Prompts, metric: str, repeats: int) -> dict[str, Any]:
    """Seconds of every method from gradients, each from the model and its prompts on, the least of some repeats."""
    rows = {}
    for method in GRADIENTS:
        if (method, metric) != ("eap", "kl"):
            work = partial(_score, model, prompts, metric, method)
            seconds = [timed(work)[0] for _ in range(repeats)]
            rows[method] = {"cpu_seconds": round(min(seconds), 3), "all": [round(value, 3) for value in seconds]}
    return rows


def exact(model: Model, prompts: Prompts, metric: str, sample: int, repeats: int) -> dict[str, Any]:
    """Seconds of the exact scores, and of one full forward an edge, which is timed again and again between them."""
    problem = problem_for(model, prompts, metric)
    engine, count = ReferenceEngine(problem), len(problem.graph.edges)
    chosen = range(0, count, max(1, count // sample))
    (whole,) = engine.measure([Trial(0, ())])
    runs = [_exact_once(model, prompts, metric, engine, chosen) for _ in range(repeats)]
    scores, losses = runs[0].pop("scores"), runs[0].pop("losses")
    worst = max(abs(scores.values[edge] - (loss - whole)) for edge, loss in losses.items())
    rows: dict[str, Any] = {"edges": count, "sampled_edges": len(chosen)}
    for name in ("cpu_seconds", "patched_forward_milliseconds", "plain_forward_milliseconds"):
        rows[name] = round(statistics.median(run[name] for run in runs), 2)
    rows["milliseconds_per_edge"] = round(1000 * rows["cpu_seconds"] / count, 2)
    for kind in ("patched", "plain"):
        ratios = [run[f"{kind}_forward_milliseconds"] * count / 1000 / run["cpu_seconds"] for run in runs]
        rows[f"times_faster_than_a_{kind}_forward_each"] = round(statistics.median(ratios), 1)
        rows[f"times_faster_than_a_{kind}_forward_each_all"] = [round(ratio, 1) for ratio in ratios]
    return rows | {"worst_difference_over_largest": worst / scores.largest}


def _exact_once(
    model: Model, prompts: Prompts, metric: str, engine: ReferenceEngine, chosen: Sequence[int]
) -> dict[str, Any]:
    """The exact scores once; a forward whenever so many more edges are scored, so that both have the same machine."""
    problem, left, losses = engine.problem, list(chosen), dict[int, float]()
    patched, plain, count, done = list[float](), list[float](), len(engine.problem.graph.edges), 0

    def forward() -> None:
        edge = left.pop(0)
        seconds, (losses[edge],) = timed(partial(engine.measure, [Trial(edge, (edge,))]))
        patched.append(seconds)
        with torch.no_grad():
            plain.append(timed(lambda: final_stream(problem.store.network(), prompts.clean))[0])

    def scored(more: int) -> None:
        nonlocal done
        done += more
        while left and (len(chosen) - len(left)) * count <= done * len(chosen):
            forward()

    seconds, scores = timed(lambda: score(problem_for(model, prompts, metric), "exact", scored=scored))
    between = sum(patched) + sum(plain)
    return {
        "cpu_seconds": seconds - between,
        "patched_forward_milliseconds": 1000 * statistics.median(patched),
        "plain_forward_milliseconds": 1000 * statistics.median(plain),
        "scores": scores,
        "losses": losses,
    }


def nano(task_name: str) -> dict[str, Any]:
    """By method, on the prompts that a cell of a task searches: agreement with the exact scores, KL of its circuits."""
    ((cell, _),) = compose_runs([f"task={task_name}", "method=acdc", "threshold=0.1"])
    model = pahq.load_model("nano")
    task = build_task(cell.task, model, cell.seed)
    judge, best = problem_for(model, task.search, "kl"), pahq.score(model, task.search, "exact", metric=task.metric)
    rows: dict[str, Any] = {"metric": task.metric, "edges": len(best)}
    for method in METHODS:
        seconds, scores = timed(partial(pahq.score, model, task.search, method, metric=task.metric, steps=STEPS))
        ranks = spearmanr([abs(value) for value in scores.values], [abs(value) for value in best.values])
        tops = [set(each.top(100, clean=False).edges) for each in (scores, best)]
        circuits = {size: circuit_logits(judge, torch.tensor(scores.top(size).present)) for size in (50, 100, 200)}
        rows[method] = {
            "cpu_seconds": round(seconds, 2),
            "rank_correlation_with_exact": round(float(ranks.statistic), 2),
            "shared_of_the_top_100": len(tops[0] & tops[1]),
            "kl_of_top": {n: round(float(judge.objective.value(logits)), 3) for n, logits in circuits.items()},
        }
    return rows


def on_card(name: str, device: str) -> dict[str, Any]:
    """EAP-IG's seconds by the clock on a whole model of a shape, and the allocator's peak beside the model."""
    shape = CARDS[name]
    model, prompts = make_model(shape, device=device), make_prompts(shape, PROMPTS)
    problem = problem_for(model, prompts, "logit_diff")
    score(problem, "eap-ig", steps=1)  # what the libraries do on first use
    card = device == "cuda"
    if card:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if card else 0
    taken = []
    for _ in range(2):
        wait(device)
        clock = time.perf_counter()
        score(problem, "eap-ig", steps=STEPS)
        wait(device)
        taken.append(time.perf_counter() - clock)
    peak = torch.cuda.max_memory_allocated() - before if card else 0
    where = torch.cuda.get_device_name() if card else device
    return {"device": where, "edges": len(problem.graph.edges), "seconds": taken, "peak_bytes": peak}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the report goes, beside the screen")
    parser.add_argument("--repeats", type=int, default=3, help="of each method (default 3)")
    parser.add_argument("--sample", type=int, default=20, help="edges that a full forward is timed on (default 20)")
    parser.add_argument("--nano", action="store_true", help="what the scores are worth on nano's tasks")
    parser.add_argument("--card", choices=tuple(CARDS), help="EAP-IG on a GPU, of a model of this shape")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="with --card (default cuda)")
    options = parser.parse_args(argv)
    if options.card:
        if options.device == "cuda" and not torch.cuda.is_available():
            parser.error("--card needs a CUDA GPU; --device cpu --card small tries it without one")
        publish({"version": pahq.__version__, "steps": STEPS} | on_card(options.card, options.device), options.json)
        return 0
    torch.set_num_threads(1)
    if options.nano:
        tasks = ("nano-ioi", "nano-greaterthan", "nano-docstring")
        publish({"version": pahq.__version__, "steps": STEPS} | {name: nano(name) for name in tasks}, options.json)
        return 0
    model, prompts = make_model(SHAPE), make_prompts(SHAPE, PROMPTS)
    report: dict[str, Any] = {
        "version": pahq.__version__,
        "shape": vars(SHAPE) | {"prompts": PROMPTS},
        "steps": STEPS,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    for metric in ("logit_diff", "kl"):
        report[metric] = gradients(model, prompts, metric, options.repeats)
        report[metric]["exact"] = exact(model, prompts, metric, options.sample, options.repeats)
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

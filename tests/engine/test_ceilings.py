"""A memory ceiling is kept, and one that is too low says what is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import synthetic
import torch
from support import small_models
from support.places import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.losses import losses_for
from pahq.engine.problem import build_problem
from pahq.engine.suffix import SuffixEngine, budget, engine
from pahq.engine.suffix.budget import GIB, least_bytes, plan, reference_bytes
from pahq.errors import PahqError
from pahq.resamples.resample import resample
from pahq.search.speculate import speculate
from pahq.search.twin import twin_engine

random_model, random_prompts = small_models.random_model, small_models.random_prompts

MEASURE = """
import sys
sys.path.insert(0, "benchmarks")
from synthetic import Shape, make_model, make_prompts
from pahq.model.memory import PeakMemory
from pahq.engine.problem import build_problem
from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.search.start import build_engine, search_by
import torch
INT8 = PrecisionConfig(name="int8", format="int8", mlp="bf16")
torch.set_num_threads(1)
torch.ones(64, 64) @ torch.ones(64, 64)
memory = PeakMemory("cpu")
shape = Shape(layers=4, heads=8, d_model=256, d_head=32, vocabulary=2003)
changes = {"store": "packed", "precision": INT8, "focus": "receiver", "arithmetic": "changes"}
with torch.no_grad():
    model = make_model(shape)
    setting = {"network": {}, "focus": changes | {"arithmetic": "network"}, "changes": changes}[sys.argv[2]]
    problem = build_problem(model, make_prompts(shape, 24), metric="kl", **setting)
ceiling = int(float(sys.argv[1]) * 2**30)
engine = build_engine("suffix", problem, ceiling / 2**30)
decisions = list(search_by(engine, problem, Order(), 0.02))
taken = hash(tuple((d.edge, d.removed) for d in decisions))
print(len(decisions), engine.budget.peak_bytes, memory.bytes(), ceiling, taken)
"""


def measured(ceiling_gb: float, arithmetic: str) -> tuple[int, int, int, int, str]:
    command = [sys.executable, "-c", MEASURE, str(ceiling_gb), arithmetic]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return int(output[0]), int(output[1]), int(output[2]), int(output[3]), output[4]


@pytest.mark.parametrize("arithmetic", ["network", "focus", "changes"])
def test_a_search_stays_below_its_ceiling_and_takes_the_same_decisions(arithmetic: str) -> None:
    roomy, tight = measured(1.0, arithmetic), measured(0.17, arithmetic)
    for tests, estimate, peak, ceiling, _ in (roomy, tight):
        assert tests > 100
        assert estimate <= ceiling
        assert peak <= ceiling
    assert roomy[4] == tight[4]
    assert tight[1] < roomy[1]


@pytest.mark.parametrize("store", ["plain", "packed"])
@pytest.mark.parametrize("arithmetic", ["network", "changes"])
def test_the_float64_twin_under_a_ceiling_takes_what_was_planned(store: str, arithmetic: str) -> None:
    """A wide vocabulary and many layers: neither ends nor weights are counted twice where two stores share them."""
    model = random_model("gpt2", dtype=torch.float32, layers=6, d_model=96, d_head=32, d_mlp=384, d_vocab_out=60000)
    int8 = PrecisionConfig(name="int8", format="int8", mlp="bf16")
    setting = {"metric": "kl", "precision": int8, "focus": "receiver", "arithmetic": arithmetic, "store": store}
    problem = build_problem(model, random_prompts(model), **setting)
    twin = twin_engine(problem, tight=True)
    edge = len(problem.graph.edges) - 1
    assert twin.measure([Trial(edge, (edge,))])


def test_too_little_says_how_much_is_needed():
    model = random_model("gpt2")
    problem = build_problem(model, random_prompts(model), metric="kl")
    with pytest.raises(
        PahqError, match=r"memory_gb=[\d.e-]+ is too little: this search needs at least [\d.]+"
    ) as caught:
        SuffixEngine(problem, memory_bytes=int(1e-6 * GIB))
    found = re.search(r"at least ([\d.]+)", str(caught.value))
    assert found is not None
    needed = float(found.group(1)) * 1.01
    assert list(speculate(SuffixEngine(problem, memory_bytes=int(needed * GIB)), Order(), 0.1))


def test_a_ceiling_takes_from_windows_and_from_what_is_kept():
    model = random_model("gpt2")
    problem = build_problem(model, random_prompts(model), metric="kl")
    free, tight = plan(problem, GIB), plan(problem, 74 << 20)  # two tiles of logits among it, in float64
    assert free.window_bytes >= tight.window_bytes
    assert free.input_bytes >= tight.input_bytes
    assert free.composite_bytes > tight.composite_bytes
    assert free.peak_bytes <= GIB
    assert tight.peak_bytes <= 74 << 20


def test_without_a_ceiling_a_search_takes_what_the_reference_would():
    shape = synthetic.Shape(layers=3, heads=8, d_model=256, d_head=32, vocabulary=503)
    problem = build_problem(synthetic.make_model(shape), synthetic.make_prompts(shape, 16), metric="kl")
    assert plan(problem, None).peak_bytes <= reference_bytes(problem) + (32 << 20)


def test_a_tight_search_gives_back_the_heap_and_one_with_room_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("gpt2")
    problem = build_problem(model, random_prompts(model), metric="kl")
    given: list[int] = []
    monkeypatch.setattr(engine, "give_back", lambda: given.append(1))
    list(speculate(SuffixEngine(problem, memory_bytes=GIB), Order(), 0.02))
    assert given == []
    tight = SuffixEngine(problem, memory_bytes=least_bytes(problem))
    list(speculate(tight, Order(), 0.02))
    assert 1 < len(given) <= len(tight._descent)


@pytest.mark.parametrize("metric", ["kl", "logit_diff"])
def test_a_card_s_windows_and_tiles_take_the_same_decisions(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = synthetic.Shape(layers=3, heads=8, d_model=128, d_head=16, vocabulary=60_000)
    problem = build_problem(synthetic.make_model(shape), synthetic.make_prompts(shape, 16), metric=metric)
    found, engines, widths = [], [], []
    for sizes in (budget.CPU, budget.CARD):
        monkeypatch.setattr(budget, "sizes_for", lambda device, sizes=sizes: sizes)
        one, wide = SuffixEngine(problem), list[int]()
        window = one.window
        monkeypatch.setattr(one, "window", lambda edge, window=window, wide=wide: wide.append(window(edge)) or wide[-1])
        found.append([(d.edge, d.removed) for d in speculate(one, Order(), 0.004)])
        engines.append(one)
        widths.append(sorted(set(wide)))
    assert found[0] == found[1]
    assert widths[0][0] <= 6 < 30 < widths[1][0]
    plain, card = engines
    assert (plain.budget.tile, card.budget.tile) == (budget.TILE, budget.CARD.tile if metric == "kl" else budget.TILE)
    tight = SuffixEngine(problem, memory_bytes=least_bytes(problem))
    assert tight.budget.tile == budget.TILE  # where memory is short


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that any operator makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in self.known:
            self.numbers = max(self.numbers, made.untyped_storage().nbytes() // made.element_size())
        return made

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known


@pytest.mark.parametrize("metric", ["kl", "nll", "prob_diff", "logit_diff", "mse"])
def test_no_loss_holds_all_logits(metric: str) -> None:
    """So that a budget need not count them: the vocabulary goes by in tiles, whatever the metric."""
    shape = synthetic.Shape(layers=2, heads=4, d_model=64, d_head=16, vocabulary=60_000)
    model, prompts = synthetic.make_model(shape), synthetic.make_prompts(shape, 8)
    if metric == "prob_diff":
        prompts = replace(prompts, targets={"sign": torch.randint(-1, 2, (8, 60_000)).float()})
    if metric == "mse":
        prompts = replace(prompts, targets={"columns": torch.arange(5)})
    with torch.no_grad():
        problem = build_problem(model, prompts, metric=metric)
        losses = losses_for(problem)
        resid = problem.reference + 0.1 * torch.randn(64, *problem.reference.shape)
        kept = [x for x in vars(losses).values() if isinstance(x, torch.Tensor)]  # of the clean run
        known = {x.untyped_storage().data_ptr() for x in (model.W_U, resid, *kept)}
        with Largest(known) as largest:
            losses(resid)
    assert largest.numbers <= budget.TILE < 64 * 8 * 60_000


@pytest.mark.gpu
@pytest.mark.parametrize("heads", ["float32", "int8"])
def test_a_search_on_a_gpu_stays_below_its_ceiling(heads: str) -> None:
    shape = synthetic.Shape(layers=4, heads=8, d_model=256, d_head=32, vocabulary=50_000)
    prompts = synthetic.make_prompts(shape, 24)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model = synthetic.make_model(shape).to(device="cuda")
    policy = PrecisionConfig(name=heads, format=heads, scales="row")
    problem = build_problem(model, prompts, metric="kl", precision=policy, store="packed")
    found = []
    for ceiling in (least_bytes(problem), least_bytes(problem) + (1 << 28), None):
        engine = SuffixEngine(problem, memory_bytes=ceiling)
        found.append([(d.edge, d.removed) for d in speculate(engine, Order(), 0.02)])
        peak = torch.cuda.max_memory_allocated() - before
        assert peak <= (ceiling or reference_bytes(problem) + (1 << 29))
        del engine
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("metric", ["kl", "logit_diff", "nll"])
def test_prompts_drawn_often_take_no_more_than_their_copies_would(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that outnumber the rows they read: of KL each row is one, of the others each item counts for windows."""
    model = random_model("attention-only", dtype=torch.float32, d_model=512)
    prompts = random_prompts(model, batch=6)
    chosen = [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    copies, once = (
        build_problem(model, resample(prompts, chosen, copies=copies), metric=metric) for copies in (True, False)
    )
    made = [SuffixEngine(problem, memory_bytes=least_bytes(problem) + 60_000) for problem in (copies, once)]
    edge = next(edge for edge in range(len(copies.graph.edges)) if copies.graph.edges[edge].receiver.kind == "logits")
    widths, rows = [one.window(edge) for one in made], []
    for one in made:
        seen, finals = list[int](), one._finals

        def rows_seen(state, x, real=finals.at_items, seen=seen):
            found = real(state, x)
            seen.append(found.shape[-2])
            return found

        monkeypatch.setattr(finals, "at_items", rows_seen)
        list(speculate(one, Order(), 0.02))
        rows.append(set(seen))
    assert rows == [{12}, {3}]
    if metric == "kl":
        assert widths[0] < widths[1]
    else:
        assert 1 < widths[1] <= widths[0] < 64

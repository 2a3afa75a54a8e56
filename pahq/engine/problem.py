"""The ground that all engines stand on: a network under test, its prompts, its ablated values, its objective."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Graph, build_graph
from pahq.config.cell import CellConfig
from pahq.config.method import ROUND
from pahq.config.precision import PrecisionConfig
from pahq.engine.ablation import ablated_run, change_of, corrupted_parts, narrowed
from pahq.errors import PahqError, unknown
from pahq.model.finite import watch_run
from pahq.model.forward import (
    embeddings,
    final_stream,
    normalise,
    project,
    unembed,
)
from pahq.model.logs import clean_log_probabilities
from pahq.model.memory import frugal
from pahq.model.run import Fixed, Narrow, Run, run_senders, sender_outputs, streams
from pahq.model.sources.modelfile import ModelFile
from pahq.model.weights import Model, ModelConfig, Network
from pahq.precision.calibrated import grams
from pahq.precision.error import format_error
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import PrecisionStore, WeightStore
from pahq.precision.wide import KEPT_BYTES, WideStore, wide_network
from pahq.tasks.metrics import Objective, gather_items, objective
from pahq.tasks.task import Prompts, Task


@dataclass(frozen=True)
class Made:
    """How a problem was made; ``full`` is the full-precision network where the one under test is another."""

    metric: str
    ablation: str
    split_embed: bool
    full: Network | None


@dataclass(frozen=True)
class Problem:
    """A network under test on one prompt set: everything a search needs except its decisions.

    ``clean`` holds the embedding senders of the clean prompts; ``corrupted`` the run that absent edges take their
    values from, made once by ``store`` without a focus: with every head in its low format, if it has one.
    ``objective`` compares with the full-precision clean model, of which ``reference`` is the final residual stream
    where the metric reads.

    ``changes``: where only changes are in low precision (``method.arithmetic=changes``), the weights that these are
    multiplied with, by the focus of a trial; ``store`` then is the full-precision network, and the state's.
    ``round_size``: tests after which a search lets removals enter that state (``pahq.search.rounds``).
    """

    graph: Graph
    store: WeightStore
    prompts: Prompts
    objective: Objective
    reference: Float[Tensor, "item d_model"]
    focus: str
    clean: tuple[Float[Tensor, "batch pos d_model"], ...]
    corrupted: Run
    paired: bool  # whether absent edges carry what the network computes on the corrupted prompts as they are
    made: Made
    changes: WeightStore | None = None
    round_size: int | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights here: where changes are apart, of both stores."""
        if self.changes is None:
            return self.store.nbytes
        stores = (self.store, self.changes)
        wide = sum(store.own_nbytes for store in stores if isinstance(store, WideStore))
        full, low = (store.beneath if isinstance(store, WideStore) else store for store in stores)
        both = not isinstance(full, PrecisionStore)  # a plain store of low weights holds the full model as well
        return wide + low.nbytes + (full.nbytes if both else 0)

    @cached_property
    def format_error(self) -> float:
        """How far off the weights are that changes are multiplied with (``pahq.precision.error``); 1 without any."""
        return 1.0 if self.changes is None else format_error(self.store, self.changes)

    def measured_by(self, metric: str) -> Problem:
        """The same problem with another metric; itself, where it is measured by that one."""
        if metric == self.made.metric:
            return self
        logits = _clean_logits(self.made.full or self.store.network(), self.reference, metric)
        return replace(
            self,
            objective=objective(metric, self.prompts.targets, logits),
            made=replace(self.made, metric=metric),
        )

    def in_full_precision(self) -> Problem:
        """The same problem without low precision anywhere: that of ACDC. For problems with ``changes``."""
        return replace(self, changes=None, round_size=None, focus="none")

    def in_float64(self, kept_bytes: int = KEPT_BYTES) -> Problem:
        """The same problem in float64, the very same rounded weights in it; itself, if it is in float64 already.

        ``kept_bytes``: of widened weights that are kept; the others are widened whenever they are read.
        """
        return self if self.reference.dtype == torch.float64 else _in_float64(self, kept_bytes)

    @cached_property
    def corrupted_senders(self) -> Float[Tensor, "sender batch pos d_model"]:
        """Every sender's ablated output, d_model wide. Made on first use: the suffix engine never asks for it."""
        with _plainly(), frugal():  # one layer's outputs at a time
            return sender_outputs(self.store.network(), self.corrupted)

    @cached_property
    def corrupted_streams(self) -> tuple[list[Tensor], list[Tensor]]:
        """The ablated run's residual streams [batch, pos, d_model] that heads read, by layer, and that MLPs read."""
        with _plainly(), frugal():  # what each stream is added up from
            return streams(self.store.network(), self.corrupted)

    @cached_property
    def corrupted_projections(self) -> tuple[dict[str, Float[Tensor, "letter_head batch pos d_head"]], ...]:
        """By layer and letter, what a head whose Direct edge is gone projects. Made on first use."""
        model, inputs = self.store.network(), self.corrupted_streams[0]
        with _plainly(), frugal():  # copies of a matrix, which between values that stay would leave holes
            return tuple(
                {letter: project(model.config, layer, letter, inputs[i][None]) for letter in "qkv"}
                for i, layer in enumerate(model.layers)
            )

    def part(self, rows: slice) -> Problem:
        """The same network on some of the prompts; its objective still speaks of all of them."""
        prompts, run = self.prompts, self.corrupted
        chosen = range(len(prompts.clean))[rows]
        items = prompts.items[(prompts.items[:, 0] >= chosen.start) & (prompts.items[:, 0] < chosen.stop)]
        corrupted = run.map(lambda x: x[..., rows, :, :])
        return replace(
            self,
            prompts=Prompts(prompts.clean[rows], prompts.corrupted[rows], items - items.new_tensor([chosen.start, 0])),
            clean=tuple(x[rows] for x in self.clean),
            corrupted=corrupted,
        )

    def item_logits(self, final: Float[Tensor, "*trial batch pos d_model"]) -> Float[Tensor, "*trial item vocab"]:
        """Logits where the metric reads, from the final residual stream."""
        return self.logits_of(gather_items(final, self.prompts.items))

    def logits_of(self, rows: Float[Tensor, "*trial row d_model"]) -> Float[Tensor, "*trial row vocab"]:
        """Logits of final residual streams."""
        return unembed(self.store.ends, rows)


@contextmanager
def _plainly() -> Iterator[None]:
    """Without gradients; but what is kept can be read where there are gradients, even if an engine asked for it."""
    with torch.inference_mode(False), torch.no_grad():
        yield


STORES = ("plain", "packed")


def build_problem(
    model: Model | ModelFile,
    prompts: Prompts,
    *,
    metric: str,
    ablation: str = "corrupted",
    split_embed: bool = False,
    direct_edges: bool = True,
    precision: PrecisionConfig | None = None,
    focus: str = "none",
    store: str = "plain",
    schedule: str = "overlapped",
    arithmetic: str = "network",
    round_size: int = ROUND,
) -> Problem:
    """Set up a search on ``model`` (its dtype and device are the search's).

    ``ablation``: what absent edges carry. corrupted: the corrupted prompts' values. zero: those of a run in which every
    sender is zero, so a projection is W.norm(biases) + b, not zero. mean: the same with each sender at its mean over
    the corrupted prompts, position by position.
    ``precision.rounding=calibrated``: levels are chosen by what full precision computes on these very prompts.
    ``precision.cache``: absent edges carry 16-bit values; whatever the network itself computes is not rounded.
    ``store``: plain keeps the full-precision model and its rounded copy; packed keeps low-bit weights alone, and the
    full-precision ones in the model's file (a model that is loaded already goes into a temporary one), or where the
    search is on a GPU in pinned memory of the host. Both give the same numbers. ``schedule``: of a packed store, see
    ``SCHEDULES``. ``arithmetic``: what is in low precision, the whole network or the changes alone;
    ``round_size`` then is how many tests share a full-precision state. Raises PahqError when prompts and model do not
    fit each other.
    """
    if store not in STORES:
        raise unknown("store", store, STORES)
    _check_tokens(model.config, prompts)
    graph = build_graph(model.config.shape(split_embed=split_embed), direct_edges=direct_edges)
    policy = precision or PrecisionConfig(name="float32", format="float32")
    if store == "plain" and isinstance(model, ModelFile):
        model = model.load()
    full: Network = model.network() if isinstance(model, ModelFile) else model
    # before anything is packed: while a file is streamed, two layers of it are in memory
    with frugal():  # those layers, and the clean run's values
        reference = gather_items(final_stream(full, prompts.clean), prompts.items)
        if not torch.isfinite(reference).all():
            watch_run(full, embeddings(full, prompts.clean, split=True), "on the clean prompts, in full precision")
        clean_logits = _clean_logits(full, reference, metric)
    weights: WeightStore
    inputs = None
    if policy.rounding == "calibrated":
        parts = (embeddings(full, prompts.clean, split=True), corrupted_parts(full, prompts))
        inputs = grams(full, *parts, change_of(ablation))
    apart = arithmetic == "changes"
    if store == "packed":
        weights = PackedStore.build(model, policy, inputs, schedule=schedule, whole_master=apart)
    else:
        assert isinstance(model, Model)
        weights = PrecisionStore.build(model, policy, inputs)
    changes = weights if apart else None
    if apart:
        weights = weights.beside() if isinstance(weights, PackedStore) else PrecisionStore.of(weights.full)
    with frugal():  # the ablated run's temporaries
        corrupted = ablated_run(weights.network(), prompts, ablation, split_embed)
        if not torch.isfinite(corrupted.final).all():
            watch_run(weights.network(), corrupted_parts(weights.network(), prompts), "on the corrupted prompts")
        if policy.cache != "float32":
            corrupted = narrowed(weights.network(), corrupted, policy.cache)
    same = apart or {policy.format, policy.mlp, policy.compute} == {"float32"}
    if isinstance(weights, PackedStore) and isinstance(weights.master, ModelFile):
        full = weights.master.network()  # a model that was loaded is not kept alive for this
    return Problem(
        graph=graph,
        store=weights,
        prompts=prompts,
        objective=objective(metric, prompts.targets, clean_logits),
        reference=reference,
        focus=focus,
        clean=tuple(embeddings(weights.ends, prompts.clean, split=split_embed)),
        corrupted=corrupted,
        paired=ablation == "corrupted" and prompts.position_order is None and policy.cache == "float32",
        made=Made(metric, ablation, split_embed, None if same else full),
        changes=changes,
        round_size=round_size if apart else None,
    )


@torch.no_grad()
def _in_float64(problem: Problem, kept_bytes: int) -> Problem:
    """Every number computed anew in float64 but those that formats have rounded.

    One forward on the clean prompts, one or two on the corrupted ones.
    """
    if problem.changes is not None:
        kept_bytes //= 2  # two stores share it
    made, prompts, store = problem.made, problem.prompts, WideStore(problem.store, kept_bytes)
    network = store.network()
    if isinstance(problem.corrupted.z, Narrow):  # what 16 bits hold is given
        run = problem.corrupted
        start, z, mlp = (tuple(x.double() for x in part) for part in (run.start, run.z, run.mlp))
        corrupted = run_senders(network, start, fixed=Fixed(start, z, mlp))
    else:
        corrupted = ablated_run(network, prompts, made.ablation, made.split_embed)
    clean_network = network if made.full is None else wide_network(made.full)
    reference = gather_items(final_stream(clean_network, prompts.clean), prompts.items)
    return replace(
        problem,
        store=store,
        objective=objective(made.metric, prompts.targets, _clean_logits(network, reference, made.metric)),
        reference=reference,
        clean=tuple(embeddings(store.ends, prompts.clean, split=made.split_embed)),
        corrupted=corrupted,
        changes=None if problem.changes is None else WideStore(problem.changes, kept_bytes, store.ends),
    )


def _clean_logits(model: Network, reference: Float[Tensor, "item d_model"], metric: str) -> Float[Tensor, "item vocab"]:
    """What the objective compares with: logits, or for KL their log-probabilities, rounded once and last."""
    if metric != "kl":
        return unembed(model, reference)
    norm = [None if x is None else x.double() for x in (model.ln_final_w, model.ln_final_b)]
    return clean_log_probabilities(model, normalise(model.config, reference.double(), *norm))


def cell_problem(
    cell: CellConfig, model: Model | ModelFile, prompts: Prompts, *, store: str | None = None, full: bool = False
) -> Problem:
    """The search problem of a cell; ``full``: of the ACDC cell beside it, in full precision everywhere.

    ``store`` None: plain, or packed where codes are multiplied.
    """
    coded = cell.precision.kernel != "unpack" and not full
    return build_problem(
        model,
        prompts,
        metric=cell.task.metric,
        ablation=cell.task.ablation,
        split_embed=cell.task.split_embed,
        direct_edges=cell.method.direct_edges,
        precision=None if full else cell.precision,
        focus="none" if full else cell.method.focus,
        store=store or ("packed" if coded else "plain"),
        schedule=cell.engine.schedule,
        arithmetic="network" if full else cell.method.arithmetic,
        round_size=cell.method.round,
    )


def full_problem(cell: CellConfig, model: Model | ModelFile, prompts: Prompts, problem: Problem) -> Problem:
    """The problem of the ACDC cell beside a cell's ``problem``; where changes are apart, on the very same state."""
    return cell_problem(cell, model, prompts, full=True) if problem.changes is None else problem.in_full_precision()


def _check_tokens(config: ModelConfig, prompts: Prompts) -> None:
    config.check_length(prompts.clean.shape[1])
    for name, tokens in (("clean", prompts.clean), ("corrupted", prompts.corrupted)):
        bad = (tokens < 0) | (tokens >= config.d_vocab)
        if bad.any():
            row = int(bad.any(1).nonzero()[0])
            raise PahqError(f"{name} prompt {row} has a token outside the vocabulary of {config.d_vocab}")


def fresh_problem(cell: CellConfig, model: Model, task: Task) -> Problem:
    """What a cell's circuit is judged by: the task's fresh prompts and own metric, in full precision."""
    return build_problem(
        model,
        task.fresh,
        metric=task.metric,
        ablation=cell.task.ablation,
        split_embed=cell.task.split_embed,
        direct_edges=cell.method.direct_edges,
    )

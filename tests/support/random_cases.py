"""Random small searches of every kind, each drawn from one number, and the same search for the package and the oracle.

The package gets its own model, prompts and settings; the oracle gets arrays and plain numbers of them.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import torch

from pahq.circuits.order import Order
from pahq.config.cell import METRICS
from pahq.config.precision import SCALES, PrecisionConfig
from pahq.engine.problem import Problem, build_problem
from pahq.model.weights import Model
from pahq.tasks.task import Prompts
from support import turning
from support.numpy_oracle.circuit import Focus, Network
from support.numpy_oracle.formats import low_weights
from support.numpy_oracle.losses import loss
from support.numpy_oracle.network import Facts
from support.numpy_oracle.search import Rule, remembered
from support.small_models import FAMILIES, random_model, random_prompts

FORMATS = [(name, reach) for name, reaches in SCALES.items() for reach in reaches] + [("bf16", "row"), ("fp16", "row")]

ROTARY = ("gemma2", "gemma3", "llama", "olmo2", "parallel", "qwen")


@dataclass(frozen=True)
class Case:
    """One search. ``threshold``, or where that is None the ``share`` of what separates the empty circuit's loss from
    the full one's. ``faint``: how far tokens' embeddings lie apart; far below 1 corrupted prompts hardly differ."""

    seed: int
    family: str
    changes: tuple[tuple[str, object], ...]
    faint: float
    batch: int
    length: int
    every_item: bool
    same: int
    scrambled: bool
    metric: str
    ablation: str
    split: bool
    direct: bool
    method: str
    precision: PrecisionConfig
    focus: str
    order: Order
    absolute: bool
    threshold: float | None
    share: float

    def __str__(self) -> str:
        low = f"{self.precision.format}/{self.precision.scales}" if self.method != "acdc" else "float32"
        return f"case {self.seed}: {self.family} {self.metric} {self.ablation} {self.method} {low} focus={self.focus}"


def draw(seed: int) -> Case:
    """The case of that number."""
    rng = random.Random(seed)
    family = rng.choice(sorted(FAMILIES))
    changes: dict[str, object] = {"layers": rng.choice([1, 2, 2, 3]), "d_model": rng.choice([12, 16, 40])}
    if family in ("gpt2", "attention-only", "shortformer"):
        changes["heads"] = changes["kv_heads"] = rng.choice([1, 2, 3, 4])
    if family in ROTARY:
        changes["heads"], changes["kv_heads"] = rng.choice([(2, 1), (2, 2), (4, 1), (4, 2), (3, 3)])
    if family == "gpt2":
        changes["activation"] = rng.choice(["gelu_new", "gelu_new", "gelu", "relu"])
    learned = family not in ("shortformer", *ROTARY)
    method = rng.choice(["acdc", "acdc", "pahq", "pahq", "pahq", "rtn-q"])
    heads, reach = rng.choice(FORMATS) if method != "acdc" else ("float32", "row")
    mlp = rng.choice(["float32", "bf16", "fp16"]) if method != "acdc" else "float32"
    return Case(
        seed=seed,
        family=family,
        changes=tuple(changes.items()),
        faint=rng.choice([1, 1, 1, 1e-2, 1e-3]),
        batch=rng.choice([1, 2, 3]),
        length=rng.choice([2, 4, 5]),
        every_item=rng.random() < 0.4,
        same=rng.choice([0, 0, 1]),
        scrambled=learned and rng.random() < 0.3,
        metric=rng.choice(["kl", "kl", *METRICS]),
        ablation=rng.choice(["corrupted", "corrupted", "zero", "mean"]),
        split=learned and rng.random() < 0.5,
        direct=rng.random() < 0.7,
        method=method,
        precision=PrecisionConfig(name="low", format=heads, scales=reach, mlp=mlp),
        focus=rng.choice(["receiver", "receiver", "receiver", "sender", "both"]) if method == "pahq" else "none",
        order=Order(rng.choice(["descending", "ascending"]), rng.choice(["nearest", "farthest"])),
        absolute=rng.random() < 0.3,
        threshold=10 ** rng.uniform(-7, 0) if rng.random() < 0.4 else None,
        share=10 ** rng.uniform(-4, -0.5),
    )


class Both:
    """A case in both forms: problems of the package by dtype, and the oracle's network, loss and rule."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._model, self._prompts = model_of(case), prompts_of(case)
        self.network = oracle_network(case, self._model, self._prompts)
        items = self._prompts.items.numpy()
        targets = {name: value.numpy() for name, value in self._prompts.targets.items()}
        clean = self.network.clean_logits[items[:, 0], items[:, 1]]

        def measure(present: frozenset[str], focus: Focus) -> float:
            return loss(case.metric, self.network.logits(present, focus)[items[:, 0], items[:, 1]], clean, targets)

        self.loss = remembered(measure)
        self.logit_scale = float(np.abs(clean).max())
        threshold = case.threshold
        if threshold is None:
            everything = frozenset(self.network.edges)
            apart = abs(self.loss(frozenset(), frozenset()) - self.loss(everything, frozenset()))
            threshold = max(1e-7, float(f"{case.share * (apart or 1):.3g}"))
        self.rule = Rule(
            threshold, case.absolute, case.order.indices, case.order.senders == "nearest", focus=case.focus
        )

    def problem(self, dtype: torch.dtype) -> Problem:
        case = self.case
        return build_problem(
            self._model.to(dtype=dtype),
            self._prompts,
            metric=case.metric,
            ablation=case.ablation,
            split_embed=case.split,
            direct_edges=case.direct,
            precision=None if case.method == "acdc" else case.precision,
            focus=case.focus,
        )


def model_of(case: Case) -> Model:
    model = random_model(case.family, case.seed, dtype=torch.float64, **dict(case.changes))
    middle = model.W_E.mean(0)
    nearer = (middle + case.faint * (model.W_E - middle)).float().double()
    return replace(model, W_E=nearer, W_U=nearer.T if model.config.tied_embedding else model.W_U)


def prompts_of(case: Case) -> Prompts:
    model = random_model(case.family, case.seed, layers=1)  # of which prompts need the vocabulary alone
    prompts = random_prompts(
        model, case.seed, batch=case.batch, length=case.length, every_item=case.every_item, same=case.same
    )
    if not case.scrambled:
        return prompts
    order = torch.randperm(case.length, generator=torch.Generator().manual_seed(case.seed))
    return replace(prompts, position_order=order)


def facts_of(model: Model, *, split: bool, direct: bool) -> Facts:
    """What the oracle needs to know of a model, in plain numbers and words."""
    c, rope = model.config, turning.rope_of(model.config)
    dim = turning.turning(rope, c.d_head)
    half = range(dim // 2)
    return Facts(
        layers=c.layers,
        heads=c.heads,
        kv_heads=c.kv_heads,
        mlp=c.d_mlp > 0,
        split=split,
        direct=direct,
        norm=c.norm,
        eps=c.eps,
        activation=c.activation,
        gated=c.gated,
        positions=c.positions,
        speeds=tuple(turning.speed(rope, i, dim) for i in half),
        growth=turning.growth(rope),
        causal=c.causal,
        qk_norm=c.qk_norm,
        parallel=c.block == "parallel",
        coupled=c.post_norms,
        near=c.local_layers,
        near_speeds=tuple(
            turning.speed(turning.rope_of(c, layer), i, dim) for layer in c.local_layers[:1] for i in half
        ),
        embed_scale=c.embed_scale,
        score_scale=c.attention_scale,
        score_cap=c.score_cap or math.inf,
        logit_cap=c.logit_cap or math.inf,
        pre_norms=c.pre_norms,
        joint=c.qk_joint,
    )


def oracle_network(case: Case, model: Model, prompts: Prompts) -> Network:
    weights = {name: value.numpy().astype(np.float64) for name, value in model.tensors().items()}
    low = low_weights(weights, case.precision.format, case.precision.scales, case.precision.mlp)
    order = prompts.position_order
    return Network(
        facts_of(model, split=case.split, direct=case.direct),
        weights,
        low,
        prompts.clean.numpy(),
        prompts.corrupted.numpy(),
        ablation=case.ablation,
        order=None if order is None else order.numpy(),
    )

"""What a cell computes (CellConfig) and where it runs (RunConfig): frozen, validated, free of torch.

A cell's address is a function of its CellConfig alone, so the same cell has one folder however it was typed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from pahq.config.band import BANDS, BandConfig
from pahq.config.frozen import Frozen, Name
from pahq.config.method import CLEAN, FLAT, GRADIENTS, ROUND, SCORING, STEPPED, MethodConfig, countable
from pahq.config.modelnames import settled
from pahq.config.precision import PrecisionConfig
from pahq.config.presets import preset
from pahq.config.promptfile import cut, pairs_digest, read_pairs
from pahq.errors import PahqError
from pahq.sentences import no_mapping, one_sentence

Metric = Literal["kl", "logit_diff", "prob_diff", "margin", "nll", "mse"]
METRICS: tuple[str, ...] = get_args(Metric)
SIZE, THRESHOLD = 0.02, 0.01  # what is usual: a share of the edges of methods that score, the threshold of a search


class TaskConfig(Frozen):
    """Prompts and metric. ``kind`` names the builder in ``pahq.tasks``; ``metric`` what the search minimises.

    ``bos`` is the text of a token that stands before every prompt. ``positions`` is the length of an induction prompt
    in tokens, ``bos`` included. ``prompts`` is a file of kind ``own``: ``sha256`` (of the prompts as read) and, where
    it is not given, ``examples`` (how many pairs are searched on) come from it.
    """

    name: Name
    kind: str
    examples: PositiveInt
    metric: Metric
    ablation: Literal["corrupted", "zero", "mean"] = "corrupted"
    split_embed: bool = False
    bos: str | None = None
    positions: PositiveInt | None = None
    prompts: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _read_own(cls, values: Any) -> Any:
        """Fill in what only the prompt file can say; a configuration that was written down is complete already."""
        if not isinstance(values, dict):
            return values
        own, path = values.get("kind") == "own", values.get("prompts")
        if own != (path is not None):
            raise ValueError("task kind 'own' needs prompts=FILE (CSV or JSONL)" if own else "prompts needs kind 'own'")
        if not own:
            return values
        found = dict(values)
        try:
            if found.get("sha256") is None or found.get("examples") is None:
                pairs = read_pairs(Path(str(path)))
                found["sha256"] = found.get("sha256") or pairs_digest(pairs)
                found["examples"] = found.get("examples") or len(cut(pairs, None)[0])
        except PahqError as error:
            raise ValueError(str(error)) from None
        return found


class ModelChoice(Frozen):
    """``source``: an embedded model's name, a folder, or a hub name (then ``revision`` must be a commit)."""

    name: str
    source: str
    revision: str | None = None


class EngineConfig(Frozen):
    """``suffix`` computes what lies behind the tested edge; ``reference`` the whole patched forward. Same decisions.

    (With rounded operands, ``precision.compute``, in float64 alone.)

    ``schedule``: whether the next focus of PAHQ is brought in meanwhile, or when it is needed. ``doubts``: tests that
    float32 noise could decide are decided in float64, or left as they were measured.
    """

    name: Literal["suffix", "reference"] = "suffix"
    dtype: Literal["float32", "float64"] = "float32"
    schedule: Literal["overlapped", "serial"] = "overlapped"
    doubts: Literal["float64", "leave"] = "float64"


class CellConfig(Frozen):
    """One cell: task x model x method x precision x engine x threshold (or size) x seed.

    A search has a ``threshold``. Of scores a circuit is chosen by ``select``: the ``size`` highest (``top``: a number
    of edges, or a share), so many grown from the logits (``greedy``), or all from a ``threshold`` on.
    """

    task: TaskConfig
    model: ModelChoice
    method: MethodConfig
    precision: PrecisionConfig
    engine: EngineConfig = EngineConfig()
    threshold: float | None = None
    size: int | float | None = None
    select: Literal["top", "greedy", "threshold"] = "top"
    seed: int = Field(default=0, ge=0)
    audit: Literal["none", "float64", "band"] = "none"
    band: BandConfig = BandConfig()

    @field_validator("threshold")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"threshold must be a finite number of at least 0, got {value}")
        return value

    @field_validator("size", mode="before")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        return countable("size", value)

    @model_validator(mode="before")
    @classmethod
    def _settle_precision(cls, values: Any) -> Any:
        """``precision=auto``: float32 for ACDC, the recommended int8 (MLPs in bf16, as the paper) elsewhere.

        Settings of the band that are None are what is usual with the method's arithmetic. A name stands for the file of
        that name in ``conf/precision``.
        """
        if not isinstance(values, dict):
            return values
        values = _with_band(_with_size(values))
        if isinstance(values.get("precision"), str):
            values = values | {"precision": preset("precision", values["precision"])}
        precision, method = _mapping(values.get("precision")), _mapping(values.get("method"))
        if precision is None or method is None or precision.get("format", "auto") != "auto":
            return values
        settled = {"name": "float32", "format": "float32", "scales": "row", "mlp": "float32"}
        if method.get("name") not in ("acdc", *SCORING):
            settled = {"name": "int8", "format": "int8", "scales": "row", "mlp": "bf16"}
        kept = {key: value for key, value in precision.items() if key not in settled}
        return values | {"precision": settled | kept}

    @model_validator(mode="after")
    def _scores_fit(self) -> CellConfig:
        method, by_threshold = self.method, self.select == "threshold"
        if not method.scores:
            if self.size is not None or self.select != "top" or self.threshold is None:
                raise ValueError(f"method {method.name} has a threshold; size and select are of {', '.join(SCORING)}")
            if (method.steps, method.convention) != (5, "mean"):
                raise ValueError(f"method.steps and method.convention are of {', '.join(SCORING)}, not {method.name}")
            return self
        if (self.threshold is None) == by_threshold or (self.size is None) != by_threshold:
            asks = "a threshold and no size" if by_threshold else "a size and no threshold (or select=threshold)"
            raise ValueError(f"method {method.name} with select={self.select} has {asks}")
        if self.audit != "none":
            self._check_score_audit()
        idle = {
            "method.steps": method.steps != 5 and method.name not in STEPPED,
            "method.convention": method.convention != "mean" and method.name not in GRADIENTS,
            "method.order": method.order != "descending",
            "method.senders": method.senders != "nearest",
            "engine": self.engine.name != "suffix",
            "engine.doubts": self.engine.doubts != "float64",
            "engine.schedule": self.engine.schedule != "overlapped",
            "precision.kernel": self.precision.kernel != "unpack",
        }
        for name, typed in idle.items():
            if typed:
                raise ValueError(f"{name} says nothing to method {method.name}; leave it out")
        if method.name in CLEAN and self.task.metric in FLAT:
            raise ValueError(
                f"method {method.name} has no use for metric {self.task.metric}, "
                "whose gradient at the clean run is zero; take "
                "method=eap-ig, or a metric of the task, as task.metric=logit_diff"
            )
        if method.name == "edge-pruning" and by_threshold and method.training and method.training.target is None:
            raise ValueError(
                "method edge-pruning learns masks for a size; with select=threshold give it method.training.target"
            )
        if method.convention == "eap-ig" and method.direct_edges:
            raise ValueError("method.convention=eap-ig has no Direct edges (method.direct_edges=false)")
        return self

    def _check_score_audit(self) -> None:
        name = self.method.name
        if name != "exact" or self.audit != "band":
            raise ValueError(f"audit={self.audit} is for the tests of a search; method {name} has none")
        if self.precision.is_full:
            raise ValueError("audit=band scores edges again in full precision, and that is what is asked for")
        if self.select != "top":
            raise ValueError(f"audit=band looks at the highest scores of a size; select={self.select} takes others")
        if self.band != BANDS[self.method.arithmetic]:
            raise ValueError("the settings band.* are for the audit of a search; that of scores has none")

    @model_validator(mode="after")
    def _method_fits(self) -> CellConfig:
        method, precision = self.method, self.precision
        if method.name == "acdc" and not precision.is_full:
            raise ValueError(f"method acdc is full precision; use rtn-q or pahq with precision {precision.name!r}")
        if method.focus not in method.focuses:
            raise ValueError(f"method {method.name} cannot have focus {method.focus!r}")
        if method.arithmetic == "changes" and method.name not in ("pahq", "rtn-q"):
            raise ValueError(f"arithmetic=changes is for low precision (method pahq or rtn-q); {method.name} has none")
        if method.arithmetic == "changes" and precision.cache != "float32":
            raise ValueError(
                f"arithmetic=changes keeps its state in full precision, so precision.cache cannot be {precision.cache}"
            )
        if method.arithmetic == "network" and method.round != ROUND:
            raise ValueError("method.round is for arithmetic=changes; elsewhere removals do not wait")
        if precision.kernel == "fused" and self.engine.dtype != "float32":
            raise ValueError(f"kernel=fused multiplies float32, not engine.dtype={self.engine.dtype}")
        if precision.kernel == "fused" and self.audit == "float64":
            raise ValueError("kernel=fused multiplies float32, so audit=float64 has nothing to measure with")
        if self.engine.schedule == "serial" and method.focus == "none":
            raise ValueError(f"engine.schedule is for method pahq; {method.name} has no head in focus to bring in")
        if self.audit == "band" and method.name == "acdc":
            raise ValueError("audit=band decides again in full precision, and method acdc is full precision already")
        if self.audit != "band" and self.band != BANDS[method.arithmetic]:
            raise ValueError("the settings band.* belong to audit=band")
        if self.engine.name == "suffix" and method.focus in ("sender", "both"):
            raise ValueError(
                f"engine suffix has no focus {method.focus!r}; known: none, receiver (or engine=reference)"
            )
        return self

    @property
    def search_threshold(self) -> float:
        """The threshold, where there has to be one: of a search."""
        assert self.threshold is not None
        return self.threshold

    @property
    def digest(self) -> str:
        """16 hex digits of the sha256 of everything that decides the result."""
        values = self.model_dump(mode="json")
        values["task"].pop("prompts", None)  # where a file lies decides nothing: its sha256 does
        if self.method.arithmetic == "network":  # cells that were named before there was another keep their names
            del values["method"]["arithmetic"], values["method"]["round"]
        if self.method.training is None:  # likewise
            del values["method"]["training"]
        if not self.method.scores:  # likewise
            del values["method"]["steps"], values["method"]["convention"], values["size"], values["select"]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def id(self) -> str:
        """``<task>/<method>-<precision>-t<threshold>-<digest>`` (or ``-n<size>-``): its folder below ``cells/``."""
        cut = f"n{self.size:g}" if self.threshold is None else f"t{self.threshold:g}"
        return f"{self.task.name}/{self.method.label}-{self.precision.name}-{cut}-{self.digest}"


class RunConfig(Frozen):
    """Where and how loudly, never what."""

    root: str = "results"
    device: str = "cpu"
    threads: PositiveInt = 1
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    experiment: str = "adhoc"
    progress: bool = True
    plan: str | None = None  # file that lists all cells of the run, one a line: how many are left is told of these
    store: Literal["auto", "plain", "packed"] = "auto"  # packed: low bits held as such; auto: where there are any
    memory_gb: float | None = Field(
        default=None, gt=0, allow_inf_nan=False
    )  # ceiling of a search; None: as much as is fast
    repair: bool = False  # a finished cell of which a byte has changed is set aside and computed anew
    lock: bool = True  # a cell's folder, for the process that computes it; False for file systems without locks

    @field_validator("root")
    @classmethod
    def _can_be_a_folder(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a folder was expected, not an empty name")
        if "\0" in value:
            raise ValueError("a folder was expected, and no name of one has a null character")
        nearest = next((place for place in (value, *map(str, Path(value).parents)) if os.path.lexists(place)), ".")
        if not os.path.isdir(nearest):
            raise ValueError(f"{nearest} is no folder; one was expected, or a name that is free")
        return value


def parse_config(composed: dict[str, Any], typed: Container[str] = ()) -> tuple[CellConfig, RunConfig]:
    """Split a composed configuration into its two halves; PahqError in one sentence if anything is off.

    ``typed``: the keys that were typed, which decide what the cell records of its model (``modelnames.settled``).
    """
    if not isinstance(composed, Mapping):
        raise PahqError(f"a configuration is a mapping from keys to values, not {type(composed).__name__}")
    values = {str(key): value for key, value in composed.items()}
    if isinstance(values.get("model"), Mapping):
        values["model"] = settled(values["model"], typed)
    run = values.pop("run", None) or {}
    if not isinstance(run, Mapping):
        raise PahqError(no_mapping("run", run, RunConfig.model_fields))
    focus, method = values.pop("focus", None), values.get("method")
    if focus is not None and isinstance(method, Mapping):
        values["method"] = {**method, "focus": focus}
    if "wandb" in values:
        run = {**run, "wandb": values.pop("wandb")}
    _check_auto(values.get("precision"), typed)
    try:
        cell = CellConfig(**values)
    except ValidationError as error:
        raise PahqError(one_sentence(error, CellConfig, also=("run", "wandb", "focus"))) from None
    try:
        return cell, RunConfig(**{str(key): value for key, value in run.items()})
    except ValidationError as error:
        raise PahqError(one_sentence(error, RunConfig, prefix="run.")) from None


def _check_auto(precision: Any, typed: Container[str]) -> None:
    """Raise PahqError for a typed setting of ``precision=auto`` that the method's own would take the place of."""
    if isinstance(precision, Mapping) and precision.get("format", "auto") == "auto":
        for key in ("precision.name", "precision.scales", "precision.mlp"):
            if key in typed:
                raise PahqError(
                    f"{key} says nothing to precision=auto, which the method settles; name one, say precision=int8"
                )


def _with_band(values: dict[str, Any]) -> dict[str, Any]:
    """A cell's values with its band complete; unchanged where either is not what it should be."""
    method, band = _mapping(values.get("method")), _mapping(values.get("band", {}))
    arithmetic = (method or {}).get("arithmetic", "network")
    usual = BANDS.get(arithmetic) if isinstance(arithmetic, str) else None
    if method is None or band is None or usual is None:
        return values
    return values | {"band": usual.model_dump() | {key: value for key, value in band.items() if value is not None}}


def _with_size(values: dict[str, Any]) -> dict[str, Any]:
    """A cell's values with the usual size or threshold where neither is given."""
    method = _mapping(values.get("method")) or {}
    if values.get("threshold") is not None or values.get("size") is not None:
        return values
    if method.get("name") in SCORING:
        return values if values.get("select") == "threshold" else values | {"size": SIZE}
    return values | {"threshold": THRESHOLD}


def _mapping(value: Any) -> dict[str, Any] | None:
    """A part of a configuration as a mapping, be it one already or a validated value; None if it is neither."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    return value if isinstance(value, dict) else None

"""Recorded runs of the original ACDC code, read into this project's terms.

Two formats: one run with its weights and tokens (config.json, tensors.safetensors, result.json), and the sweeps
recorded on a compiled Tracr program (config.json, tensors.safetensors, acdc_runs.json). Recorded scores are read in
``pahq.verify.recordedscores``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pahq.circuits.graph import Graph
from pahq.circuits.order import Order
from pahq.errors import PahqError, unknown
from pahq.files.text import read_json
from pahq.model.sources.assembly import model_from_tensors
from pahq.model.sources.transformerlens import fill_norms, model_config
from pahq.model.weights import Model, ModelConfig
from pahq.sentences import one_sentence
from pahq.tasks.task import Prompts, last_items
from pahq.tasks.tracr import POSITION_SEED


@dataclass(frozen=True)
class RecordedTest:
    """One recorded test; ``edge`` by this project's name."""

    edge: str
    effect: float
    kept: bool


@dataclass(frozen=True)
class RecordedRun:
    """A search as it was recorded, and everything needed to run it again."""

    name: str
    model: Model
    prompts: Prompts
    metric: str
    ablation: str
    split_embed: bool
    direct_edges: bool
    order: Order
    threshold: float
    absolute: bool
    tests: tuple[RecordedTest, ...]


def read_recorded(folder: Path) -> list[RecordedRun]:
    """The runs recorded in a folder; PahqError in one sentence if it is no such folder."""
    with told(folder):
        model, tensors = read_tensors(folder)
        if (folder / "acdc_runs.json").exists():
            return _tracr_runs(folder.name, read_json(folder / "acdc_runs.json"), model, tensors)
        return [_single_run(folder.name, read_json(folder / "result.json"), model, tensors)]


def read_tensors(folder: Path) -> tuple[Model, dict[str, Tensor]]:
    """The model of a recorded folder, and all of its tensors by name; to be called within ``told``."""
    config = read_json(folder / "config.json")
    path = folder / "tensors.safetensors"
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise PahqError(f"{path} is missing or not a safetensors file: {error}") from None
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    return model_from_tensors(model_config(config), fill_norms(config, weights)), tensors


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Whatever is wrong with a recorded folder becomes a PahqError in one sentence."""
    if not folder.is_dir():
        raise PahqError(f"{folder} is not a folder")
    try:
        yield
    except PahqError:
        raise
    except KeyError as error:
        raise PahqError(f"{folder} lacks the entry {error} that a recorded run has") from None
    except ValidationError as error:
        raise PahqError(f"{folder / 'config.json'} describes no model: {one_sentence(error, ModelConfig)}") from None
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise PahqError(f"{folder} is not a readable recorded run: {' '.join(str(error).split())}") from None


def _single_run(name: str, result: Mapping[str, Any], model: Model, tensors: Mapping[str, Tensor]) -> RecordedRun:
    described = str(result.get("metric", "KL, last position"))
    if "kl" not in described.lower() or "last" not in described.lower():
        raise PahqError(f"{name} records the metric {described!r}; known: KL at the last position")
    clean, corrupted = read_tokens(tensors, "clean"), read_tokens(tensors, "corrupted")
    tests = tuple(
        RecordedTest(edge_name(test["sender"], test["receiver"]), float(test["effect"]), bool(test["kept"]))
        for test in result["tests"]
    )
    split = bool(result.get("use_pos_embed", False))
    return RecordedRun(
        name=name,
        model=model,
        prompts=Prompts(clean, corrupted, last_items(*clean.shape)),
        metric="kl",
        ablation="zero" if result.get("zero_ablation", False) else "corrupted",
        split_embed=split,
        direct_edges=any(test.get("type") == "DIRECT_COMPUTATION" for test in result["tests"]),
        order=_order(result),
        threshold=float(result["threshold"]),
        absolute=bool(result.get("abs_value_threshold", False)),
        tests=tests,
    )


def _tracr_runs(
    name: str, recorded: Mapping[str, Any], model: Model, tensors: Mapping[str, Tensor]
) -> list[RecordedRun]:
    clean = read_tokens(tensors, "validation")
    batch, length = clean.shape
    items = torch.cartesian_prod(torch.arange(batch), torch.arange(1, length))
    targets = {"columns": torch.tensor([0])} if "output 0 only" in recorded["metric"] else {}
    generator = torch.Generator().manual_seed(POSITION_SEED)
    order = torch.randperm(length, generator=generator)
    prompts = Prompts(clean, read_tokens(tensors, "validation_patch"), items, targets, position_order=order)
    runs = []
    for run in recorded["runs"]:
        threshold = float(run["threshold"])
        tests = tuple(
            RecordedTest(
                edge_name(test["sender"], test["receiver"]),
                test["new_metric"] - test["old_metric"],
                not test["new_metric"] - test["old_metric"] < threshold,
            )
            for test in run["tests"]
        )
        ablation = "zero" if run["zero_ablation"] else "corrupted"
        runs.append(
            RecordedRun(
                name=f"{name} {ablation} {threshold:g}",
                model=model,
                prompts=replace(prompts, position_order=None) if ablation == "zero" else prompts,
                metric="mse",
                ablation=ablation,
                split_embed=True,
                direct_edges=True,
                order=_order(recorded),
                threshold=threshold,
                absolute=False,
                tests=tests,
            )
        )
    return runs


def read_tokens(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    tokens = tensors[f"tokens.{name}"]
    if tokens.dim() != 2 or tokens.dtype not in (torch.int64, torch.int32):
        raise PahqError(f"tokens.{name} must be whole numbers [batch, pos], got {tokens.dtype} {list(tokens.shape)}")
    return tokens.long()


def _order(recorded: Mapping[str, Any]) -> Order:
    within = {"normal": "descending", "reverse": "ascending"}
    senders = {"normal": "nearest", "reverse": "farthest"}
    indices, names = recorded.get("indices_mode", "normal"), recorded.get("names_mode", "normal")
    if indices not in within:
        raise unknown("indices_mode", indices, within)
    if names not in senders:
        raise unknown("names_mode", names, senders)
    return Order(within[indices], senders[names])


def edge_name(sender: str, receiver: str) -> str:
    """An edge's name here from the recorded names (a1.2, m0, resid_pre0; a1.2.q_input, a1.2.q, m0.in, logits)."""
    head = re.fullmatch(r"a(\d+)\.(\d+)\.([qkv])(_input)?", receiver)
    target = f"a{head[1]}.h{head[2]}<{head[3]}>" if head else receiver.removesuffix(".in")
    if re.fullmatch(r"a\d+\.\d+\.[qkv]_input", sender):
        return target
    source = re.fullmatch(r"a(\d+)\.(\d+)", sender)
    if source:
        return f"a{source[1]}.h{source[2]}->{target}"
    if sender.startswith("resid_pre") or sender == "embed":
        return f"embed->{target}"
    return f"{'pos' if sender.startswith('pos') else sender}->{target}"


def check_edges(run: RecordedRun, graph: Graph) -> None:
    """Raise PahqError if the run tested an edge that the graph lacks."""
    for test in run.tests:
        graph.index_of(test.edge)

"""Whether a prompt set can be searched on at all, checked before any forward pass, however the set was made."""

from __future__ import annotations

import torch
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.weights import ModelConfig
from pahq.tasks.metrics import objective
from pahq.tasks.task import Prompts


def check_prompts(config: ModelConfig, prompts: Prompts, *, metric: str, ablation: str) -> None:
    """Raise PahqError, naming the prompt, where items, targets, metric and ablation do not fit the model or each other.

    Refused are ids that the model lacks, an answer that is the wrong answer too (metric logit_diff), and a corrupted
    prompt that is its clean one where absent edges carry its values: it tells nothing apart.
    """
    batch, length = prompts.clean.shape
    config.check_length(length)
    for name in ("clean", "corrupted"):
        if getattr(prompts, name).dtype != torch.int64:
            raise PahqError(f"{name} prompts must be token ids as int64, not {getattr(prompts, name).dtype}")
        _check_range(getattr(prompts, name), config.d_vocab, f"{name} prompt", config)
    items = prompts.items
    if not isinstance(items, Tensor) or items.dtype != torch.int64 or items.dim() != 2 or items.shape[1:] != (2,):
        raise PahqError("items must be an int64 tensor of rows (prompt, position)")
    if not len(items) or (items < 0).any() or (items >= items.new_tensor([batch, length])).any():
        raise PahqError(f"items must be one row (prompt, position) or more within {batch} prompts of {length} tokens")
    _check_targets(config, prompts)
    objective(metric, prompts.targets, torch.zeros(1, config.d_vocab_out))  # the metrics' own table: what each needs
    if metric == "logit_diff":
        check_answers_differ(prompts)
    order = prompts.position_order
    if order is not None and sorted(order.tolist()) != list(range(length)):
        raise PahqError(f"position_order must be a permutation of the {length} positions, not {order.tolist()}")
    if ablation == "corrupted" and order is None:
        same = (prompts.clean == prompts.corrupted.to(prompts.clean.device)).all(1).nonzero().flatten()
        if len(same):
            raise PahqError(
                f"the clean and the corrupted prompt {int(same[0])} are the same tokens, so no edge could matter; "
                "another corrupted prompt was expected, or ablation zero or mean"
            )


def check_answers_differ(prompts: Prompts) -> None:
    """Raise PahqError naming the first prompt whose answer is its wrong answer too."""
    targets = prompts.targets
    if not {"answer", "wrong"} <= set(targets):
        return
    same = (targets["answer"] == targets["wrong"].to(targets["answer"].device)).nonzero().flatten()
    if len(same):
        prompt, token = int(prompts.items[same[0], 0]), int(targets["answer"][same[0]])
        raise PahqError(f"answer and wrong of prompt {prompt} are the same token ({token}); they must differ")


def _check_targets(config: ModelConfig, prompts: Prompts) -> None:
    count = len(prompts.items)
    for name, value in prompts.targets.items():
        if not isinstance(value, Tensor):
            raise PahqError(f"target {name} must be a tensor, not {type(value).__name__}")
        if value.dim() == 0:
            raise PahqError(f"target {name} is a single number; one row for each of {count} items was expected")
        if name != "columns" and len(value) != count:
            raise PahqError(f"target {name} has {len(value)} rows for {count} items; one each was expected")
        if name == "sign":
            if value.shape[1:] != (config.d_vocab_out,):
                raise PahqError(f"target sign has shape {list(value.shape)}, not {[count, config.d_vocab_out]}")
        elif name in ("answer", "wrong", "choices", "columns"):
            if value.dtype != torch.int64 or value.dim() != (2 if name == "choices" else 1):
                raise PahqError(f"target {name} must hold token ids as int64, not {value.dtype} {list(value.shape)}")
            _check_range(value, config.d_vocab_out, f"{name} of item", config)


def _check_range(tokens: Tensor, size: int, place: str, config: ModelConfig) -> None:
    bad = ((tokens < 0) | (tokens >= size)).nonzero()
    if len(bad):
        at = tuple(bad[0].tolist())
        raise PahqError(
            f"{place} {at[0]} has token {int(tokens[at])}; model {config.name!r} has tokens 0 to {size - 1}"
        )

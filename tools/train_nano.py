"""Trains the embedded model ``nano``: 4 layers, 8 heads, word level, the four language tasks at once.

    python tools/train_nano.py --out pahq/data/models/nano        (or: make nano)

Deterministic: fixed seeds, fixed threads, torch's deterministic algorithms; the same machine and torch give the same
bits. A command, never a path that a search takes. Prompts come from the tasks' own generators, in more variations than
the tasks use (both name orders, other openings and verbs, other centuries), so that no answer is a matter of position.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from pahq.config.cell import TaskConfig
from pahq.files.text import read_json, write_json
from pahq.model.forward import logits
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.sources.find import save_model
from pahq.model.sources.tensorfile import file_digest
from pahq.model.weights import Model, ModelConfig
from pahq.tasks import build_task, docstring, greaterthan, induction, ioi
from pahq.tasks.metrics import gather_items
from pahq.tasks.words import (
    ARGUMENTS,
    DESCRIPTIONS,
    FUNCTIONS,
    NAMES,
    NOUNS,
    NUMBERS,
    OBJECTS,
    OPENINGS,
    PLACES,
    VERBS,
    VOCABULARY,
)

log = logging.getLogger("train_nano")

TASKS = ("ioi", "greaterthan", "docstring", "induction")
SEED = 20261124
THREADS = 1  # two that wait for each other beside a busy neighbour are many times slower
# Seeds of the prompts that accuracy is measured on; training draws from generators of its own.
HELD_OUT = 9_000

Row = tuple[tuple[str, ...], tuple[tuple[int, str], ...]]  # words; (position, word that must follow)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    steps: int = 4500
    batch: int = 32  # prompts of each task in a step
    rate: float = 2e-3
    warmup: int = 200
    decay: float = 0.05
    seed: int = SEED


def nano_config() -> ModelConfig:
    """The architecture: GPT-2-like, d_model 128."""
    size = len(VOCABULARY)
    return ModelConfig(
        name="nano",
        layers=4,
        heads=8,
        kv_heads=8,
        d_model=128,
        d_head=16,
        d_mlp=512,
        d_vocab=size,
        d_vocab_out=size,
        context=48,
        norm="layer",
        activation="gelu_new",
    )


def initial_tensors(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """GPT-2's initialisation: normal 0.02, outputs scaled by depth, norms at one."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        values = 0.02 * torch.randn(shape, generator=generator)
        if name.endswith(("W_O", "W_out")):
            values /= math.sqrt(2 * config.layers)
        if name.endswith(".w"):
            values = torch.ones(shape)
        elif ".b" in name:
            values = torch.zeros(shape)
        elif "embed.W" in name and "un" not in name:
            values *= 2.5  # tokens must be told apart from the start, or attention learns late
        tensors[name] = values
    return tensors


def ioi_row(rng: Random) -> Row:
    first, second = rng.sample(NAMES, 2)
    giver, answer = rng.choice([(first, second), (second, first)])
    place, thing = rng.choice(PLACES), rng.choice(OBJECTS)
    words = ioi.sentence(first, second, giver, place, thing, opening=rng.choice(OPENINGS), verb=rng.choice(VERBS))
    return words, ((len(words) - 1, answer),)


def greaterthan_row(rng: Random) -> Row:
    year, century = rng.randint(1, greaterthan.LAST_YEAR), rng.randint(11, 19)
    words = greaterthan.sentence(rng.choice(NOUNS), year, century=century)
    return words, ((len(words) - 1, NUMBERS[rng.randint(year + 1, 99)]),)


def docstring_row(rng: Random) -> Row:
    """Other numbers of arguments, other ones documented, longer and shorter summaries: no answer has a fixed place."""
    arguments = rng.sample(ARGUMENTS, rng.randint(4, 7))
    count = rng.randint(1, 3)
    first = rng.randint(0, len(arguments) - count - 1)
    documented = [(name, rng.sample(DESCRIPTIONS, 2)) for name in arguments[first : first + count]]
    summary = rng.sample(DESCRIPTIONS, rng.randint(2, 4))
    words = docstring.sentence(rng.choice(FUNCTIONS), arguments, summary, documented)
    places = [at for at, word in enumerate(words) if word == ":param"]
    return words, tuple((at, arguments[first + i]) for i, at in enumerate(places) if i > 0)


def induction_row(rng: Random) -> Row:
    example = induction.draw(rng)
    return example.clean, tuple((at, example.clean[at + 1]) for at in induction.predictable(example.period))


ROWS: dict[str, Callable[[Random], Row]] = {
    "ioi": ioi_row,
    "greaterthan": greaterthan_row,
    "docstring": docstring_row,
    "induction": induction_row,
}


def batch_loss(model: Model, rows: Sequence[Row]) -> Tensor:
    """Mean negative log-likelihood, in nats, of the words that must follow."""
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    longest = max(len(words) for words, _ in rows)  # the model is causal: what pads a row on the right is never read
    tokens = torch.tensor([[ids[word] for word in words] + [0] * (longest - len(words)) for words, _ in rows])
    items = torch.tensor([(i, at) for i, (_, answers) in enumerate(rows) for at, _ in answers])
    answers = torch.tensor([ids[word] for _, pairs in rows for _, word in pairs])
    return torch.nn.functional.cross_entropy(gather_items(logits(model, tokens), items), answers)


def accuracy(model: Model, examples: int = 100, seed: int = HELD_OUT) -> dict[str, float]:
    """Share of right answers on fresh prompts of each task.

    Right is the answer as the most likely word; for greater-than any later year as the most likely word and more
    probability on the later years than on the others by one half at least.
    """
    result = {}
    for kind in TASKS:
        task = build_task(TaskConfig(name=f"nano-{kind}", kind=kind, examples=examples, metric="kl"), model, seed)
        with torch.no_grad():
            at = gather_items(logits(model, task.fresh.clean), task.fresh.items)
        best = at.argmax(-1)
        if kind == "greaterthan":
            sign = task.fresh.targets["sign"]
            right = (sign.gather(1, best[:, None])[:, 0] > 0) & ((at.softmax(-1) * sign).sum(-1) > 0.5)
        else:
            right = best == task.fresh.targets["answer"]
        result[kind] = float(right.float().mean())
    return result


def train(recipe: Recipe, *, report: Callable[[int, float, Model], bool] = lambda step, loss, model: False) -> Model:
    """Train from the recipe; ``report`` is called every 200 steps and ends training by returning True."""
    torch.use_deterministic_algorithms(True)
    config = nano_config()
    tensors = {name: value.requires_grad_() for name, value in initial_tensors(config, recipe.seed).items()}
    model = model_from_tensors(config, tensors, vocabulary=VOCABULARY)
    decayed = [value for name, value in tensors.items() if ".W_" in name and "embed" not in name]
    kept = [value for name, value in tensors.items() if not (".W_" in name and "embed" not in name)]
    groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": kept, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
    rng = Random(recipe.seed)
    for step in range(recipe.steps):
        scale = min(1.0, (step + 1) / recipe.warmup)
        scale *= min(1.0, 0.02 + 5 * (recipe.steps - step) / recipe.steps)  # the last fifth comes down to a fiftieth
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * scale
        losses = [batch_loss(model, [draw(rng) for _ in range(recipe.batch)]) for draw in ROWS.values()]
        loss = torch.stack(losses).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tensors.values(), 1.0)
        optimiser.step()
        if (step + 1) % 200 == 0 and report(step + 1, float(loss.detach()), model):
            break
    return model.map(lambda value: value.detach().clone())


def state_checksums(folder: Path) -> None:
    """Bring the checksums.json beside a model's folder, where there is one, up to date with the folder's files."""
    table = folder.parent / "checksums.json"
    if table.exists():
        sums = {f"{folder.name}/{path.name}": file_digest([path]) for path in folder.glob("[!.]*")}
        write_json(table, dict(sorted((read_json(table) | sums).items())))


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, save; exit status 1 if a task stays below 95%."""
    parser = argparse.ArgumentParser(
        prog="python tools/train_nano.py", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(THREADS)
    recipe, start = replace(Recipe(), steps=options.steps), time.perf_counter()

    def report(step: int, loss: float, model: Model) -> bool:
        shares = " ".join(f"{kind} {share:.3f}" for kind, share in accuracy(model).items())
        log.info("step %d of %d, %.0f s, loss %.4f, %s", step, recipe.steps, time.perf_counter() - start, loss, shares)
        return False

    model = train(recipe, report=report)
    shares = accuracy(model, examples=200)
    save_model(model, options.out)
    facts = {
        "seed": recipe.seed,
        "steps": recipe.steps,
        "batch_per_task": recipe.batch,
        "seconds": round(time.perf_counter() - start, 1),
        "threads": THREADS,
        "torch": torch.__version__,
        "accuracy": shares,
    }
    write_json(options.out / "training.json", facts)
    state_checksums(options.out)
    log.info("%s", json.dumps(facts))
    return 0 if min(shares.values()) >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())

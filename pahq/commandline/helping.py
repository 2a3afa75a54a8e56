"""What help says of a cell's words: groups with their names, keys, Hydra's options, and experiments. No torch."""

from __future__ import annotations

import textwrap

from pahq.config.presets import GROUPS, options

Section = tuple[str, list[tuple[str, str]]]  # a title, and words with what they mean
KEYS = (
    ("threshold, seed", "of the search"),
    (
        "size, select",
        "of methods that score edges: how many edges; the highest scores (top) or grown from the logits (greedy); or "
        "with select=threshold all scores from a threshold on",
    ),
    ("focus", "of method=pahq: receiver, or with engine=reference sender or both"),
    (
        "method.arithmetic",
        "low precision for the network, or (method=pahq-changes) for the changes that tests make alone",
    ),
    (
        "audit",
        "none; float64: tests near float noise again; band: tests near the threshold in full precision",
    ),
    ("wandb", "auto, online, offline or disabled"),
)
HYDRA = (
    ("--cfg job", "print the composed configuration, and run nothing"),
    ("--info", "what Hydra knows of its own set-up"),
    ("--config-dir DIR", "a further folder of configuration files"),
    ("hydra/launcher=NAME, hydra.*", "settings of Hydra's own"),
)


def sections() -> list[Section]:
    """Of the configuration folder as it stands."""
    from pahq.config.cell import RunConfig

    where = ", ".join(name for name in RunConfig.model_fields if name != "wandb")
    return [
        ("Groups (GROUP=NAME)", [(group, ", ".join(options(group))) for group in GROUPS]),
        ("Keys (KEY=VALUE; single settings too, as task.examples=8)", [*KEYS, ("run.*", where)]),
        ("Hydra's options", list(HYDRA)),
        ("Experiments (snakemake --config experiment=NAME)", [("", ", ".join(options("experiment")))]),
    ]


def in_columns(rows: list[tuple[str, str]], width: int) -> str:
    """Words on the left and what they mean on the right, wrapped between words; names with hyphens stay whole."""
    left = max(len(word) for word, _ in rows) + 4 * any(word for word, _ in rows)
    text = ""
    for word, meaning in rows:
        first, *more = textwrap.wrap(meaning, width - left, break_on_hyphens=False, break_long_words=False)
        text += f"  {word:<{left - 2}}{first}\n" if left > 2 else f"  {first}\n"
        text += "".join(f"{'':<{max(left, 2)}}{line}\n" for line in more)
    return text

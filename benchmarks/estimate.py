"""What searches of larger models would take, by arithmetic from measured rates. Nothing here was run.

    python benchmarks/estimate.py --results benchmarks/results --json FILE

From the records of ``engine.py`` come, at each density: the share of edges that are tested, the products of one test as
a share of a whole forward (unembedding apart, which KL needs once per test), and the time over what these products
would take in one large matrix product. All three are taken to hold for larger models, which is an assumption. GPT-2
small is put through the same arithmetic, to be compared with what was measured. The last column divides the products
alone by a card's float32 rate: a bound from below, since small products there are bound by launches and memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from output import publish

from pahq.circuits.graph import ModelShape, build_graph

PROMPTS, POSITIONS = 16, 15
RECORDS = {  # density and metric
    ("sparse", "kl"): "sparse",
    ("medium", "kl"): "medium",
    ("sparse", "logit_diff"): "sparse-50257-logit_diff",
}
# GPT-2 small's attention projections of 1,500 rows, 85 GFLOP, took 1.3 ms in float32 on an H100.
H100_RATE = 12 * 4 * 768**2 * 2 * 1500 / 1.3e-3


@dataclass(frozen=True)
class Size:
    """A model's sizes; ``gated`` MLPs have three matrices."""

    layers: int
    heads: int
    kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    vocabulary: int
    gated: bool = False

    @property
    def body(self) -> int:
        """Weights between embedding and unembedding."""
        attention = self.d_model * self.d_head * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + self.d_model * self.d_mlp * (3 if self.gated else 2))

    @property
    def edges(self) -> int:
        return len(build_graph(ModelShape(self.layers, self.heads, self.kv_heads, True, False)).edges)


SIZES = {
    "GPT-2 small": Size(12, 12, 12, 768, 64, 3072, 50257),
    "GPT-2 XL": Size(48, 25, 25, 1600, 64, 6400, 50257),
    "Llama-3-8B": Size(32, 32, 8, 4096, 128, 14336, 128256, gated=True),
}


def shares(record: dict[str, Any]) -> dict[str, float]:
    """A record's tests per edge, and a test's products without the unembedding over those of a whole forward."""
    small, vocabulary = SIZES["GPT-2 small"], record["settings"]["vocabulary"]
    rows = record["settings"]["prompts"] * POSITIONS
    unembedding = (
        2 * record["settings"]["prompts"] * small.d_model * vocabulary * (record["settings"]["metric"] == "kl")
    )
    forward = 2 * rows * small.body
    return {
        "tests_per_edge": record["tests"] / record["edges"],
        "work": max(0.0, record["flops_per_test"] - unembedding) / forward,
        "kept": record["kept_fraction"],
    }


def estimate(size: Size, share: dict[str, float], metric: str, rate: float, over_floor: float) -> dict[str, float]:
    """Tests, products per test and hours of one search with 16 prompts of 15 tokens."""
    edges = size.edges
    tests = edges * share["tests_per_edge"]
    flops = share["work"] * 2 * PROMPTS * POSITIONS * size.body
    if metric == "kl":
        flops += 2 * PROMPTS * size.d_model * size.vocabulary
    return {
        "edges": edges,
        "tests": tests,
        "gflop_per_test": flops / 1e9,
        "hours_two_cores": tests * flops * over_floor / rate / 3600,
        "hours_h100_products_alone": tests * flops / H100_RATE / 3600,
        "weights_gb_float32": 4 * (size.body + 2 * size.d_model * size.vocabulary) / 1e9,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    records = {
        key: json.loads((options.results / f"engine-16-{name}.json").read_text()) for key, name in RECORDS.items()
    }
    two = json.loads((options.results / "engine-100-sparse-2threads.json").read_text())
    rows = [
        {"model": model, "density": density, "metric": metric}
        | estimate(size, shares(record), metric, two["product_rate"], record["seconds_over_floor"])
        for model, size in SIZES.items()
        for (density, metric), record in records.items()
    ]
    report = {
        "prompts": PROMPTS,
        "positions": POSITIONS,
        "two_core_rate": two["product_rate"],
        "h100_rate": H100_RATE,
        "shares": {" ".join(key): shares(record) for key, record in records.items()},
        "rows": rows,
    }
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How much evidence to gather for one circuit: sample sizes, levels, seed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pahq.errors import PahqError


@dataclass(frozen=True)
class Settings:
    """The defaults judge a circuit of the embedded model in seconds; papers draw 100 random circuits or more.

    A binomial test at quantile .9 needs 29 draws at least before all of them together reach p < .05.
    """

    seed: int = 0
    confidence: float = 0.95  # of intervals by bootstrap over prompts
    resamples: int = 1000  # of the bootstrap
    alpha: float = 0.05  # level of every hypothesis test
    epsilon: float = 0.1  # equivalence: how far from 1/2 the chance of beating the full model may lie
    quantile: float = 0.9  # minimality, sufficiency, partial necessity: of the random circuits
    permutations: int = 500  # independence
    inflated: int = 30  # minimality: random inflated circuits
    edges: int = 30  # minimality: edges of the circuit tested, drawn at random if it has more
    random_circuits: int = 30  # sufficiency and partial necessity
    subsets: int = 8  # completeness: random sets of nodes
    greedy_rounds: int = 3  # completeness: nodes of the greedy set
    greedy_candidates: int = 4  # completeness: nodes tried in each round
    node_subsets: int = 1  # node minimality: random sets tried beside the empty one

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and not 0 < value < 1:
                raise PahqError(f"{field.name} must lie between 0 and 1, got {value}")
            if field.name == "epsilon" and not value < 0.5:
                raise PahqError(
                    f"epsilon must lie below 0.5, since it is how far from 1/2 a chance may lie, got {value}"
                )
            if field.type == "int" and value < (0 if field.name in MAY_BE_ZERO else 1):
                raise PahqError(f"{field.name} must be at least {0 if field.name in MAY_BE_ZERO else 1}, got {value}")


MAY_BE_ZERO = ("seed", "subsets", "greedy_rounds", "node_subsets")

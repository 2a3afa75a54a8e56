"""Which method a cell uses: a search and its order of tests, or scores of every edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from pahq.config.frozen import Frozen

Focus = Literal["receiver", "sender", "both", "none"]
Name = Literal[
    "acdc",
    "pahq",
    "rtn-q",
    "eap",
    "eap-ig",
    "eap-ig-activations",
    "clean-corrupted",
    "exact",
    "hisp",
    "sp",
    "edge-pruning",
    "random",
]
ROUND = 32  # tests
GRADIENTS = ("eap", "eap-ig", "eap-ig-activations", "clean-corrupted")  # methods that score edges from gradients
LEARNED = ("sp", "edge-pruning")  # methods that learn masks
SCORING = (*GRADIENTS, "exact", "hisp", *LEARNED, "random")  # all methods that score edges
FOCUSED = (*GRADIENTS, "exact")  # of these: which score an edge in the network with its receiver's head in focus
STEPPED = ("eap-ig", "eap-ig-activations")  # of these: which average over a line of runs
CLEAN = ("eap", "hisp")  # of these: which take the gradient at the clean run alone
FLAT = ("kl", "mse")  # metrics that compare with the clean run, where they are least and so their gradient is nought


class TrainingConfig(Frozen):
    """How masks are learnt (``LEARNED``; see ``pahq.scores.learned``). ``USUAL``: what is usual, by method.

    ``steps``: of Adam, at ``learning_rate``. ``regularisation``: of sp, how much of the loss it is to have all masks.
    ``target``: of edge-pruning, for how many edges (or what share) masks are learnt; None: the size of the circuit that
    is asked for. ``warmup``: of edge-pruning, the share of steps in which the target comes down from all edges.
    """

    steps: PositiveInt
    learning_rate: PositiveFloat
    regularisation: PositiveFloat | None = None
    target: int | float | None = None
    warmup: float | None = Field(default=None, ge=0, le=1)

    @field_validator("target", mode="before")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        return countable("target", value)


USUAL = {
    "sp": TrainingConfig(steps=3000, learning_rate=0.001, regularisation=10.0),
    "edge-pruning": TrainingConfig(steps=300, learning_rate=0.3, warmup=0.5),
}


def countable(name: str, value: Any) -> Any:
    """A number of edges or a share of them as it is, and None; ValueError for anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value is None or whole or (isinstance(value, float) and 0 < value <= 1):
        return value
    raise ValueError(f"{name}: a number of edges (50) or a share of them (0.02) was expected, got {value!r}")


class MethodConfig(Frozen):
    """A search, or a method that scores every edge (``SCORING``; see ``pahq.scores.start``).

    ``order`` and ``senders`` say in which order a search tests edges, which changes the circuit.
    ``order``: of the heads of a layer as senders. ``senders``: those of the nearest layer first, or of the farthest.
    ``arithmetic``: what is in low precision, the whole network (the paper's PAHQ) or the changes that a test makes;
    ``round`` then is after how many tests the full-precision state takes over what was removed. ``steps``: runs that
    integrated gradients average over. ``convention``: of scores, this project's or that of EAP-IG's own code.
    ``absolute``: whether the size of an effect or score counts, or its sign too. ``training``: of methods that learn
    masks, None for all others.
    """

    name: Name
    focus: Focus = "none"
    order: Literal["descending", "ascending"] = "descending"
    senders: Literal["nearest", "farthest"] = "nearest"
    direct_edges: bool = True
    absolute: bool = False
    arithmetic: Literal["network", "changes"] = "network"
    round: PositiveInt = ROUND
    steps: PositiveInt = 5
    convention: Literal["mean", "eap-ig"] = "mean"
    training: TrainingConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _settle_training(cls, values: Any) -> Any:
        """Settings of the training that are None are what is usual with the method."""
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            return values
        return values | {"training": training_of(values["name"], values.get("training"))}

    @property
    def scores(self) -> bool:
        """Whether the method gives every edge a number, of which a circuit is chosen, in place of a search."""
        return self.name in SCORING

    @property
    def focuses(self) -> tuple[str, ...]:
        """What the method may keep in full precision while it looks at an edge."""
        if self.name == "pahq":
            return ("receiver", "sender", "both")
        return ("none", "receiver") if self.name in FOCUSED else ("none",)

    @property
    def label(self) -> str:
        """The method's name in tables, figures and folders: of ``conf/method``."""
        return self.name if self.arithmetic == "network" else f"{self.name}-changes"


def training_of(method: str, given: Any) -> Any:
    """The settings of a method's training with what is usual where they are None; None where it learns nothing.

    What is no mapping is returned as it is. Raises ValueError in one sentence for settings that the method does not
    read.
    """
    if isinstance(given, BaseModel):
        given = given.model_dump()
    if given is not None and not isinstance(given, Mapping):
        return given
    said = {key: value for key, value in (given or {}).items() if value is not None}
    usual = USUAL[method].model_dump() if method in USUAL else {}
    read = {key for key, value in usual.items() if value is not None} | (
        {"target"} if method == "edge-pruning" else set()
    )
    for key in said:
        if key in TrainingConfig.model_fields and key not in read:
            also = [name for name, other in USUAL.items() if getattr(other, key) is not None] or ["edge-pruning"]
            raise ValueError(f"method.training.{key} is of {', '.join(also)}; it says nothing to method {method}")
    return usual | said if method in USUAL or said else None

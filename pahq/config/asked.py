"""What Python asks of a search, checked as the command line's words are: a cell's configuration is made of it.

So Python and the command line share one validation. It needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ValidationError

from pahq.circuits.order import Order
from pahq.config.cell import CellConfig
from pahq.config.precision import PrecisionConfig
from pahq.errors import PahqError, unknown
from pahq.sentences import one_sentence


class Setting(TypedDict, total=False):
    """What is searched: metric (default kl), what absent edges carry, precision and focus.

    ``precision`` is a name of ``conf/precision`` (``int8``) or a PrecisionConfig. With ``focus="receiver"`` the search
    is PAHQ, without a focus it is RTN-Q. ``arithmetic="changes"``: only what tests change is in low precision.
    """

    metric: str
    ablation: Literal["corrupted", "zero", "mean"]
    precision: PrecisionConfig | str | None
    focus: str
    split_embed: bool
    direct_edges: bool
    arithmetic: Literal["network", "changes"]


_TASK = ("metric", "ablation", "split_embed")
_METHOD = ("focus", "direct_edges", "arithmetic")


def asked(
    setting: Setting,
    threshold: object,
    *,
    absolute: object = False,
    order: Order | None = None,
    engine: object = "suffix",
    seed: object = 0,
    dtype: str = "float32",
) -> CellConfig:
    """The cell that a call from Python amounts to (its task and model are nameless).

    Raises PahqError in one sentence for whatever the command line would refuse, and for values of other types.
    """
    for key in setting:
        if key not in Setting.__annotations__:
            raise unknown("setting", key, Setting.__annotations__)
    if threshold is None:  # on the command line that is the usual one
        raise PahqError("threshold: Input should be a valid number (got None)")
    if order is not None and not isinstance(order, Order):
        raise PahqError(f"order: an Order(indices, senders) was expected (got {order!r})")
    values = {key: _plain(value) for key, value in setting.items()}
    precision = values.get("precision")
    if isinstance(precision, BaseModel):
        precision = precision.model_dump()
    focus = values.get("focus", "none")
    task = {"name": "python", "kind": "python", "examples": 1, "metric": "kl"}
    method = {"name": _method(precision, focus), "absolute": _plain(absolute), **_ordered(order or Order())}
    try:
        return CellConfig.model_validate(
            {
                "task": task | {key: values[key] for key in _TASK if key in values},
                "model": {"name": "python", "source": "python"},
                "method": method | {key: values[key] for key in _METHOD if key in values},
                "precision": {"name": "float32", "format": "float32"} if precision is None else precision,
                "engine": {"name": _plain(engine), "dtype": dtype if dtype == "float64" else "float32"},
                "threshold": _plain(threshold),
                "seed": _plain(seed),
            },
            strict=True,
        )
    except ValidationError as error:
        sentence = one_sentence(error, CellConfig).replace("engine.name:", "engine:", 1)
        raise PahqError(sentence.removeprefix("task.").removeprefix("method.")) from None


def _ordered(order: Order) -> dict[str, str]:
    return {"order": order.indices, "senders": order.senders}


def thresholds_of(given: object) -> list[object]:
    """A list of thresholds, each still to be checked. PahqError for anything else and for an empty list."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise PahqError(f"thresholds: a list of numbers was expected (got {given!r})")
    found = list(given)
    if not found:
        raise PahqError("thresholds: the list is empty; one number or more was expected")
    return found


def _method(precision: Any, focus: object) -> str:
    if focus != "none":
        return "pahq"
    if precision is None or precision in ("float32", "auto"):
        return "acdc"
    parts = ("format", "mlp", "cache", "compute")
    full = isinstance(precision, dict) and {precision.get(part, "float32") for part in parts} <= {"float32", "auto"}
    return "acdc" if full else "rtn-q"


def _plain(value: Any) -> Any:
    """A number out of an array of no dimensions; anything else as it is."""
    if hasattr(value, "dtype") and hasattr(value, "tolist") and getattr(value, "ndim", None) == 0:
        return value.tolist()
    return value

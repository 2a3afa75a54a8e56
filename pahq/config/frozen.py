"""What every part of a configuration is."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

LONGEST = 100  # letters of a name, which with a method's, a precision's and a digest makes one of a folder


def _plain(name: str) -> str:
    """ValueError for a name that could lead out of the folder of results, or that no folder can have."""
    if not name.strip(". ") or "/" in name or not name.isprintable() or len(name) > LONGEST:
        raise ValueError(
            f"a plain name was expected, since folders are called by it: no slash, no line break, not empty, at most "
            f"{LONGEST} letters (got {name!r:.80})"
        )
    return name


Name = Annotated[str, AfterValidator(_plain)]


class Frozen(BaseModel):
    """Unknown keys are refused, and what is made stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """Pydantic would take true for 1."""
        for key, value in values.items() if isinstance(values, dict) else ():
            kind = cls.model_fields[key].annotation if key in cls.model_fields else None
            if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)}:
                raise ValueError(f"a number was expected as {key}, not {str(value).lower()}")
        return values

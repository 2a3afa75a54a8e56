"""What every part of a configuration is."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


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

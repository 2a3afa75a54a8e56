"""A setting is declared once: columns of a precision follow from the model class, also those that are yet to come."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from support.made_cells import make_config, make_result

from pahq.analysis import audits
from pahq.analysis.blocks import models_frame
from pahq.analysis.collect import cell_row, collect, variants
from pahq.analysis.names import SETTINGS, precision_columns
from pahq.config.cell import CellConfig
from pahq.config.precision import PrecisionConfig


class WiderPrecision(PrecisionConfig):
    """As it might be one day."""

    biases: Literal["float32", "bf16"] = "float32"


class WiderCell(CellConfig):
    """A cell with one more setting of its precision."""

    precision: WiderPrecision


def wider(biases: str) -> WiderCell:
    values = make_config("nano-induction", "rtn-q", "int8", 0.1).model_dump()
    return WiderCell.model_validate(values | {"precision": values["precision"] | {"biases": biases}})


def test_a_new_setting_is_a_column_and_tells_series_apart() -> None:
    cells = [wider(biases) for biases in ("float32", "bf16")]
    plain = make_result(make_config("nano-induction", "rtn-q", "int8", 0.1))
    rows = [cell_row(plain.model_copy(update={"config": cell})) for cell in cells]
    assert [row["biases"] for row in rows] == ["float32", "bf16"]
    assert rows[0]["series"] != rows[1]["series"]
    assert rows[0]["pair"] == rows[1]["pair"]
    assert variants(cells)[1] == "precision.biases=bf16"


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("int8", {"mlp": "float32"}, "precision.mlp=float32"),
        ("int8-head", {"scales": "row"}, "precision.scales=row"),
        ("int8", {"cache": "bf16"}, "precision.cache=bf16"),
        ("int8", {"rounding": "calibrated"}, "precision.rounding=calibrated"),
    ],
)
def test_what_a_precisions_name_stands_for_stays_unsaid(name: str, change: dict[str, str], told: str) -> None:
    of_name = {"name": name, "format": "int8", "mlp": "bf16", "scales": "head" if name.endswith("head") else "row"}
    values = make_config("nano-induction", "rtn-q", "int8", 0.1).model_dump()
    plain, odd = (CellConfig.model_validate(values | {"precision": of_name | more}) for more in ({}, change))
    assert variants([plain, odd]) == ["", told]


def test_columns_are_the_fields() -> None:
    precision = make_config("nano-induction", "rtn-q", "int4", 0.1).precision
    columns = precision_columns(precision)
    assert columns.pop("precision") == precision.name == "int4"
    assert columns == {name: getattr(precision, name) for name in SETTINGS}
    assert set(SETTINGS) == set(PrecisionConfig.model_fields) - {"name"}
    assert set(SETTINGS) < set(audits.SAME)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_is_listed_by_name_in_the_analysis(name: str) -> None:
    """But where a table is about that very setting: the format gives bits and colours, rounding a note."""
    folder = Path(audits.__file__).parent
    users = {path.name for path in folder.glob("*.py") if f'"{name}"' in path.read_text()}
    about = {"format": {"paper.py", "drawing.py", "names.py", "tables.py", "stability.py"}}
    about["format"] |= {"figures.py", "errorfigure.py", "stabilityfigures.py"}
    assert users <= about.get(name, set())


def test_models_are_shown_with_the_settings_that_are_not_the_defaults(experiment: tuple[Path, list[str]]) -> None:
    root, ids = experiment
    cells = collect(root, ids).cells
    shown = set(models_frame(cells).columns) & set(SETTINGS)
    assert {"format", "scales", "mlp"} == shown
    assert len(models_frame(cells.assign(cache="bf16"))) == len(models_frame(cells))
    assert "cache" in models_frame(cells.assign(cache="bf16"))

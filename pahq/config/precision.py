"""In how many bits a cell computes: its formats, their scales, and how products are taken. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pahq.config.frozen import Frozen, Name

Format = Literal["float32", "bf16", "fp16", "fp8", "int8", "int4", "int4s", "nf4"]
Scales = Literal["row", "head", "group32", "group64", "none"]
# How many bits a number takes, by format.
BITS = {"float32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "int4": 4, "int4s": 4, "nf4": 4}
FORMATS: tuple[str, ...] = tuple(BITS)
# How far one scale may reach, for the formats that have scales.
SCALES: dict[str, tuple[str, ...]] = {
    "fp8": ("row", "head", "none"),
    "int8": ("row", "head"),
    "int4": ("group32", "row", "head"),
    "int4s": ("group32", "row", "head"),
    "nf4": ("group64",),
}
_FUSED = ("fp8", "int8", "int4", "int4s")


class PrecisionConfig(Frozen):
    """Formats of the attention weights out of focus (``format``), of the MLPs, of what absent edges carry (``cache``).

    ``rounding``: each attention weight to the nearest level, or all to those by which outputs on the search's own
    prompts are off by least.
    ``compute``: of the operands of q, k and v projections out of focus and of MLPs (in 8 bits of the former alone, and
    MLPs in bf16). ``kernel``: unpack weights before products, multiply 8-bit codes as they are, or unpack inside the
    product. ``auto`` is settled by the method.
    """

    name: Name
    format: Format | Literal["auto"] = "auto"
    scales: Scales = "row"
    rounding: Literal["nearest", "calibrated"] = "nearest"
    mlp: Literal["float32", "bf16", "fp16"] = "float32"
    cache: Literal["float32", "bf16", "fp16"] = "float32"
    compute: Literal["float32", "tf32", "bf16", "fp8", "int8"] = "float32"
    kernel: Literal["unpack", "codes", "fused"] = "unpack"

    @property
    def is_full(self) -> bool:
        """Whether all numbers are float32, so that a search in it is ACDC's."""
        return {self.format, self.mlp, self.cache, self.compute} == {"float32"}

    @model_validator(mode="after")
    def _scales_fit(self) -> PrecisionConfig:
        allowed = SCALES.get(self.format)
        if allowed and self.scales not in allowed:
            raise ValueError(f"format {self.format} has no scales {self.scales!r}; known: {', '.join(allowed)}")
        if self.rounding == "calibrated" and self.format not in (*SCALES, "auto"):
            raise ValueError(f"rounding=calibrated needs a format among {', '.join(SCALES)}, not {self.format}")
        if self.compute in ("fp8", "int8") and self.format != self.compute:
            raise ValueError(
                f"compute={self.compute} multiplies weights of that format, and precision.format is {self.format}"
            )
        if self.compute in ("fp8", "int8") and self.scales not in ("row", "head"):
            raise ValueError(f"compute={self.compute} needs scales row or head, not {self.scales!r}")
        if self.kernel == "codes" and self.compute not in ("fp8", "int8"):
            raise ValueError(f"kernel=codes needs compute=fp8 or int8, not {self.compute}")
        if self.kernel == "fused" and (self.format not in _FUSED or self.scales == "none"):
            raise ValueError(
                f"kernel=fused needs scales and a format of {', '.join(_FUSED)}, not {self.format} with {self.scales}"
            )
        if self.kernel == "fused" and self.compute in ("fp8", "int8"):
            raise ValueError(
                f"kernel=fused multiplies in float32, tf32 or bf16; compute={self.compute} has kernel=codes"
            )
        return self

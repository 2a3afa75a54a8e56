"""The Triton kernel behind ``pahq.model.fused``: a tile of codes becomes a tile of weights in registers."""

# mypy: ignore-errors
import triton
import triton.language as tl


@triton.jit
def multiply_fused(
    x,
    codes,
    scale,
    low,
    found,
    n_rows,
    n_inner,
    n_out,
    x_head,
    x_row,
    codes_head,
    codes_inner,
    codes_out,
    scale_head,
    scale_group,
    scale_out,
    low_head,
    low_group,
    low_out,
    found_head,
    found_row,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    PRODUCTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    INNER: tl.constexpr,
):
    """found[head, row, out] = sum over inner of x[head, row, inner] * weight[head, inner, out]; one tile a program."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    out = tl.program_id(1) * OUT + tl.arange(0, OUT)
    head = tl.program_id(2).to(tl.int64)
    sums = tl.zeros((ROWS, OUT), dtype=tl.float32)
    for start in range(0, n_inner, INNER):
        inner = start + tl.arange(0, INNER)
        inside = (inner[:, None] < n_inner) & (out[None, :] < n_out)
        place = inner // 2 if FORM == "int4" or FORM == "int4s" else inner
        at = codes + head * codes_head + place[:, None] * codes_inner + out[None, :] * codes_out
        code = tl.load(at, mask=inside, other=0).to(tl.int32)
        group = start // GROUP
        of_scale = scale + head * scale_head + group * scale_group + out * scale_out
        weight = _units(code, inner, FORM) * tl.load(of_scale, mask=out < n_out, other=0.0).to(tl.float32)[None, :]
        if FORM == "int4":
            of_low = low + head * low_head + group * low_group + out * low_out
            weight += tl.load(of_low, mask=out < n_out, other=0.0).to(tl.float32)[None, :]
        at = x + head * x_head + row[:, None] * x_row + inner[None, :]
        a = tl.load(at, mask=(row[:, None] < n_rows) & (inner[None, :] < n_inner), other=0.0)
        if PRODUCTS == "float32":
            sums = tl.dot(a, weight, sums, input_precision="ieee")
        else:  # numbers of bf16 are numbers of tf32 too
            dropped: tl.constexpr = 13 if PRODUCTS == "tf32" else 16
            sums = tl.dot(_rounded(a, dropped), _rounded(weight, dropped), sums, input_precision="tf32")
    at = found + head * found_head + row[:, None] * found_row + out[None, :]
    tl.store(at, sums, mask=(row[:, None] < n_rows) & (out[None, :] < n_out))


@triton.jit
def _units(code, inner, FORM: tl.constexpr):
    """The numbers that codes stand for, in units of their scale, in float32."""
    if FORM == "int8":
        units = code.to(tl.float32)
    elif FORM == "fp8":  # E4M3 by its bits, so that cards without it read it too; there are no NaNs among the codes
        exponent, mantissa = (code >> 3) & 15, code & 7
        normal = (((exponent + 120) << 23) | (mantissa << 20)).to(tl.float32, bitcast=True)
        size = tl.where(exponent == 0, mantissa.to(tl.float32) * 0.001953125, normal)
        units = tl.where(code >= 128, -size, size)
    else:
        half = (code >> ((inner % 2) * 4)[:, None]) & 15
        if FORM == "int4s":  # 8..15 stand for -8..-1
            half = tl.where(half >= 8, half - 16, half)
        units = half.to(tl.float32)
    return units


@triton.jit
def _rounded(value, DROPPED: tl.constexpr):
    """Without the last bits of mantissa, to the nearest, ties to even: what ``pahq.model.products.rounded`` does."""
    bits = value.to(tl.int32, bitcast=True)
    nearest = bits + ((1 << (DROPPED - 1)) - 1) + ((bits >> DROPPED) & 1)
    rounded = ((nearest >> DROPPED) << DROPPED).to(tl.float32, bitcast=True)
    return tl.where(value == value, rounded, value)  # what is no number stays none

"""Round trips in plain float arithmetic, with no codes in between: what packed storage must equal bit by bit.

One head and one group at a time, in float32; inputs must fit the format.
"""

from __future__ import annotations

import torch
from torch import Tensor

NF4 = (  # as the QLoRA paper prints it, appendix E
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def round_trip(weight: Tensor, name: str, scales: str) -> Tensor:
    """[head, in, out] after storage."""
    if name == "float32":
        return weight
    if name in ("bf16", "fp16"):
        return weight.float().to(torch.bfloat16 if name == "bf16" else torch.float16).to(weight.dtype)
    size = {"group32": 32, "group64": 64}.get(scales, weight.shape[-2])
    heads = []
    for head in weight.float():
        groups = []
        for group in head.split(size):
            columns = [group] if scales in ("head", "none") else [column[:, None] for column in group.unbind(1)]
            groups.append(torch.cat([one_scale(column, name, scales) for column in columns], dim=1))
        heads.append(torch.cat(groups))
    return torch.stack(heads).to(weight.dtype)


def one_scale(w: Tensor, name: str, scales: str) -> Tensor:
    """Numbers that share one scale."""
    largest = w.abs().max()
    if name == "fp8":
        scale = torch.tensor(1.0) if scales == "none" or largest / 448 == 0 else largest / 448
        return (w / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
    if name == "int8":
        scale = largest / 127 if largest / 127 != 0 else torch.tensor(1.0)
        return (w / scale).round().clamp(-127, 127) * scale
    if name == "int4":
        low = w.min().half().float()
        scale = at_least((w.max() - low) / 15)
        return ((w - low) / scale).round().clamp(0, 15) * scale + low
    if name == "int4s":
        scale = at_least(largest / 7)
        return (w / scale).round().clamp(-7, 7) * scale
    scale = at_least(largest)
    table = torch.tensor(NF4)
    return table[((w / scale)[..., None] - table).abs().argmin(-1)] * scale


def at_least(scale: Tensor) -> Tensor:
    rounded = scale.half().float()
    return rounded if rounded > 0 else torch.tensor(2.0**-24)

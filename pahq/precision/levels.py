"""A fingerprint of the levels that rounding chose.

Calibrated levels are chosen by sums over a search's own prompts. The last digits of such sums may differ between
machines, and where two levels are as good as each other, so may the level: the network is another one then, and so may
be its circuit.
"""

from __future__ import annotations

from hashlib import sha256

from pahq.precision.store import ATTENTION, NO_FOCUS, WeightStore


def levels_digest(store: WeightStore) -> str:
    """sha256 of the attention weights out of focus, layer by layer, as float32: the same for either store.

    One head at a time, so that nothing but that head is unpacked for it.
    """
    digest, config = sha256(), store.config
    for index in range(config.layers):
        for name in ATTENTION:
            letter = name[-1].lower()
            for head in range(config.kv_heads if letter in "kv" else config.heads):
                weight = store.rows(index, letter, [head], NO_FOCUS)
                digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

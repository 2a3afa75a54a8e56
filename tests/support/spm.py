"""SentencePiece's byte-pair encoding, written out slowly: the neighbours whose union scores best are merged first."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise


def pieces(text: str, scores: Mapping[str, float]) -> list[str]:
    """The pieces of a text (spaces written as ``▁``); ``scores`` of all pieces, those of single characters included."""
    parts = list(text)
    while True:
        known = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not known:
            return parts
        _, i = min(known)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]

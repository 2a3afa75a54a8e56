"""The suffix engine: ACDC's own effects from the part of the network behind the edge under test."""

from pahq.engine.suffix.changeengine import ChangeEngine
from pahq.engine.suffix.engine import SuffixEngine

__all__ = ["ChangeEngine", "SuffixEngine"]

"""Models: their weights, where they come from, and the forward pass."""

from pahq.model.sources import load_model, open_model, save_model
from pahq.modelnames import embedded_models

__all__ = ["embedded_models", "load_model", "open_model", "save_model"]

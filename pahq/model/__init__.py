"""Models: their weights, where they come from, and the forward pass."""

from pahq.config.modelnames import embedded_models
from pahq.model.sources.find import load_model, open_model, save_model

__all__ = ["embedded_models", "load_model", "open_model", "save_model"]

"""Models: their weights, where they come from, and the forward pass."""

from pahq.model.sources import embedded_models, load_model, open_model, save_model

__all__ = ["embedded_models", "load_model", "open_model", "save_model"]

"""A tiny model, voices and texts."""

from synthesized import sources

__all__ = ["sources"]

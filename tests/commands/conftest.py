"""A tiny model in a folder, with voices and texts."""

from synthesized import sources

__all__ = ["sources"]

"""What the page speaks with."""

from served import gated, speaker, voices

__all__ = ["gated", "speaker", "voices"]

"""How long a text is to last beside a recording: what a pipeline asks, and F5-TTS's rule of proportion."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from dtm_hf.pipelines.chunking import num_bytes, target_frames

if TYPE_CHECKING:
    import torch


class Timing(Protocol):
    """What a pipeline asks for lengths."""

    def measure(self, text: str) -> float:
        """How long a text takes, in any unit: where long text is cut."""
        ...

    def align(self, mel: "torch.Tensor", text: str) -> "torch.Tensor | None":
        """Frames of each token of a recording's text `(L,)`, for a mel `(N, M)`; `None` if nobody asks for them."""
        ...

    def last(
        self,
        text: str,
        reference_text: str,
        reference_frames: int,
        reference_durations: "torch.Tensor | None",
        frames: int | None,
        least: int,
        speed: float,
        generator: "torch.Generator | None",
    ) -> "tuple[int, torch.Tensor | None]":
        """
        Frames that a text is to last behind a recording, and those of each token of both texts `(L,)`.

        Args:
            text (`str`), reference_text (`str`): what is to be said, and what is said in the recording.
            reference_frames (`int`), reference_durations (`torch.LongTensor`, *optional*): of the recording.
            frames (`int`, *optional*): where they are wanted to be so many.
            least (`int`): of what is to be said, whatever is wanted.
            speed (`float`): above 1 is faster than the recording.
            generator (`torch.Generator`, *optional*): of what is drawn.
        """
        ...


class ProportionalTiming:
    """
    A text lasts as many times longer than the recording's as it measures more: bytes in F5-TTS.

    Args:
        measure (`Callable[[str], float]`): how long a text takes.
    """

    def __init__(self, measure: Callable[[str], float] = num_bytes):
        self.measure = measure

    def align(self, mel: "torch.Tensor", text: str) -> None:
        return None

    def last(self, text, reference_text, reference_frames, reference_durations, frames, least, speed, generator):
        if frames is None:
            frames = target_frames(text, reference_text, reference_frames, speed, self.measure)
        return max(frames, least), None

"""How a call is guided: which branches of the backbone run at a time t, and what is made of their answers."""

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from dtm_hf.backbone.contract import Branch

logger = logging.getLogger(__name__)

# F5-TTS's `cfg_strength` of 2.
DEFAULT_GUIDANCE_SCALE = 3.0


@dataclass(frozen=True)
class Guidance:
    """
    The conditional branch alone, as it is. What a student runs with: it has learnt the guidance of its teacher.

    Args:
        scale (`float`, defaults to 1.0): `guidance_scale` of the call; F5-TTS's `cfg_strength` + 1.
    """

    scale: float = 1.0

    @property
    def head_scale(self) -> float | None:
        """What the head is told to follow by itself; `None` where it is told nothing."""
        return None

    def branch(self, t: float) -> "Branch":
        """What the backbone runs at t."""
        return "cond"

    def rescaled(self, scale: float) -> "Guidance":
        """The same with another scale, for the steps of a call that are still to come."""
        raise ValueError(f"`guidance_scale` is fixed for this call at {self.scale}: only the loop's own can change.")


@dataclass(frozen=True)
class ClassifierFreeGuidance(Guidance):
    """
    F5-TTS's rule, v_c + w (v_c - v_u) with w = `scale` - 1, on both branches of the backbone.

    Args:
        scale (`float`): up to 1 only the conditional branch runs.
        start (`float`, defaults to 0.0), stop (`float`, defaults to 1.0): times t in [0, 1]; from `stop` on, and
            before `start`, only the conditional branch runs.
    """

    start: float = 0.0
    stop: float = 1.0

    def branch(self, t: float) -> "Branch":
        return "both" if self.scale > 1 and self.start <= t < self.stop else "cond"

    def combine(self, both: "torch.Tensor") -> "torch.Tensor":
        """One answer `(B, ...)` from those of the two branches, stacked `(2B, ...)`, conditional rows first."""
        conditional, null = both.chunk(2)
        return conditional + (self.scale - 1.0) * (conditional - null)

    def rescaled(self, scale: float) -> "ClassifierFreeGuidance":
        if self.scale <= 1 < scale:
            raise ValueError(f"`guidance_scale` must start above 1 to be raised to {scale}, but was {self.scale}.")
        return replace(self, scale=scale)


@dataclass(frozen=True)
class BakedGuidance(Guidance):
    """Guidance that training baked into the head, which is told its scale: the conditional branch alone."""

    @property
    def head_scale(self) -> float | None:
        return self.scale


def choose_guidance(
    guidance_scale: float | None, stop: float, head_config: Any = None, is_student: bool = False
) -> Guidance:
    """
    The guidance of a call.

    Args:
        guidance_scale (`float`, *optional*): as asked for; by default 3.0, or what is baked into the head.
        stop (`float`): time t in [0, 1] from which on steps go without guidance.
        head_config ([`DTMHeadConfig`], *optional*): of the head that the call runs.
        is_student (`bool`, defaults to `False`): whether the backbone is a distilled student.

    Raises:
        TypeError: for a `guidance_scale` that is no number.
        ValueError: for a scale outside the range that is baked into the head, above 1 for a student, and for a `stop`
            outside [0, 1].
    """
    if guidance_scale is not None and not isinstance(guidance_scale, int | float):
        raise TypeError(f"`guidance_scale` must be a number, but got {guidance_scale!r}.")
    if not 0 <= stop <= 1:
        raise ValueError(f"`guidance_end` must lie in [0, 1], but got {stop!r}.")
    if is_student:
        if guidance_scale is not None and guidance_scale > 1:
            raise ValueError(
                f"`guidance_scale` must be left out for a student, which has learnt its teacher's, but got "
                f"{guidance_scale}."
            )
        return Guidance()
    baked = None if head_config is None else head_config.guidance_scale
    if baked is None:
        return ClassifierFreeGuidance(DEFAULT_GUIDANCE_SCALE if guidance_scale is None else guidance_scale, stop=stop)
    if guidance_scale is None or guidance_scale == baked:
        return BakedGuidance(baked)
    if head_config.guidance_scale_range is None:
        logger.warning(f"`guidance_scale` {guidance_scale} is ignored: this head has {baked} baked in.")
        return BakedGuidance(baked)
    low, high = head_config.guidance_scale_range
    if not low <= guidance_scale <= high:
        raise ValueError(
            f"`guidance_scale` must lie in [{low}, {high}], which is baked into this head, but got {guidance_scale}."
        )
    return BakedGuidance(guidance_scale)

"""How a call is guided: which branches of the backbone run at a time t, and what is made of their answers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dtm_hf.backbone.closed_form import guided_at_zero
from dtm_hf.mean_mel import MeanMel
from dtm_hf.pipelines.arguments import GUIDANCE_SCALES, check_number

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

    def runs_head(self, t: float) -> bool:
        """Whether a head that there is has a say at t; else [`~Guidance.velocity`] has."""
        return True

    def velocity(
        self, answer: "torch.Tensor", x_t: "torch.Tensor", t: float, attention_mask: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """
        Where to walk from X_t `(B, N, M)`, by the backbone's float32 answer, `(2B, N, M)` for `"both"` branches;
        valid are the frames of `attention_mask` `(B, N)`, all if it is `None`.
        """
        return answer

    def rescaled(self, scale: float) -> "Guidance":
        """The same with another scale, for the steps of a call that are still to come."""
        raise ValueError(f"`guidance_scale` is fixed for this call at {self.scale}: only the loop's own can change.")


@dataclass(frozen=True)
class ClassifierFreeGuidance(Guidance):
    """
    F5-TTS's rule, v_c + w (v_c - v_u) with w = `scale` - 1, on both branches of the backbone.

    At t = 0 the null branch is known without a network where the mean of the data is: X_0 tells nothing of X_1, so
    v_u = E[X_1 - X_0 | X_0] = mean - X_0. The first step then takes one pass in the place of two.

    Args:
        scale (`float`): up to 1 only the conditional branch runs.
        start (`float`, defaults to 0.0), stop (`float`, defaults to 1.0): times t in [0, 1]; from `stop` on, and
            before `start`, only the conditional branch runs.
        mean ([`MeanMel`], *optional*): E[X_1], the mean log-mel.
    """

    start: float = 0.0
    stop: float = 1.0
    mean: MeanMel | None = field(default=None, repr=False)

    def branch(self, t: float) -> "Branch":
        return "both" if self._guides(t) and not self._knows_null(t) else "cond"

    def velocity(
        self, answer: "torch.Tensor", x_t: "torch.Tensor", t: float, attention_mask: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        if self.branch(t) == "both":
            return self.combine(answer)
        if not self._guides(t):
            return answer
        return guided_at_zero(answer, x_t, self.scale, self.mean, attention_mask)

    def _guides(self, t: float) -> bool:
        return self.scale > 1 and self.start <= t < self.stop

    def _knows_null(self, t: float) -> bool:
        return self.mean is not None and t == 0

    def combine(self, both: "torch.Tensor") -> "torch.Tensor":
        """One answer `(B, ...)` from those of the two branches, stacked `(2B, ...)`, conditional rows first."""
        half = len(both) // 2
        conditional, null = both[:half], both[half:]
        return conditional + (self.scale - 1.0) * (conditional - null)

    def rescaled(self, scale: float) -> "ClassifierFreeGuidance":
        if self.scale <= 1 < scale:
            raise ValueError(f"`guidance_scale` must start above 1 to be raised to {scale}, but was {self.scale}.")
        return replace(self, scale=scale)


@dataclass(frozen=True)
class ZeroStarGuidance(ClassifierFreeGuidance):
    """
    CFG-Zero* (arXiv 2503.18886) without its zeroed first step, of which few steps have none to spare: the null branch
    is scaled by s = <v_c, v_u> / |v_u|^2, its best fit to the conditional one, utterance by utterance. Of the embedded
    model it makes four guided steps sound better (docs/few-steps.md).

    Args:
        scale (`float`), start (`float`), stop (`float`), mean: as in [`ClassifierFreeGuidance`].

    Example:

    ```python
    >>> pipe(text, "voice.wav", "What is said in it.", num_head_steps=0, guidance_scale=ZeroStarGuidance(3.0))
    ```
    """

    def combine(self, both: "torch.Tensor") -> "torch.Tensor":
        conditional, null = both.chunk(2)
        along = (conditional * null).sum(dim=(1, 2), keepdim=True)
        null = null * along / null.square().sum(dim=(1, 2), keepdim=True).clamp(min=1e-8)
        return conditional + (self.scale - 1.0) * (conditional - null)


@dataclass(frozen=True)
class BakedGuidance(Guidance):
    """
    Guidance that training baked into the head, which is told its scale: the conditional branch alone.

    Args:
        stop (`float`, defaults to 1.0): time t from which on steps go without guidance and without the head.
        mean ([`MeanMel`], *optional*): mean log-mel, with which t = 0 needs no head either.
    """

    stop: float = 1.0
    mean: MeanMel | None = field(default=None, repr=False)

    @property
    def head_scale(self) -> float | None:
        return self.scale

    def runs_head(self, t: float) -> bool:
        return t < self.stop and not (t == 0 and self.mean is not None)

    def velocity(
        self, answer: "torch.Tensor", x_t: "torch.Tensor", t: float, attention_mask: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        return answer if t >= self.stop else guided_at_zero(answer, x_t, self.scale, self.mean, attention_mask)


def choose_guidance(
    guidance_scale: float | Guidance | None,
    stop: float,
    head_config: Any = None,
    is_student: bool = False,
    mean: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
) -> Guidance:
    """
    The guidance of a call.

    Args:
        guidance_scale (`float` or [`Guidance`], *optional*): as asked for; by default 3.0, or what is baked into the
            head. A rule of the caller's own for networks that have no guidance in them.
        stop (`float`): time t in [0, 1] from which on steps go without guidance, where it is not mixed into what a
            head draws: the loop's own, and that of a head which says what guidance adds.
        head_config ([`DTMHeadConfig`], *optional*): of the head that the call runs.
        is_student (`bool`, defaults to `False`): whether the backbone is a distilled student.
        mean (*optional*): mean log-mel as of [`MeanMel.of`], which spares a call without a head a pass.

    Raises:
        TypeError: for a `guidance_scale` that is no number.
        ValueError: for a scale outside the range that is baked into the head, above 1 for a student, and for a `stop`
            outside [0, 1].
    """
    if isinstance(guidance_scale, Guidance):
        if is_student or (head_config is not None and head_config.guidance_scale is not None):
            raise ValueError(
                "`guidance_scale` must be a number or left out: the network of this call has its guidance baked in."
            )
        return guidance_scale
    if guidance_scale is not None:
        check_number("guidance_scale", guidance_scale, GUIDANCE_SCALES)
    check_number("guidance_end", stop, (0.0, 1.0))
    if is_student:
        if guidance_scale is not None and guidance_scale > 1:
            raise ValueError(
                f"`guidance_scale` must be left out for a student, which has learnt its teacher's, but got "
                f"{guidance_scale}."
            )
        return Guidance()
    baked = None if head_config is None else head_config.guidance_scale
    if baked is None:
        # A head is guided by what it draws from the features of both branches.
        mean = None if mean is None or head_config is not None else MeanMel.of(mean)
        scale = DEFAULT_GUIDANCE_SCALE if guidance_scale is None else guidance_scale
        return ClassifierFreeGuidance(scale, stop=stop, mean=mean)
    known = {}
    if getattr(head_config, "prediction", None) == "guidance":
        mean = head_config.mean_mel
        known = {"stop": min(stop, head_config.guidance_end), "mean": None if mean is None else MeanMel.of(mean)}
    if guidance_scale is None or guidance_scale == baked:
        return BakedGuidance(baked, **known)
    if head_config.guidance_scale_range is None:
        logger.warning(f"`guidance_scale` {guidance_scale} is ignored: this head has {baked} baked in.")
        return BakedGuidance(baked)
    low, high = head_config.guidance_scale_range
    if not low <= guidance_scale <= high:
        raise ValueError(
            f"`guidance_scale` must lie in [{low}, {high}], which is baked into this head, but got {guidance_scale}."
        )
    return BakedGuidance(guidance_scale, **known)

"""Rules of guidance that need no training, for the benchmark's arms. Imports no torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dtm_hf.pipelines.guidance import ClassifierFreeGuidance

if TYPE_CHECKING:
    import torch

    from dtm_hf.backbone.contract import Branch


@dataclass(frozen=True)
class ZeroStarGuidance(ClassifierFreeGuidance):
    """
    CFG-Zero* (arXiv 2503.18886) without its zeroed first step, of which few steps have none to spare: the null branch
    is scaled by s = <v_c, v_u> / |v_u|^2, its best fit to the conditional one, utterance by utterance.
    """

    def combine(self, both: "torch.Tensor") -> "torch.Tensor":
        conditional, null = both.chunk(2)
        along = (conditional * null).sum(dim=(1, 2), keepdim=True)
        null = null * along / null.square().sum(dim=(1, 2), keepdim=True).clamp(min=1e-8)
        return conditional + (self.scale - 1.0) * (conditional - null)


@dataclass(frozen=True)
class ReusedGuidance(ClassifierFreeGuidance):
    """
    Null branches left out at every other step, where v_c - v_u of the step before stands in their place (as
    DiTReducio, arXiv 2509.09748, does). For one walk.

    Args:
        null_times (`tuple` of `float`): where the null branch runs.
    """

    null_times: tuple[float, ...] = ()
    _last: dict = field(default_factory=dict, compare=False, repr=False)

    def branch(self, t: float) -> "Branch":
        return super().branch(t) if t in self.null_times else "cond"

    def velocity(self, answer: "torch.Tensor", x_t: "torch.Tensor", t: float) -> "torch.Tensor":
        if not self._guides(t):
            return answer
        if self.branch(t) == "both":
            conditional, null = answer.chunk(2)
            self._last["difference"] = conditional - null
            return self.combine(answer)
        return answer + (self.scale - 1.0) * self._last["difference"]

"""Rules of guidance that need no training, for the benchmark's arms. Imports no torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dtm_hf.pipelines.guidance import ClassifierFreeGuidance

if TYPE_CHECKING:
    import torch

    from dtm_hf.backbone.contract import Branch


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

    def velocity(
        self, answer: "torch.Tensor", x_t: "torch.Tensor", t: float, attention_mask: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        if not self._guides(t):
            return answer
        if self.branch(t) == "both":
            conditional, null = answer.chunk(2)
            self._last["difference"] = conditional - null
            return self.combine(answer)
        return answer + (self.scale - 1.0) * self._last["difference"]

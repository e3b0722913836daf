"""What a flow head has to be for a pipeline to sample with it, and what it answers with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers.utils import ModelOutput


@dataclass
class DTMHeadOutput(ModelOutput):
    """
    Output of [`DTMHead`].

    Args:
        velocity (`torch.Tensor` of shape `(B, N, M)`):
            g, the velocity dY/ds of the inner flow.
        displacement (`torch.Tensor` of shape `(B, N, M)`):
            y_hat, the estimate of Y = X_1 - X_0 that g points at: `flow_state + (1 - s) * velocity`.
    """

    velocity: torch.FloatTensor | None = None
    displacement: torch.FloatTensor | None = None


class Head(Protocol):
    """
    A module that gives the velocity of the inner flow: [`DTMHead`], a port of it, or an exact one to compare with.

    A global step asks in this order: `prepare` once, then `forward` at each inner time. A padded batch gives what its
    items give alone.

    Attributes:
        config: has `guidance_scale`, the guidance baked in, or `None`; and `guidance_scale_range`, the lowest and the
            highest scale that it can be told, or `None` for that one alone. Of a head that is mounted for good also
            `backbone_hidden_size`, `num_mel_bins` and a [`~dtm_hf.provenance.Provenance`].
    """

    config: Any

    def prepare_schedule(
        self, timesteps: torch.Tensor, flow_times: torch.Tensor, guidance_scale: float | None = None
    ) -> Sequence[Sequence[Any]]:
        """What depends on the times alone: entry `[i][j]`, of T and S, is the `modulation` of a call at these two."""
        ...

    def prepare(self, hidden_states: torch.Tensor) -> Any:
        """What depends on the features `(B, N, D)` alone: the `prepared_states` of the calls of a global step."""
        ...

    def forward(
        self,
        hidden_states: torch.Tensor | None,
        flow_state: torch.Tensor,
        flow_time: torch.Tensor | float,
        *,
        timestep: torch.Tensor | float,
        velocity: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        prepared_states: Any = None,
        modulation: Any = None,
    ) -> DTMHeadOutput:
        """The velocity at Y_s `(B, N, M)`, in its dtype; s in [0, 1). See [`DTMHead`]."""
        ...

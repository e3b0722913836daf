"""What a backbone has to be for a pipeline to sample with it, and the types it speaks in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from diffusers.utils import BaseOutput

Branch = Literal["cond", "null", "both"]


@dataclass
class F5BackboneOutput(BaseOutput):
    """
    Output of [`F5Backbone`].

    Args:
        features (`torch.Tensor` of shape `(B, N, D)`):
            Input of the DiT's `proj_out`: what a flow head reads. With `branch="both"` the first dimension is `2B`,
            conditional rows first.
        velocity (`torch.Tensor` of shape `(B, N, M)`):
            Predicted flow velocity E[X_1 - X_0 | X_t], in log-mel units per unit of t.
        residual (`torch.Tensor` of shape `(B, N, D)`, *optional*):
            The residual stream before the last blocks, where it was asked for.
    """

    features: torch.Tensor | None = None
    velocity: torch.Tensor | None = None
    residual: torch.Tensor | None = None

    def joined(self, sample: torch.Tensor) -> torch.Tensor:
        """All that a pass tells of X_t, for the conditional rows: features, residual stream, velocity and X_t."""
        rows, parts = len(sample), [self.features, self.residual, self.velocity]
        return torch.cat([*(part[:rows].float() for part in parts if part is not None), sample.float()], dim=-1)


@dataclass
class F5TextEmbeds(BaseOutput):
    """
    Text as the DiT sees it, computed once per utterance by [`F5Backbone.encode_text`].

    Args:
        cond (`torch.Tensor` of shape `(B, N, text_dim)`): embedded text.
        null (`torch.Tensor` of shape `(B, N, text_dim)`): what stands in its place in the unconditional branch.
    """

    # Both have a default: accelerate moves a mapping by rebuilding it as `type(x)({...})`.
    cond: torch.Tensor | None = None
    null: torch.Tensor | None = None


class Backbone(Protocol):
    """
    A module that predicts the velocity of the global flow, frozen: [`F5Backbone`], a student, a port of either.

    A padded batch gives what its items give alone.

    Attributes:
        config: has `mel_dim` (M); `dim` (D), the width of the features; `text_num_embeds`, the tokens it knows;
            `step_counts`, the numbers of steps that a student serves, or `None`; `text_alignment`, whether it is told
            `durations`; `max_seconds` that prompt and target may last together, or `None`; `name`, `revision`,
            `license` and `training_data`, for cards and messages.
        max_frames (`int`): the longest N that it can run.
        fingerprint (`str`): of the weights, the same in every type they are stored in; what a head was trained on.
        dtype (`torch.dtype`), device (`torch.device`): of the weights.
    """

    config: Mapping[str, Any]
    max_frames: int
    fingerprint: str
    dtype: torch.dtype
    device: torch.device

    def encode_text(
        self,
        text_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        num_frames: int,
        with_null: bool = True,
        durations: torch.Tensor | None = None,
    ) -> F5TextEmbeds:
        """What [`~Backbone.forward`] takes as `text_embeds`: computed once an utterance. See [`F5Backbone`]."""
        ...

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        cond: torch.Tensor,
        text_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        branch: Branch = "cond",
        text_embeds: F5TextEmbeds | None = None,
        *,
        num_steps: int | None = None,
        residual_layers: int = 0,
    ) -> F5BackboneOutput:
        """
        Features and velocity of X_t at t, of one branch or with `"both"` of 2B rows; for a head that reads it also
        the residual stream before the last `residual_layers` blocks. See [`F5Backbone`].
        """
        ...

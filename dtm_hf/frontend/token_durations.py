"""`TokenDurations`: how many frames each token of a text is to last, drawn in the pace of a prompt."""

from typing import Annotated

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from dtm_hf.frontend.timing_card import TimingCardMixin
from dtm_hf.validation import CheckedConfigMixin, Depth, LogMean, LogStd, Tokens, Width


class _Block(nn.Module):
    """Dilated convolution over tokens, modulated by time and pace."""

    def __init__(self, hidden_size: int, dilation: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.modulation = nn.Linear(hidden_size, 2 * hidden_size)
        self.conv = nn.Conv1d(hidden_size, hidden_size, 5, padding=2 * dilation, dilation=dilation)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, states: torch.Tensor, context: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(context)[:, None].chunk(2, dim=-1)
        new = (self.norm(states) * (1 + scale) + shift).masked_fill(~mask[..., None], 0.0)
        return states + self.out(F.silu(self.conv(new.transpose(1, 2)).transpose(1, 2)))


class TokenDurations(CheckedConfigMixin, TimingCardMixin, ModelMixin, ConfigMixin):
    r"""
    Draws the durations of tokens by flow matching on their logarithms, as F5 draws mels: those of a prompt are given,
    those of the text behind it are filled in. So the pace is the prompt's, and two draws differ as two takes do.

    Args:
        num_tokens (`int`): Tokens of the vocabulary, without padding.
        hidden_size (`int`, defaults to 160): Width of the network.
        num_layers (`int`, defaults to 6): Convolutions.
        log_mean (`float`, defaults to 1.6), log_std (`float`, defaults to 0.7):
            About mean and standard deviation of the logarithm of a duration in frames.
        noise_scale (`float`, defaults to 1.0):
            Standard deviation of the noise that durations are drawn from, as `noise_scale_w` of VITS
            ([2106.06103](https://huggingface.co/papers/2106.06103)). Below 1 draws stay nearer to the mean, and words
            get clearer where the network knows little; with 0 all takes have one rhythm.
        training_data (`str`, *optional*): What it was trained on.
    """

    card_summary = "Draws how long each character of a text is to last, in the pace of a prompt."

    @register_to_config
    def __init__(
        self,
        num_tokens: Tokens,
        hidden_size: Width = 160,
        num_layers: Depth = 6,
        log_mean: LogMean = 1.6,
        log_std: LogStd = 0.7,
        noise_scale: Annotated[float, Field(ge=0, le=2)] = 1.0,
        training_data: str | None = None,
    ):
        super().__init__()
        self.embed = nn.Embedding(num_tokens + 1, hidden_size, padding_idx=0)
        self.value_proj = nn.Linear(3, hidden_size)
        self.time = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        self.pace = nn.Sequential(
            nn.Linear(hidden_size + 1, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.blocks = nn.ModuleList(_Block(hidden_size, 1 << i % 3) for i in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.proj_out = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def normalize(self, durations: torch.Tensor) -> torch.Tensor:
        """Frames `(B, L)` -> X_1 `(B, L)`, their normalised logarithm; of less than one frame as of one."""
        return (durations.clamp(min=1).log() - self.config.log_mean) / self.config.log_std

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        text_ids: torch.Tensor,
        known: torch.Tensor,
        known_mask: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            sample (`torch.Tensor` of shape `(B, L)`): X_t.
            timestep (`torch.Tensor` of shape `(B,)`): t in [0, 1]; 0 is noise.
            text_ids (`torch.LongTensor` of shape `(B, L)`): token ids, padded with -1.
            known (`torch.Tensor` of shape `(B, L)`): X_1 of the prompt's tokens; elsewhere it is not looked at.
            known_mask (`torch.BoolTensor` of shape `(B, L)`): `True` at the prompt's tokens.

        Returns:
            `torch.Tensor` of shape `(B, L)`: velocity E[X_1 - X_0 | X_t].
        """
        mask, known = text_ids >= 0, known.masked_fill(~known_mask, 0.0)
        text = self.embed(text_ids + 1)
        states = text + self.value_proj(torch.stack([sample, known, known_mask.to(sample.dtype)], dim=-1))
        pace = self.pace(torch.cat([text, known[..., None]], dim=-1)).masked_fill(~known_mask[..., None], 0.0)
        pace = pace.sum(dim=1) / known_mask.sum(dim=1, keepdim=True).clamp(min=1)
        time = get_timestep_embedding(timestep * 1000, self.config.hidden_size).to(sample.dtype)
        context = F.silu(self.time(time) + pace)
        for block in self.blocks:
            states = block(states, context, mask)
        return self.proj_out(self.norm(states))[..., 0]

    @torch.no_grad()
    def mean(self, text_ids: torch.Tensor, known_frames: torch.Tensor | None = None) -> torch.Tensor:
        """
        Geometric means of the durations, which no noise enters; arguments and result as of [`~TokenDurations.sample`].
        """
        noise = torch.zeros(text_ids.shape, device=text_ids.device, dtype=self.dtype)
        return self._walk(noise, text_ids, known_frames, 1)

    @torch.no_grad()
    def sample(
        self,
        text_ids: torch.Tensor,
        known_frames: torch.Tensor | None = None,
        num_inference_steps: int = 8,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> torch.Tensor:
        """
        Draw durations of the tokens behind a prompt.

        Args:
            text_ids (`torch.LongTensor` of shape `(B, L)`): token ids, the prompt's first, padded with -1.
            known_frames (`torch.LongTensor` of shape `(B, L)`, *optional*): frames of the prompt, 0 elsewhere.
            num_inference_steps (`int`, defaults to 8): Euler steps.
            generator: as in diffusers.

        Returns:
            `torch.Tensor` of shape `(B, L)`: frames, not rounded; the prompt's as they came, 0 at padding.
        """
        # Drawn in float32: torch draws other numbers in half precision, and speech would get another length.
        noise = randn_tensor(text_ids.shape, generator, text_ids.device, torch.float32) * self.config.noise_scale
        return self._walk(noise.to(self.dtype), text_ids, known_frames, num_inference_steps)

    def _walk(self, x_t: torch.Tensor, text_ids, known_frames, num_inference_steps: int) -> torch.Tensor:
        known_frames = torch.zeros_like(text_ids) if known_frames is None else known_frames
        known_mask = known_frames > 0
        known = self.normalize(known_frames.to(self.dtype))
        for step in range(num_inference_steps):
            t = torch.full((len(x_t),), step / num_inference_steps, device=x_t.device, dtype=self.dtype)
            x_t = x_t + self(x_t, t, text_ids, known, known_mask) / num_inference_steps
        frames = (x_t * self.config.log_std + self.config.log_mean).exp()
        frames = torch.where(known_mask, known_frames.to(frames.dtype), frames)
        return frames.masked_fill(text_ids < 0, 0.0)


def whole_frames(durations: torch.Tensor, total: int | None = None) -> torch.Tensor:
    """
    Durations `(L,)` rounded so that they add up to `total` (by default the rounded sum), scaled to it if need be; each
    end is at most half a frame off.
    """
    ends = durations.double().cumsum(0)
    total = max(round(float(ends[-1])), 1) if total is None else total
    ends = (ends * (total / float(ends[-1]))).round().long()
    return ends.diff(prepend=ends.new_zeros(1))


__all__ = ["TokenDurations"]

"""One cycle of the recursion: L updates of the latent z, then one of the answer y."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_trm import TRMConfig


def rotary(states: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
    """
    Rotary positions (arXiv 2104.09864) of `(B, heads, N, D)`, D even: pairs of channels turn with the place, 0 to
    N - 1 or `places` `(B, N)`.
    """
    half = states.shape[-1] // 2
    exponent = torch.arange(half, device=states.device, dtype=torch.float32) / half
    if places is None:
        places = torch.arange(states.shape[-2], device=states.device, dtype=torch.float32)[None]
    angles = places[:, None, :, None] * 10000.0**-exponent
    cos, sin = angles.cos().to(states.dtype), angles.sin().to(states.dtype)
    one, other = states.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)


def shared_places(audio_mask: torch.Tensor, text_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Places of frames `(B, T)` and of characters `(B, L)` on one scale, that of the characters, as if each took as long
    as another: what a frame says is not far from its own place.
    """
    frames, characters = (
        torch.arange(mask.shape[1], device=mask.device, dtype=torch.float32)[None] + 0.5
        for mask in (audio_mask, text_mask)
    )
    pace = text_mask.sum(dim=1, keepdim=True) / audio_mask.sum(dim=1, keepdim=True).clamp(min=1)
    return frames * pace, characters.expand(text_mask.shape)


class TRMAttention(nn.Module):
    """Multi-head attention of N states to M others; to themselves with rotary positions, to others with given ones."""

    def __init__(self, config: TRMConfig, context_dim: int | None = None):
        super().__init__()
        dim = config.audio_dim
        self.num_heads, self.dropout, self.is_self = config.num_heads, config.dropout, context_dim is None
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(context_dim or dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        states: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor,
        places: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        States `(B, N, D)`, context `(B, M, C)` with its valid places `(B, M)`, to `(B, N, D)`; `places` are of both,
        `(B, N)` and `(B, M)`.
        """
        query = self._split(self.query(states))
        key, value = (self._split(part) for part in self.key_value(context).chunk(2, dim=-1))
        if self.is_self:
            query, key = rotary(query), rotary(key)
        elif places is not None:
            query, key = rotary(query, places[0]), rotary(key, places[1])
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, mask[:, None, None], dropout_p=dropout)
        return self.out(found.transpose(1, 2).flatten(2))

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class TRMBlock(GradientCheckpointingLayer):
    """Self-attention, attention to the text, in the document's form also to the answer, and a SwiGLU; post-norm."""

    def __init__(self, config: TRMConfig):
        super().__init__()
        dim = config.audio_dim
        self.to_self = TRMAttention(config)
        self.to_text = TRMAttention(config, config.text_dim)
        self.to_answer = TRMAttention(config, dim) if config.update == "document" else None
        self.gate = nn.Linear(dim, 2 * config.ffn_dim, bias=False)
        self.down = nn.Linear(config.ffn_dim, dim, bias=False)
        self.norms = nn.ModuleList([nn.RMSNorm(dim, eps=1e-5) for _ in range(3 + (self.to_answer is not None))])
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: torch.Tensor,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        audio_mask: torch.Tensor,
        places: tuple[torch.Tensor, torch.Tensor] | None = None,
        answer: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`(B, T, D)` to `(B, T, D)`; `places` are those of [`shared_places`]."""
        norms = iter(self.norms)
        states = next(norms)(states + self.dropout(self.to_self(states, states, audio_mask)))
        states = next(norms)(states + self.dropout(self.to_text(states, text, text_mask, places)))
        if self.to_answer is not None:
            states = next(norms)(states + self.dropout(self.to_answer(states, answer, audio_mask)))
        gate, up = self.gate(states).chunk(2, dim=-1)
        return next(norms)(states + self.dropout(self.down(F.silu(gate) * up)))


class RecursiveUpdate(nn.Module):
    """TRM's own form: one network for both, which are added."""

    def __init__(self, config: TRMConfig):
        super().__init__()
        self.l_cycles = config.l_cycles
        self.blocks = nn.ModuleList([TRMBlock(config) for _ in range(config.num_layers)])

    def forward(self, y, z, x, *around) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer, latent and input `(B, T, D)`, and what a block is given besides, to the next answer and latent."""
        for _ in range(self.l_cycles):
            z = self._net(z + y + x, *around)
        return self._net(y + z, *around), z

    def _net(self, states, *around) -> torch.Tensor:
        for block in self.blocks:
            states = block(states, *around)
        return states


class DocumentUpdate(nn.Module):
    """The document's form: the latent looks at the answer, which an updater of its own changes."""

    def __init__(self, config: TRMConfig):
        super().__init__()
        dim = config.audio_dim
        self.l_cycles = config.l_cycles
        self.blocks = nn.ModuleList([TRMBlock(config) for _ in range(config.num_layers)])
        self.updater = nn.Sequential(
            nn.Linear(2 * dim, 2 * config.ffn_dim), nn.GELU(), nn.Linear(2 * config.ffn_dim, dim)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, y, z, x, *around) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`RecursiveUpdate`]; the input is added to the answer that the latent looks at, and to the latent."""
        for _ in range(self.l_cycles):
            z = z + x
            for block in self.blocks:
                z = block(z, *around, y + x)
        return self.norm(y + self.updater(torch.cat([y, z], dim=-1))), z


UPDATE_CLASSES = {"recursive": RecursiveUpdate, "document": DocumentUpdate}

"""The body of a head that is a short copy of its backbone's null branch."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from dtm_hf.f5_import import import_f5

from .configuration_dtm import DTMHeadConfig

# x_transformers' base of rotary frequencies, which F5-TTS leaves as it is.
_ROTARY_BASE = 10000.0


class TransformerBody(nn.Module):
    """
    The first L blocks of F5's DiT, with its embedding of t and of X_t before them and its last norm and projection
    behind, without conditions. Started from a backbone's own weights, with all of its blocks it is the null branch;
    with fewer, training shortens it, helped by what the other branch has found out.

    Args:
        config ([`DTMHeadConfig`]): `hidden_size` D, `num_hidden_layers` L, and the shape of the attention.
    """

    def __init__(self, config: DTMHeadConfig):
        super().__init__()
        modules = import_f5("f5_tts.model.modules", chinese=False)
        width = config.hidden_size
        self.head_dim = config.attention_head_dim
        self.time_embed = modules.TimestepEmbedding(width)
        # Of the embedding of X_t, prompt and text: what reads X_t.
        self.state_proj = nn.Linear(config.num_mel_bins, width)
        self.conv_pos_embed = modules.ConvPositionEmbedding(dim=width)
        self.blocks = nn.ModuleList(
            modules.DiTBlock(
                dim=width,
                heads=config.num_attention_heads,
                dim_head=config.attention_head_dim,
                ff_mult=config.ffn_mult,
                dropout=0.0,
                qk_norm=config.qk_norm,
                pe_attn_head=config.pe_attn_head,
                attn_mask_enabled=False,
            )
            for _ in range(config.num_hidden_layers)
        )
        for block in self.blocks:
            # Given here, where it does not warn of its memory: a mask is passed only where lengths differ.
            block.attn.processor.attn_mask_enabled = True
        self.norm_out = modules.AdaLayerNorm_Final(width)
        self.output_proj = nn.Linear(width, config.num_mel_bins)
        # The later, the less a short network knows of v_u beside v_c: there d is a small answer of its own.
        self.gate_proj = nn.Linear(width, config.num_mel_bins)
        # transformers sets it, and how, where it finds it; F5's blocks know of none.
        self.gradient_checkpointing = False

    def embed_time(self, timestep: torch.Tensor) -> torch.Tensor:
        """Times of any shape `(...)` -> `(..., D)`, as the backbone embeds them."""
        network, weight = self.time_embed, self.output_proj.weight
        sinusoids = network.time_embed(timestep.float().flatten()).to(weight.dtype)
        return network.time_mlp(sinusoids).reshape(*timestep.shape, -1)

    def forward(
        self,
        known: torch.Tensor,
        sample: torch.Tensor,
        velocity: torch.Tensor,
        embedding: torch.Tensor,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """
        Args:
            known (`torch.Tensor` of shape `(B, N, D)`): what is known beside X_t; added before the first block.
            sample (`torch.Tensor` of shape `(B, N, M)`): X_t.
            velocity (`torch.Tensor` of shape `(B, N, M)`): v_c.
            embedding (`torch.Tensor` of shape `(1, D)` or `(B, D)`): of the time and of what else is to be known.
            attention_mask (`torch.BoolTensor` of shape `(B, N)`, *optional*): `True` at valid frames.

        Returns:
            `torch.Tensor` of shape `(B, N, M)`: v_c - v_u, each with a share that t decides.
        """
        # A graph takes padding whether there is some or not.
        if attention_mask is not None and not torch.compiler.is_exporting() and attention_mask.all():
            attention_mask = None
        hidden_states = self.state_proj(sample)
        hidden_states = self.conv_pos_embed(hidden_states, mask=attention_mask) + hidden_states + known
        embedding = embedding.expand(hidden_states.shape[0], -1)
        rope = _rotary_angles(hidden_states.shape[1], self.head_dim, hidden_states.device), 1.0
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                hidden_states = self._gradient_checkpointing_func(
                    partial(block, mask=attention_mask, rope=rope), hidden_states, embedding
                )
            else:
                hidden_states = block(hidden_states, embedding, mask=attention_mask, rope=rope)
        share = 1 + self.gate_proj(nn.functional.silu(embedding)).unsqueeze(1)
        return share * velocity - self.output_proj(self.norm_out(hidden_states, embedding))

    @torch.no_grad()
    def copy_from(self, dit_weights: Mapping[str, torch.Tensor]) -> None:
        """
        Start from a backbone.

        Args:
            dit_weights (`dict[str, torch.Tensor]`): state dict of its DiT.

        Raises:
            RuntimeError: if its shapes are others.
        """
        sources = {
            "blocks": "transformer_blocks",
            "output_proj": "proj_out",
            "state_proj": "input_embed.proj",
            "conv_pos_embed": "input_embed.conv_pos_embed",
        }
        own = {}
        for name, parameter in self.state_dict().items():
            part, _, rest = name.partition(".")
            if part == "gate_proj":
                own[name] = torch.zeros_like(parameter)
                continue
            own[name] = dit_weights[f"{sources.get(part, part)}.{rest}"]
            if name == "state_proj.weight":
                # X_t comes before the prompt and the text.
                own[name] = own[name][:, : parameter.shape[1]]
        self.load_state_dict(own)


def _rotary_angles(num_frames: int, head_dim: int, device: torch.device) -> torch.Tensor:
    """Angles of rotary positions `(1, N, head_dim)`, each for a pair of neighbours."""
    # Not x_transformers' module: its frequencies are a buffer, and transformers builds models on the meta device.
    exponent = torch.arange(0, head_dim, 2, device=device).float() / head_dim
    positions = torch.arange(num_frames, device=device).float()
    return (positions[:, None] * _ROTARY_BASE**-exponent).repeat_interleave(2, dim=-1)[None]

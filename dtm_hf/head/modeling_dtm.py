"""The DTM flow head."""

import math
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import PreTrainedModel

from dtm_hf.hub import push_with_card
from dtm_hf.provenance import CARD_TEMPLATE
from dtm_hf.validation import CheckedConfigMixin

from .configuration_dtm import DTMHeadConfig
from .contract import DTMHeadOutput
from .transformer_body import TransformerBody


class DTMTimeEmbedding(nn.Module):
    """Sinusoids of a time in [0, 1], then a two-layer perceptron."""

    def __init__(self, config: DTMHeadConfig):
        super().__init__()
        self.num_frequencies = config.time_embed_dim // 2
        self.linear_1 = nn.Linear(config.time_embed_dim, config.hidden_size)
        self.linear_2 = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, time: torch.Tensor) -> torch.Tensor:
        """Time of any shape `(...)` -> `(..., hidden_size)`."""
        # Computed here and not kept as a buffer: transformers builds models on the meta device.
        exponent = torch.arange(self.num_frequencies, device=time.device, dtype=torch.float32)
        frequencies = torch.exp(exponent * (-math.log(10000.0) / (self.num_frequencies - 1)))
        # 1000: the scale of F5's own time embedding.
        angles = 1000.0 * time.float().unsqueeze(-1) * frequencies
        embedding = torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.linear_1.weight.dtype)
        return self.linear_2(nn.functional.silu(self.linear_1(embedding)))


class DTMHeadBlock(GradientCheckpointingLayer):
    """Pre-norm feed-forward block with adaptive layer norm and, if `conv`, a view on its neighbours."""

    def __init__(self, config: DTMHeadConfig):
        super().__init__()
        hidden_size = config.hidden_size
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        if config.architecture == "conv":
            kernel_size = config.conv_kernel_size
            self.conv = nn.Conv1d(hidden_size, hidden_size, kernel_size, padding=kernel_size // 2, groups=hidden_size)
        else:
            self.conv = None
        self.linear_in = nn.Linear(hidden_size, config.ffn_mult * hidden_size)
        self.linear_out = nn.Linear(config.ffn_mult * hidden_size, hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        shift: torch.Tensor,
        scale: torch.Tensor,
        gate: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`(B, N, H)` -> `(B, N, H)`; shift, scale and gate broadcast to it."""
        residual = hidden_states
        hidden_states = self.norm(hidden_states) * (1 + scale) + shift
        if self.conv is not None:
            if attention_mask is not None:
                hidden_states = hidden_states.masked_fill(~attention_mask.bool().unsqueeze(-1), 0.0)
            hidden_states = hidden_states + self.conv(hidden_states.transpose(1, 2)).transpose(1, 2)
        hidden_states = self.linear_out(nn.functional.gelu(self.linear_in(hidden_states)))
        return residual + gate * hidden_states


class DTMHeadPreTrainedModel(CheckedConfigMixin, PreTrainedModel):
    config: DTMHeadConfig
    base_model_prefix = "head"
    main_input_name = "hidden_states"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DTMHeadBlock"]

    @torch.no_grad()
    def _init_weights(self, module):
        # Blocks start as the identity, and all but the direct head as D = 0. Told here and not when `module` is the
        # head: transformers 5 skips modules without parameters of their own in classes that are not its own.
        if any(module is zero for zero in self._zero_at_first()):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            init.trunc_normal_(module.weight, std=0.02)
            init.zeros_(module.bias)

    def _zero_at_first(self) -> list[nn.Module]:
        if self.body is not None:
            # The stream of the blocks, and what they are told of t, are changed by nothing yet.
            gates = [block.attn_norm.linear for block in self.body.blocks]
            others = [self.body.norm_out.linear, self.body.gate_proj, self.feature_proj, self.guidance_embed.linear_2]
            return [*gates, *others]
        return [self.modulation_proj, *([] if self.config.prediction == "direct" else [self.output_proj])]


class DTMHead(DTMHeadPreTrainedModel):
    r"""
    Flow head of Difference Transition Matching ([Transition Matching](https://huggingface.co/papers/2506.23589)).

    Given the frozen backbone's features h at (X_t, t), models the distribution of the displacement Y = X_1 - X_0 by a
    small inner flow from Y_0 ~ N(0, I) at s=0 to Y at s=1. `forward` returns its velocity g(h, Y_s, s, t, v).

    What does not change is computed once: [`~DTMHead.prepare_schedule`] gives the modulations of a whole schedule
    (they depend on s and t alone), [`~DTMHead.prepare`] projects the features of one global step (they do not depend
    on s).

    A head of `prediction="guidance"` draws no Y: it says what guidance adds to v, so that each step runs one branch
    of the backbone. It reads what [`~dtm_hf.backbone.contract.F5BackboneOutput.joined`] gives in the place of h, and
    `forward` answers with its one displacement v + w d whatever Y_s and s are.

    The default configuration has 19,267,172 parameters.
    """

    card_template = CARD_TEMPLATE

    def __init__(self, config: DTMHeadConfig):
        super().__init__(config)
        hidden_size = config.hidden_size
        self.draws = config.prediction != "guidance"
        # One projection of [h, Y_s], in two parts because h stays while Y_s moves.
        self.feature_proj = nn.Linear(config.num_features, hidden_size)
        if self.draws:
            self.state_proj = nn.Linear(config.num_mel_bins, hidden_size, bias=False)
            self.flow_time_embed = DTMTimeEmbedding(config)
        self.guidance_embed = None if config.guidance_scale_range is None else DTMTimeEmbedding(config)
        self.body = None
        if config.architecture == "transformer":
            self.body = TransformerBody(config)
            self._no_split_modules = ["DiTBlock"]
        else:
            self.timestep_embed = DTMTimeEmbedding(config)
            # Shift, scale and gate of each block, then shift and scale of the last norm.
            self.modulation_proj = nn.Linear(hidden_size, (3 * config.num_hidden_layers + 2) * hidden_size)
            self.blocks = nn.ModuleList([DTMHeadBlock(config) for _ in range(config.num_hidden_layers)])
            self.norm_out = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
            self.output_proj = nn.Linear(hidden_size, config.num_mel_bins)
        self.gradient_checkpointing = False
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> "DTMHead":
        """As of transformers' models, but in float32 where no `dtype` is named, as other parts of a pipeline are."""
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = torch.float32
            kwargs.pop("torch_dtype", None)
        return super().from_pretrained(*args, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Upload the head alone, with a filled model card that names its base; arguments as in transformers."""
        return push_with_card(self, repo_id, **kwargs)

    def card_values(self) -> dict[str, Any]:
        """What the model card of a head says: see [`~dtm_hf.hub.Publishable`]."""
        default = {"num_inference_steps": 8, "num_head_steps": 2, "head_solver": "midpoint", "time_grid": "sway"}
        return self.config.provenance_values() | {
            "head": self.config,
            "head_parameters": f"{self.num_parameters():,}",
            "sampler": default | (self.config.sampler or {}),
        }

    def prepare_schedule(
        self, timesteps: torch.Tensor, flow_times: torch.Tensor, guidance_scale: float | None = None
    ) -> torch.Tensor:
        """
        Modulations of every pair of a global and an inner time.

        Args:
            timesteps (`torch.Tensor` of shape `(T,)`): global times t.
            flow_times (`torch.Tensor` of shape `(S,)`): inner times s, one a head call.
            guidance_scale (`float`, *optional*): within the range baked in; the configuration's by default.

        Returns:
            `torch.Tensor` of shape `(T, S, 1, K)`: entry `[i, j]` is the `modulation` of [`~DTMHead.forward`].
        """
        modulations = self._modulation(timesteps[:, None, None], flow_times[None, :, None], guidance_scale)
        # A head that draws nothing says the same at every inner time.
        return modulations.expand(-1, len(flow_times), -1, -1)

    def prepare(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Project backbone features `(B, N, D)` to `(B, N, H)`: the `prepared_states` of [`~DTMHead.forward`]."""
        hidden_states = hidden_states.to(self.feature_proj.weight.dtype)
        projected = self.feature_proj(hidden_states)
        if self.body is None:
            return projected
        return torch.cat([projected, hidden_states[..., -self.config.num_mel_bins :]], dim=-1)

    def _modulation(
        self, timestep: torch.Tensor, flow_time: torch.Tensor, guidance_scale: torch.Tensor | float | None
    ) -> torch.Tensor:
        embedding = self.timestep_embed(timestep) if self.body is None else self.body.embed_time(timestep)
        if self.draws:
            embedding = self.flow_time_embed(flow_time) + embedding
        if self.guidance_embed is not None:
            if guidance_scale is None:
                guidance_scale = self.config.guidance_scale
            low, high = self.config.guidance_scale_range
            scale = torch.as_tensor(guidance_scale, device=timestep.device, dtype=torch.float32)
            scale = scale.reshape(*scale.shape, *(1,) * (timestep.ndim - scale.ndim))
            embedding = embedding + self.guidance_embed((scale - low) / (high - low))
        if self.body is None:
            embedding = self.modulation_proj(nn.functional.silu(embedding))
        if self.draws:
            return embedding
        # d has its answer to X_t and t alone; the scale comes to it as a factor, last of all.
        w = (scale - 1).unsqueeze(-1).expand(*embedding.shape[:-1], 1)
        return torch.cat([embedding, w.to(embedding.dtype)], dim=-1)

    def forward(
        self,
        hidden_states: torch.Tensor | None,
        flow_state: torch.Tensor,
        flow_time: torch.Tensor | float,
        *,
        timestep: torch.Tensor | float,
        velocity: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        prepared_states: torch.Tensor | None = None,
        modulation: torch.Tensor | None = None,
        guidance_scale: torch.Tensor | float | None = None,
        return_dict: bool = True,
    ) -> DTMHeadOutput | tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, N, D)`):
                h, or `None` with `prepared_states`. With fewer rows than `flow_state`, by a factor k, it serves k
                draws.
            flow_state (`torch.Tensor` of shape `(B, N, M)`): Y_s.
            flow_time (`float` or `torch.Tensor` of shape `()`, `(B,)` or `(B, N)`): s in [0, 1].
            timestep (`float` or `torch.Tensor` of shape `()` or `(B,)`): t in [0, 1].
            velocity (`torch.Tensor` of shape `(B, N, M)`): v, the backbone's velocity that the residual form starts
                from.
            attention_mask (`torch.BoolTensor` of shape `(B, N)`, *optional*): `True` at valid frames.
            prepared_states (`torch.Tensor`, *optional*): result of [`~DTMHead.prepare`].
            modulation (`torch.Tensor`, *optional*): entry of [`~DTMHead.prepare_schedule`] for these times.
            guidance_scale (`float` or `torch.Tensor` of shape `(B,)`, *optional*):
                Of a head with `guidance_scale_range`, in it; the configuration's by default.
        """
        config = self.config
        flow_time = _broadcast_time(flow_time, flow_state)
        if prepared_states is None:
            prepared_states = self.prepare(hidden_states)
        if modulation is None:
            modulation = self._modulation(_broadcast_time(timestep, flow_state), flow_time, guidance_scale)
        # Not `len`, which would tie an exported graph to the batch that it was traced with.
        draws = flow_state.shape[0] // prepared_states.shape[0]
        if draws > 1:
            prepared_states = prepared_states.repeat(draws, 1, 1)
        if self.draws:
            prepared_states = prepared_states + self.state_proj(flow_state.to(self.state_proj.weight.dtype))
            output = self._run(prepared_states, modulation, attention_mask)
        else:
            modulation, w = modulation[..., :-1], modulation[..., -1:]
            output = w * self._run(prepared_states, modulation, attention_mask, velocity)

        # The division by 1 - s wants the precision of the state, not that of the network.
        output = output.to(flow_state.dtype)
        remainder = (1 - flow_time).unsqueeze(-1)
        if config.prediction != "direct":
            displacement = velocity.to(flow_state.dtype) + output
            flow_velocity = (displacement - flow_state) / remainder.clamp(min=config.min_flow_remainder)
        else:
            flow_velocity = output
            displacement = flow_state + remainder * flow_velocity
        if not return_dict:
            return flow_velocity, displacement
        return DTMHeadOutput(velocity=flow_velocity, displacement=displacement)

    def _run(
        self,
        hidden: torch.Tensor,
        modulation: torch.Tensor,
        attention_mask: torch.Tensor | None,
        velocity: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The blocks and the last projection: `(B, N, H)` -> `(B, N, M)`."""
        if self.body is not None:
            known, sample = hidden.split([self.config.hidden_size, self.config.num_mel_bins], dim=-1)
            return self.body(known, sample, velocity.to(sample.dtype), modulation[..., 0, :], attention_mask)
        parts = modulation.chunk(3 * self.config.num_hidden_layers + 2, dim=-1)
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, *parts[3 * i : 3 * i + 3], attention_mask)
        shift, scale = parts[-2:]
        return self.output_proj(self.norm_out(hidden) * (1 + scale) + shift)


def _broadcast_time(time: torch.Tensor | float, state: torch.Tensor) -> torch.Tensor:
    """A scalar, `(B,)` or `(B, N)` time as `(1, 1)`, `(B, 1)` or `(B, N)`."""
    time = torch.as_tensor(time, device=state.device, dtype=torch.float32)
    if time.ndim > 2:
        raise ValueError(f"A time must be a scalar, (B,) or (B, N), but got shape {tuple(time.shape)}.")
    time = time.reshape(*time.shape, *(1,) * (2 - time.ndim))
    if time.shape[0] not in (1, state.shape[0]) or time.shape[1] not in (1, state.shape[1]):
        raise ValueError(f"A time of shape {tuple(time.shape)} does not fit a state of shape {tuple(state.shape)}.")
    return time


AutoConfig.register(DTMHeadConfig.model_type, DTMHeadConfig, exist_ok=True)
AutoModel.register(DTMHeadConfig, DTMHead, exist_ok=True)

__all__ = ["DTMHead", "DTMHeadPreTrainedModel"]

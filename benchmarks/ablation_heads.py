"""
Heads, features and targets that `trained_ablations.py` sets against those of the package. They lost, or are not known
to win: what wins moves into the package.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from dtm_hf.backbone.backbone_f5 import F5Backbone, F5BackboneOutput, F5TextEmbeds
from dtm_hf.evaluation.oracle import joint_inner_velocity
from dtm_hf.head.configuration_dtm import DTMHeadConfig
from dtm_hf.head.modeling_dtm import DTMHeadOutput, DTMTimeEmbedding
from dtm_hf.training.objectives.conditioning import MelBatch
from dtm_hf.training.objectives.dtm import DTMObjective

# Features


def concatenate_layers(backbone: F5Backbone, layers: Sequence[int]) -> int:
    """
    Let a backbone give the streams of several layers as its features: that after each of `layers` blocks, normalised,
    and its own h, `(B, N, (len(layers) + 1) D)`. Returns their width.

    Args:
        backbone ([`F5Backbone`]): Its calls change for good; its weights and its velocity do not.
        layers (sequence of `int`): Numbers of blocks, ascending, each in [0, depth].

    Raises:
        ValueError: for layers that the backbone does not have, or that do not ascend.
    """

    def joined(streams: list[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
        # The stream grows from block to block; h is normalised by the DiT itself.
        normalised = [nn.functional.layer_norm(stream, stream.shape[-1:], eps=1e-6) for stream in streams]
        return torch.cat([*normalised, features], dim=-1)

    _replace_features(backbone, layers, joined)
    return (len(layers) + 1) * backbone.config.dim


def stream_as_features(backbone: F5Backbone, layer: int) -> None:
    """
    Let a backbone give the residual stream after `layer` blocks as its features `(B, N, D)`, in the place of h.

    Raises:
        ValueError: for a layer that the backbone does not have.
    """
    _replace_features(backbone, [layer], lambda streams, features: streams[0])


def _replace_features(
    backbone: F5Backbone,
    layers: Sequence[int],
    combine: Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor],
) -> None:
    """Hooks that hand the streams `(B, N, D)` after `layers` blocks and h to `combine`, whose result is given as h."""
    readers = [*backbone.dit.transformer_blocks, backbone.dit.norm_out]
    ascending = list(layers) == sorted(set(layers))
    if not layers or not ascending or not 0 <= layers[0] <= layers[-1] < len(readers):
        raise ValueError(
            f"`layers` must be ascending numbers of blocks from 0 to {len(readers) - 1}, but got {list(layers)}."
        )
    streams: list[torch.Tensor] = []
    for layer in layers:
        readers[layer].register_forward_pre_hook(lambda module, inputs: streams.append(inputs[0]))

    def replace(module: nn.Module, inputs: tuple, output: F5BackboneOutput) -> F5BackboneOutput:
        # Compiled code may have been made without the hooks; a head would read another stream than its own.
        if len(streams) != len(layers):
            raise RuntimeError(f"{len(layers)} streams should have been seen, but {len(streams)} were.")
        return F5BackboneOutput(features=combine(list(streams), output.features), velocity=output.velocity)

    # Before each call, not after: one that raised would leave its streams behind.
    backbone.register_forward_pre_hook(lambda module, inputs: streams.clear())
    backbone.register_forward_hook(replace)


# Heads


class DiTBlocksHead(nn.Module):
    """
    A flow head made of copies of the backbone's last blocks, final norm and time embedding.

    It reads the stream that enters these blocks ([`stream_as_features`]). Y_s is added to the stream and s (and the
    guidance scale) to the embedding of t, both by projections that start at zero: at first the blocks see what the
    backbone's own do. The output is residual and starts at D = 0, as that of [`DTMHead`].

    Args:
        config ([`DTMHeadConfig`]): Of the head that it stands beside; sizes and architecture are the backbone's.
        backbone ([`F5Backbone`]): What is copied.
        num_blocks (`int`): How many blocks.

    Raises:
        ValueError: for more blocks than the backbone has, or none.
    """

    def __init__(self, config: DTMHeadConfig, backbone: F5Backbone, num_blocks: int):
        super().__init__()
        if not 1 <= num_blocks <= backbone.config.depth:
            raise ValueError(f"`num_blocks` must lie in [1, {backbone.config.depth}], but got {num_blocks}.")
        dit, dim = backbone.dit, backbone.config.dim
        self.config = copy.deepcopy(config)
        self.config.hidden_size = dim
        self.blocks = copy.deepcopy(dit.transformer_blocks[-num_blocks:])
        self.norm_out, self.timestep_embed = copy.deepcopy(dit.norm_out), copy.deepcopy(dit.time_embed)
        self.rotary_embed = copy.deepcopy(dit.rotary_embed)
        self.requires_grad_(True)
        self.flow_time_embed = DTMTimeEmbedding(self.config)
        self.guidance_embed = None if config.guidance_scale_range is None else DTMTimeEmbedding(self.config)
        self.state_proj = nn.Linear(config.num_mel_bins, dim, bias=False)
        self.output_proj = nn.Linear(dim, config.num_mel_bins)
        starting_at_zero = [self.state_proj, self.output_proj, self.flow_time_embed.linear_2]
        if self.guidance_embed is not None:
            starting_at_zero.append(self.guidance_embed.linear_2)
        for layer in starting_at_zero:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    @property
    def device(self) -> torch.device:
        return self.output_proj.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.output_proj.weight.dtype

    def prepare_schedule(
        self, timesteps: torch.Tensor, flow_times: torch.Tensor, guidance_scale: float | None = None
    ) -> torch.Tensor:
        """Embeddings `(T, S, 1, D)` of every pair of a global and an inner time."""
        rows = [self._embed(t.expand(len(flow_times)), flow_times, guidance_scale) for t in timesteps]
        return torch.stack(rows).unsqueeze(2)

    def prepare(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The stream as it is: these blocks were made for it."""
        return hidden_states.to(self.dtype)

    def _embed(
        self, timestep: torch.Tensor, flow_time: torch.Tensor, guidance_scale: torch.Tensor | float | None
    ) -> torch.Tensor:
        """Times `(R,)` -> `(R, D)`."""
        embedding = self.timestep_embed(timestep.to(self.dtype)) + self.flow_time_embed(flow_time)
        if self.guidance_embed is None:
            return embedding
        low, high = self.config.guidance_scale_range
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        scale = torch.as_tensor(scale, device=timestep.device, dtype=torch.float32).expand(len(timestep))
        return embedding + self.guidance_embed((scale - low) / (high - low))

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
    ) -> DTMHeadOutput:
        """Arguments as of [`DTMHead.forward`]; `hidden_states` `(B, N, D)` is the stream, times are `()` or `(B,)`."""
        rows, num_frames = flow_state.shape[:2]
        flow_time = torch.as_tensor(flow_time, device=flow_state.device, dtype=torch.float32).expand(rows)
        if prepared_states is None:
            prepared_states = self.prepare(hidden_states)
        if modulation is None:
            timestep = torch.as_tensor(timestep, device=flow_state.device, dtype=torch.float32).expand(rows)
            modulation = self._embed(timestep, flow_time, guidance_scale)
        # As the backbone does: attention without a mask is faster.
        if attention_mask is not None and attention_mask.all():
            attention_mask = None
        hidden = prepared_states.repeat(rows // len(prepared_states), 1, 1)
        hidden = hidden + self.state_proj(flow_state.to(self.dtype))
        rope = self.rotary_embed.forward_from_seq_len(num_frames)
        for block in self.blocks:
            hidden = block(hidden, modulation, mask=attention_mask, rope=rope)
        output = self.output_proj(self.norm_out(hidden, modulation)).to(flow_state.dtype)
        displacement = velocity.to(flow_state.dtype) + output
        remainder = (1 - flow_time)[:, None, None].clamp(min=self.config.min_flow_remainder)
        return DTMHeadOutput(velocity=(displacement - flow_state) / remainder, displacement=displacement)


# Targets


class OracleTargetObjective(DTMObjective):
    r"""
    Regresses on E[Y | X_t, Y_s] as the backbone gives it ([`joint_inner_velocity`]) in the place of Y: a target of the
    same mean, if the backbone is right, and without the spread of Y. It costs a backbone pass a draw.

    Baked guidance shifts Y by w (v_c - v_u), which X_t determines. So with Y' = Y + w d and Y'_s = Y_s + s w d the
    target is E[Y' | X_t, Y'_s] = E[Y | X_t, Y_s] + w d, and the extra pass runs the conditional branch alone.
    """

    def _target(self, y, y_s, s, shift, x_t, t, conditions, batch) -> torch.Tensor:
        unshifted = y_s - s[:, None, None] * shift
        return self.posterior_mean(x_t, unshifted, t, s, conditions, batch) + shift

    @torch.no_grad()
    def posterior_mean(self, x_t, y_s, t, s, conditions, batch: MelBatch) -> torch.Tensor:
        """E[Y | X_t, Y_s] without guidance `(k B, N, M)`, for k draws `y_s` at `s` of each row."""
        k, mask = len(y_s) // len(x_t), batch.attention_mask
        dropped = conditions.drop_text
        text = self.backbone.encode_text(batch.text_ids, mask, x_t.shape[1], with_null=bool(dropped.any()))
        text = torch.where(dropped[:, None, None], text.null, text.cond).repeat(k, 1, 1)
        embeds = F5TextEmbeds(cond=text, null=text)
        cond, masks = conditions.cond.repeat(k, 1, 1), mask.repeat(k, 1)

        def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return self.backbone(x, time, cond, None, masks, text_embeds=embeds).velocity.to(x.dtype)

        g = joint_inner_velocity(velocity, x_t.repeat(k, 1, 1), y_s, t.repeat(k), s)
        return y_s + (1 - s)[:, None, None] * g

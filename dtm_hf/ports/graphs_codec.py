"""The graph of a codec's way from codes to sound; its encoder is left behind."""

import copy

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.mimi.modeling_mimi import MimiConv1d, MimiModel

from dtm_hf.ports.graph import FRAMES, ROWS, Graph


class PaddedConvolution(nn.Module):
    """
    A causal convolution of stride 1: transformers' computes its padding, which is the same at each length, from
    tensors, and no tracer can follow that.
    """

    def __init__(self, convolution: MimiConv1d):
        super().__init__()
        self.conv, self.mode = convolution.conv, convolution.pad_mode
        self.left = int(convolution.padding_total)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(hidden_states, (self.left, 0), mode=self.mode))


class CodecGraph(nn.Module):
    """Codes `(B, Q, F)` of all Q codebooks, of which `used` `(Q,)` says by 1 or 0 which count, to `(B, T)`."""

    def __init__(self, codec: MimiModel):
        super().__init__()
        codec = copy.deepcopy(codec)
        self.decoder, split = codec.decoder, codec.quantizer
        self.groups = nn.ModuleList(
            [split.semantic_residual_vector_quantizer, split.acoustic_residual_vector_quantizer]
        )
        for k, layer in enumerate(layer for group in self.groups for layer in group.layers):
            self.register_buffer(f"book_{k}", layer.codebook.embed.detach().clone())
        _pad_statically(self.decoder)

    def forward(self, codes: torch.Tensor, used: torch.Tensor) -> dict[str, torch.Tensor]:
        k, latents = 0, 0.0
        for group in self.groups:
            part = 0.0
            for _ in group.layers:
                part = part + used[k] * F.embedding(codes[:, k], getattr(self, f"book_{k}"))
                k += 1
            part = part.transpose(1, 2)
            latents = latents + (part if group.output_proj is None else group.output_proj(part))
        states = latents if self.decoder.upsample is None else self.decoder.upsample(latents)
        states = self.decoder.decoder_transformer(states.transpose(1, 2), use_cache=False).last_hidden_state
        return {"waveform": self.decoder.decoder_seanet(states.transpose(1, 2))[:, 0]}


def _pad_statically(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, MimiConv1d):
            setattr(module, name, PaddedConvolution(child))
        else:
            _pad_statically(child)


def codec_graphs(codec: MimiModel) -> list[Graph]:
    """
    The graph of a codec in evaluation mode.

    Raises:
        ValueError: for a codec whose convolutions look ahead.
    """
    config = codec.config
    if not config.use_causal_conv:
        raise ValueError("`codec` must have causal convolutions to be exported.")
    codes = torch.randint(config.codebook_size, (ROWS, config.num_quantizers, FRAMES))
    inputs = {"codes": codes, "used": torch.ones(config.num_quantizers)}
    return [Graph("decoder", CodecGraph(codec), inputs, {"codes": (0, 2)})]

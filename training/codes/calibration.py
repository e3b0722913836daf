"""Scales of a new codec's convolutions, from the first recordings."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.models.mimi.modeling_mimi import MimiModel

from dtm_hf.codec.mimi import whole_frames

_LEAST_DEVIATION = 1e-6


@torch.no_grad()
def calibrate(codec: MimiModel, waveforms: Sequence[torch.Tensor]) -> None:
    """
    Change each convolution of a new codec so that its channels have mean 0 and deviation 1 over some recordings, the
    last the recordings' own deviation: initialisation that depends on data (arXiv 1511.06856, 1807.03039).

    As they are drawn, what all frames have in common is some times what tells them apart, and sound comes out 35 times
    too loud: the first thing that is learnt is a decoder that hears nothing.

    Args:
        codec (`MimiModel`): changed.
        waveforms (sequence of `torch.Tensor` of shape `(T_i,)`): at the codec's rate.
    """
    batch = whole_frames(codec, waveforms)
    convolutions = [module for module in codec.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)]
    last = codec.decoder.decoder_seanet.layers[-1].conv
    wanted = {last: float(batch.std())}
    # A projection into the codebooks' space is no part of this: they are filled with what comes out of it.
    hooks = [module.register_forward_hook(_Scale(wanted.get(module, 1.0))) for module in convolutions]
    try:
        codec.decoder(codec.encoder(batch).latents)
    finally:
        for hook in hooks:
            hook.remove()


class _Scale:
    """A hook that changes a convolution by what comes out of it, and what goes on."""

    def __init__(self, wanted: float):
        self.wanted = wanted

    def __call__(self, module: nn.Conv1d | nn.ConvTranspose1d, _, out: torch.Tensor) -> torch.Tensor:
        deviation, mean = torch.std_mean(out, dim=(0, 2))
        scale = self.wanted / deviation.clamp(min=_LEAST_DEVIATION)
        if isinstance(module, nn.ConvTranspose1d):
            # Weights are (in, out / groups, kernel): groups lie one behind the other in both.
            grouped = module.weight.unflatten(0, (module.groups, -1))
            grouped.mul_(scale.view(module.groups, 1, -1, 1))
        else:
            module.weight.mul_(scale[:, None, None])
        if module.bias is None:
            return out * scale[:, None]
        module.bias.sub_(mean).mul_(scale)
        return (out - mean[:, None]) * scale[:, None]

"""A new codec's convolutions after calibration: frames are told apart, and sound is as loud as recordings."""

import torch
from tiny_codec import clips, tiny_codec
from torch import nn

from dtm_hf.training.codes.calibration import calibrate


def outputs(codec, waveforms):
    """What comes out of each convolution, and the sound."""
    kept, hooks = {}, []
    for name, module in codec.named_modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and "quantizer" not in name:
            hooks.append(module.register_forward_hook(lambda _, __, out, name=name: kept.update({name: out})))
    with torch.no_grad():
        sound = codec.decoder(codec.encoder(waveforms[:, None]).latents).audio_values
    for hook in hooks:
        hook.remove()
    return kept, sound


def test_channels_have_mean_0_and_deviation_1():
    codec, waveforms = tiny_codec(), torch.stack([clip[: 4 * 1920] for clip in clips()[:2]])
    drawn, loud = outputs(codec, waveforms)
    calibrate(codec, list(waveforms))
    kept, sound = outputs(codec, waveforms)
    assert kept.keys() == drawn.keys() and any("upsample" in name for name in kept)
    last = codec.decoder.decoder_seanet.layers[-1].conv
    for name, out in kept.items():
        if codec.get_submodule(name) is not last:
            deviation, mean = torch.std_mean(out, dim=(0, 2))
            torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=0.02, rtol=0, msg=name)
            # Those before and behind the quantiser have no bias.
            assert mean.abs().max() < 1e-3 or codec.get_submodule(name).bias is None, name
    torch.testing.assert_close(sound.std(), waveforms.std(), atol=0, rtol=0.05)
    assert loud.std() > 3 * waveforms.std()


def test_a_silent_channel_stays_finite():
    codec = tiny_codec()
    calibrate(codec, [torch.zeros(1920), torch.zeros(3000)])
    assert all(parameter.isfinite().all() for parameter in codec.parameters())

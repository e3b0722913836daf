"""The loss of a codec: it falls, books follow the latents, and what is saved is a plain MimiModel."""

import torch
from tiny_codec import clips, tiny_codec

from dtm_hf.codec.mimi import encode_recordings, load_codec
from dtm_hf.training.objectives.codec import CodecObjective, WaveBatch


def batch():
    waveforms = torch.stack([clip[:9600] for clip in clips()[:2]])
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    waveforms[1, 3 * 1920 :] = 0.0
    return WaveBatch(waveforms, mask)


def test_it_learns_to_give_back_the_sound(tmp_path):
    codec, objective, generator = tiny_codec().train(), CodecObjective(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=2e-3)
    books = [layer.codebook.embed.clone() for layer in codec.quantizer.acoustic_residual_vector_quantizer.layers]
    spectral = []
    for _ in range(30):
        output = objective.loss(codec, batch(), generator)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        spectral.append(float(output.figures["spectral"]))
    assert sum(spectral[-5:]) < 0.7 * sum(spectral[:5])
    layers = codec.quantizer.acoustic_residual_vector_quantizer.layers
    assert all((layer.codebook.embed - before).abs().max() > 1e-3 for layer, before in zip(layers, books, strict=True))
    codec.eval().save_pretrained(tmp_path)
    before, after = (encode_recordings(one, clips()[:1])[0] for one in (codec, load_codec(tmp_path)))
    assert torch.equal(before, after)


def test_what_is_padding_moves_no_book():
    codecs = [tiny_codec().train() for _ in range(2)]
    for codec, noise in zip(codecs, (0.0, 1.0), strict=True):
        given = batch()
        given.waveforms[1, 3 * 1920 :] = noise * torch.randn(2 * 1920, generator=torch.Generator().manual_seed(1))
        CodecObjective().loss(codec, given, torch.Generator().manual_seed(0))
    one, other = (codec.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed_sum for codec in codecs)
    torch.testing.assert_close(one, other)


def test_validation_moves_nothing():
    codec = tiny_codec()
    before = codec.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed_sum.clone()
    losses = [CodecObjective().loss(codec, batch(), torch.Generator().manual_seed(i)).loss for i in range(2)]
    assert torch.equal(*losses)
    assert torch.equal(before, codec.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed_sum)

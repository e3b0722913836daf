"""The loss of a codec: it falls, books follow the latents, and what is saved is a plain MimiModel."""

import torch
from tiny_codec import clips, tiny_codec

from dtm_hf.codec.mimi import encode_recordings, load_codec
from dtm_hf.training.objectives.codec import CodecObjective, WaveBatch
from dtm_hf.training.objectives.mel_reader import CodecNetwork, MelReader


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
        output = objective.loss(CodecNetwork(codec), batch(), generator)
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
        CodecObjective().loss(CodecNetwork(codec), given, torch.Generator().manual_seed(0))
    one, other = (codec.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed_sum for codec in codecs)
    torch.testing.assert_close(one, other)


def test_rows_may_be_decoded_from_their_latents_and_validation_never_does():
    """From random codebooks all sounds differ; the share is of the rows of a training batch alone."""
    codec, seen = tiny_codec().train(), []
    codec.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    split = codec.quantizer
    for unquantized, training in ((0.0, True), (1.0, True), (1.0, False)):
        codec.train(training)
        objective = CodecObjective(unquantized=unquantized, decay=1.0)
        with torch.no_grad():
            found = objective.loss(CodecNetwork(codec), batch(), torch.Generator().manual_seed(0))
            latents = codec.encoder(batch().waveforms[:, None]).latents
            parts = [
                part.output_proj(part.input_proj(latents))
                for part in (split.semantic_residual_vector_quantizer, split.acoustic_residual_vector_quantizer)
            ]
        close = torch.allclose(seen[-1], sum(parts), atol=1e-5)
        assert close == (unquantized == 1.0 and training)
        assert 1 < found.figures["entries"] <= 8


def test_no_book_moves_and_none_is_used_before_the_warm_up_is_over():
    codec, objective, seen = tiny_codec().train(), CodecObjective(unquantized=0.0), []
    codec.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    book = codec.quantizer.semantic_residual_vector_quantizer.layers[0].codebook
    before = book.embed_sum.clone()
    objective.quantizes = False
    warm = objective.loss(CodecNetwork(codec), batch(), torch.Generator().manual_seed(0))
    assert torch.equal(before, book.embed_sum)
    objective.quantizes = True
    cold = objective.loss(CodecNetwork(codec), batch(), torch.Generator().manual_seed(0))
    assert not torch.equal(before, book.embed_sum) and not torch.allclose(*seen)
    assert warm.figures["commitment"] > 0 and cold.loss.isfinite()


def test_the_distance_to_codes_does_not_fall_by_shrinking():
    """Twice the latents and twice the books are as far from each other: else all would come to be one point."""
    found = []
    for factor in (1.0, 2.0):
        codec = tiny_codec()
        split = codec.quantizer
        for part in (split.semantic_residual_vector_quantizer, split.acoustic_residual_vector_quantizer):
            part.input_proj.weight.data.mul_(factor)
            for layer in part.layers:
                layer.codebook.embed_sum.mul_(factor)
                layer.codebook._embed = None
        with torch.no_grad():
            found.append(
                CodecObjective()
                .loss(CodecNetwork(codec), batch(), torch.Generator().manual_seed(0))
                .figures["commitment"]
            )
    torch.testing.assert_close(*found)


def test_validation_moves_nothing():
    codec = tiny_codec()
    before = codec.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed_sum.clone()
    losses = [
        CodecObjective().loss(CodecNetwork(codec), batch(), torch.Generator().manual_seed(i)).loss for i in range(2)
    ]
    assert torch.equal(*losses)
    assert torch.equal(before, codec.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed_sum)


def test_latents_learn_to_tell_the_mel_and_padding_is_not_asked_for():
    codec, generator = tiny_codec().train(), torch.Generator().manual_seed(0)
    reader = MelReader(codec.config)
    reader.measure([clip[: len(clip) // 1920 * 1920] for clip in clips() if len(clip) >= 1920])
    network, given = CodecNetwork(codec, reader), batch()
    loud = WaveBatch(given.waveforms.clone(), given.frame_mask)
    # Beyond what the window of the last frame that is heard takes in.
    loud.waveforms[1, 3 * 1920 + 1024 :] = 1.0
    with torch.no_grad():
        quiet, other = (
            reader(
                codec.encoder(given.waveforms[:, None]).latents,
                one.waveforms,
                given.frame_mask.flatten().nonzero()[:, 0],
            )
            for one in (given, loud)
        )
    torch.testing.assert_close(quiet, other)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    # With no other gradient: what falls is what the encoder is told by the reader, through the codes.
    objective, unread = CodecObjective(commitment=0.0, waveform=0.0, unquantized=0.0), []
    codec.decoder.requires_grad_(False)
    for _ in range(30):
        output = objective.loss(network, given, generator)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        unread.append(float(output.figures["unread"]))
    assert sum(unread[-5:]) < 0.7 * sum(unread[:5])

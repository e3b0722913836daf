"""The codec: batches equal their items, pieces equal the whole, codes survive a reload, bad codes are named."""

import pytest
import torch
from tiny_codec import clips, tiny_codec

from dtm_hf.codec.mimi import (
    decode_codes,
    encode_recordings,
    fill_codebooks,
    keep_sizes_on_cpu,
    load_codec,
    num_frames,
    refresh_codebooks,
)
from dtm_hf.codec.streaming import StreamingDecoder


@pytest.fixture(scope="module", name="clips")
def _clips():
    return clips()


@pytest.fixture(scope="module")
def codec():
    return tiny_codec()


def test_filled_codebooks_are_used_and_tell_more_with_each(codec, clips):
    codes = torch.cat(encode_recordings(codec, clips), dim=1)
    assert all(len(book.unique()) > 4 for book in codes)
    # Mimi's first book codes the latents by itself; the others code them together, residual by residual.
    acoustic = codec.quantizer.acoustic_residual_vector_quantizer
    with torch.no_grad():
        wanted = acoustic.input_proj(codec.encoder(clips[2][None, None]).latents)
    codes = encode_recordings(codec, clips[2:3])[0][1:]
    parts = [layer.decode(book[None]) for layer, book in zip(acoustic.layers, codes, strict=True)]
    errors = [float((sum(parts[:k]) - wanted).square().mean() / wanted.square().mean()) for k in (1, 2, 3)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2


def test_a_batch_is_its_items(codec, clips):
    together = encode_recordings(codec, clips, 3)
    assert [codes.shape for codes in together] == [(3, num_frames(codec, len(clip))) for clip in clips]
    for clip, codes in zip(clips, together, strict=True):
        assert torch.equal(encode_recordings(codec, [clip], 3)[0], codes)
    spoken = decode_codes(codec, together)
    assert [len(sound) for sound in spoken] == [1920 * codes.shape[1] for codes in together]
    for codes, sound in zip(together, spoken, strict=True):
        alone = decode_codes(codec, [codes])[0]
        torch.testing.assert_close(alone, sound, atol=1e-5 * float(alone.abs().max()), rtol=0)


@pytest.mark.parametrize("loaded", [False, True], ids=["new", "loaded"])
def test_convolutions_wait_for_no_device(tmp_path, loaded):
    """On a device without values, where what reads one fails: as each padding did, and waited for a GPU."""
    codec = tiny_codec()
    codec.save_pretrained(tmp_path)
    if loaded:
        codec = load_codec(tmp_path)
    else:
        keep_sizes_on_cpu(codec)
    codec.to("meta")
    with torch.no_grad():
        states = codec.encoder.encoder_seanet(torch.zeros(2, 1, 3840, device="meta"))
        sound = codec.decoder.decoder_seanet(states)
    assert states.shape == (2, codec.config.hidden_size, 4) and sound.shape == (2, 1, 3840)


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (1920, 1), (1921, 2), (24000, 13)])
def test_a_second_has_thirteen_frames(codec, samples, frames):
    """12.5 a second, and what is begun counts."""
    assert num_frames(codec, samples) == frames
    assert encode_recordings(codec, [torch.rand(samples)])[0].shape == (4, frames)


@pytest.mark.parametrize("pieces", [[1] * 13, [3, 1, 9], [13]])
def test_pieces_are_the_whole(codec, clips, pieces):
    codes = encode_recordings(codec, clips[:1])[0]
    whole = decode_codes(codec, [codes])[0]
    decoder = StreamingDecoder(codec)
    streamed = torch.cat([decoder.decode(piece) for piece in codes.split(pieces, dim=1)])
    torch.testing.assert_close(streamed, whole, atol=1e-5 * float(whole.abs().max()), rtol=0)


def test_codes_are_the_same_after_a_reload_and_after_an_edit(codec, clips, tmp_path):
    codes = encode_recordings(codec, clips)
    codec.save_pretrained(tmp_path)
    again = load_codec(tmp_path)
    for one, other in zip(codes, encode_recordings(again, clips), strict=True):
        assert torch.equal(one, other)
    speaker = load_codec(tmp_path, decoder_only=True)
    assert speaker.encoder is None
    torch.testing.assert_close(decode_codes(speaker, codes[:1])[0], decode_codes(codec, codes[:1])[0])
    # The second book's entries in another order: its codes follow once the stale copy is dropped.
    book = again.quantizer.acoustic_residual_vector_quantizer.layers[0].codebook
    book.embed_sum.copy_(book.embed_sum.flip(0).clone())
    refresh_codebooks(again)
    assert torch.equal(encode_recordings(again, clips[:1], 2)[0][1], 15 - codes[0][1])


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        (torch.full((4, 2), -1), r"`codes` must lie in \[0, 16\), but got -1 to -1"),
        (torch.full((4, 2), 16), "16 to 16"),
        (torch.zeros(5, 2, dtype=torch.long), r"`num_codebooks` must lie in \[1, 4\] for this codec, but got 5"),
        (torch.zeros(4, 2), "whole numbers of shape"),
        (torch.zeros(4, dtype=torch.long), "whole numbers of shape"),
        (torch.zeros(4, 0, dtype=torch.long), "whole numbers of shape"),
    ],
)
def test_codes_that_are_none_are_refused(codec, codes, told):
    with pytest.raises(ValueError, match=told):
        decode_codes(codec, [codes])
    with pytest.raises(ValueError, match=told):
        StreamingDecoder(codec).decode(codes)


def test_a_codec_of_another_rate_is_refused(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"sampling_rate": 24000', '"sampling_rate": 16000'))
    with pytest.raises(ValueError, match="24000 Hz, but is for 16000 Hz"):
        load_codec(tmp_path)


def test_too_few_frames_to_fill_codebooks_are_refused(codec):
    with pytest.raises(ValueError, match="a frame for each of 16 entries of a codebook, but have 1"):
        fill_codebooks(codec, [torch.zeros(100)])

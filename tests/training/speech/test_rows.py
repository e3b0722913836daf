"""One row: what is decoded, what is bad, what is only too long."""

import io

import numpy as np
import pytest
import soundfile
from speech_corpora import encoded, row
from tiny import SAMPLING_RATE, voice

from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.data.sources import Source
from dtm_hf.training.speech.rows import UtteranceMaker, decode_audio


def test_audio_of_another_rate_and_two_channels():
    mono = voice(0.5)[::3]
    content = encoded(np.stack([mono, -0.5 * mono], axis=1), rate=8000)
    wave = decode_audio(content, SAMPLING_RATE)
    assert wave.dtype == np.float32 and wave.ndim == 1 and abs(len(wave) - 12000) <= 3
    assert np.sqrt((wave**2).mean()) == pytest.approx(0.25 * np.sqrt((mono**2).mean()), rel=0.1)


@pytest.mark.parametrize(
    ("container", "subtype", "error"),
    [("FLAC", "PCM_24", 1e-6), ("MP3", "MPEG_LAYER_III", 0.3), ("OGG", "VORBIS", 0.5)],
)
def test_formats(container, subtype, error):
    mono = voice(0.5)
    wave = decode_audio(encoded(mono, container=container, subtype=subtype), SAMPLING_RATE)
    assert abs(len(wave) - len(mono)) <= 2400
    n = min(len(wave), len(mono))
    assert np.abs(wave[:n] - mono[:n]).max() < error


def test_audio_that_is_cut_off():
    content = encoded(voice(2.0), container="FLAC", subtype="PCM_16")
    with pytest.raises(BadRow, match="cut off|undecodable"):
        decode_audio(content[: len(content) // 2], SAMPLING_RATE)


def test_audio_that_is_far_too_long_is_not_decoded():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(8000 * 60, np.int16), 8000, format="WAV", subtype="PCM_16")
    # Decoded, it would be silent.
    with pytest.raises(WrongLength, match=r"longer than 30\.0 s"):
        decode_audio(buffer.getvalue(), SAMPLING_RATE, 30.0)


@pytest.fixture
def read(tokenizer, feature_extractor):
    def read(entry, **settings):
        arguments = DataArguments(**{"min_seconds": 0.1, "max_seconds": 2.0, "frames_per_batch": 130} | settings)
        source = Source(SourceArguments("x"), SourceArguments("x").columns, "parquet", "/nowhere", [])
        return UtteranceMaker(arguments, tokenizer, feature_extractor).make(source, entry)

    return read


def test_a_good_row(read, tokenizer):
    utterance = read({**row(0, 0.5), "text": "  How; are you? "})
    assert utterance.tokens == tokenizer.tokenize("How; are you?") and utterance.prompt_samples == 0
    np.testing.assert_array_equal(utterance.waveform, voice(0.5, seed=0))


GOOD = voice(0.5)
CHANNELS = np.stack([GOOD] * 17, axis=1)
IMPOSSIBLE = "audio of a rate or channels that no recording has"
HOLE = np.where(np.arange(len(GOOD)) == 100, np.nan, GOOD)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (row(0, 0, content=b"RIFF, but not really"), "undecodable audio"),
        (row(0, 0, content=encoded(HOLE)), "audio with NaN or infinity"),
        (row(0, 0, content=encoded(0 * GOOD)), "silent audio"),
        (row(0, 0, content=encoded(GOOD[:0])), "silent audio"),
        (row(0, 0, content=encoded(np.where(GOOD > 0.1, np.inf, GOOD))), "audio with NaN or infinity"),
        (row(0, 0, content=encoded(1e15 * GOOD)), r"audio with samples far outside of \[-1, 1\]"),
        (
            row(0, 0, content=encoded(np.stack([GOOD] * 17, axis=1))),
            "audio of a rate or channels that no recording has",
        ),
        (row(0, 0, content=encoded(GOOD, rate=655_350)), IMPOSSIBLE),
        (row(0, 0.5, text="a" * 200), "text that is longer than its audio"),
        (row(0, 0.5, text="a" * 2_000_000), "text of more than 20000 characters"),
        (row(0, 0.5, text="  "), "text without a known token"),
        (row(0, 0.5, text="☃ ☃"), "text without a known token"),
        ({**row(0, 0.5), "text": None}, "text without a known token"),
        ({**row(0, 0.5), "text": 7}, "text without a known token"),
        ({**row(0, 0.5), "text": b"\xff"}, "text that is not UTF-8"),
        ({"text": "nothing", "audio": None}, "no audio"),
        ({"text": "nothing", "audio": {"bytes": None, "path": None}}, "no audio"),
        ({"text": "nothing", "audio": 3.0}, "audio that is neither bytes nor a path"),
        (BadRow("malformed metadata"), "malformed metadata"),
    ],
)
def test_bad_rows(read, entry, reason):
    with pytest.raises(BadRow, match=f"^{reason}$"):
        read(entry)


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [(0.05, r"shorter than 0\.1 s"), (2.5, r"longer than 2\.0 s"), (1.5, "more frames than a batch")],
)
def test_rows_of_the_wrong_length(read, seconds, reason):
    with pytest.raises(WrongLength, match=f"^{reason}$"):
        read(row(0, seconds))


def test_text_that_is_tokenized_already(read):
    """As F5-TTS prepares it: pinyin syllables, which a split into characters would destroy."""
    tokens = [" ", "ni3", " ", "hao3", "a"]
    assert read({**row(0, 0.5), "text": tokens}).tokens == tokens

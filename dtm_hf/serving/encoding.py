"""Samples as the bytes of a file or a stream."""

import io
from dataclasses import dataclass

import numpy as np

# Opus knows these rates alone (RFC 6716, section 2).
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


@dataclass(frozen=True)
class AudioFormat:
    """
    How speech is sent.

    Args:
        media_type (`str`): as HTTP names it.
        container (`str`, *optional*), codec (`str`, *optional*): as libsndfile names them; none for samples alone.
    """

    media_type: str
    container: str | None = None
    codec: str | None = None

    @property
    def is_there(self) -> bool:
        """Whether the libsndfile of this machine has the encoder."""
        import soundfile

        return self.container is None or soundfile.check_format(self.container, self.codec)


FORMATS = {
    "mp3": AudioFormat("audio/mpeg", "MP3", "MPEG_LAYER_III"),
    "opus": AudioFormat("audio/ogg", "OGG", "OPUS"),
    "flac": AudioFormat("audio/flac", "FLAC", "PCM_16"),
    "wav": AudioFormat("audio/wav", "WAV", "PCM_16"),
    "pcm": AudioFormat("audio/pcm"),
}
"""Formats by the names that OpenAI's interface gives them; its `aac` is not among them: libsndfile has no encoder."""


def formats_there() -> list[str]:
    """Names of the formats that can be written here."""
    return [name for name, audio_format in FORMATS.items() if audio_format.is_there]


def to_pcm(audio: np.ndarray) -> bytes:
    """Float samples `(T,)` as signed 16-bit little-endian ones; what is louder than full scale is cut off."""
    check_finite(audio)
    return (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()


def encode(audio: np.ndarray, sampling_rate: int, audio_format: str) -> bytes:
    """
    A file of float samples `(T,)`, lowered where they are louder than 16 bits hold.

    Raises:
        KeyError: for a format that is not in `FORMATS`.
        ValueError: for samples that are no numbers, and for an encoder that refuses them.
    """
    import soundfile

    if audio_format == "pcm":
        return to_pcm(audio)
    check_finite(audio)
    audio = audio / max(1.0, float(np.abs(audio).max(initial=0.0)))
    chosen = FORMATS[audio_format]
    if chosen.codec == "OPUS" and sampling_rate not in _OPUS_RATES:
        import soxr

        audio, sampling_rate = soxr.resample(audio, sampling_rate, 48000), 48000
    file = io.BytesIO()
    try:
        soundfile.write(file, audio, sampling_rate, format=chosen.container, subtype=chosen.codec)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"Speech at {sampling_rate} Hz cannot be written as {audio_format}: {error}") from error
    return file.getvalue()


def check_finite(audio: np.ndarray) -> None:
    """
    Raises:
        ValueError: if some samples are no numbers.
    """
    if not np.isfinite(audio).all():
        raise ValueError(
            "The model's output holds NaN or infinite samples; its weights may be damaged, or try float32."
        )

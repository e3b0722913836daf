"""The voices of a server or of a run, each read and checked before anybody asks for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dtm_hf.frontend.voices import Recording
from dtm_hf.pipelines.rows import Reference
from dtm_hf.reading import show
from dtm_hf.runtime.contract import RowSpeaker


@dataclass(frozen=True, eq=False)
class ReadVoice:
    """A recording as its speaker takes it, and what is said in it."""

    reference: Reference
    text: str


def read_voices(speaker: RowSpeaker, voices: Mapping[str, Recording]) -> dict[str, ReadVoice]:
    """
    Voices by name, so that no request reads a recording again.

    Raises:
        ValueError: naming the voice that cannot be spoken like.
    """
    read = {}
    for name, voice in voices.items():
        try:
            read[name] = ReadVoice(encode_voice(speaker, str(voice.audio), voice.text), voice.text)
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"`voices`: {show(name)} cannot be used: {error}") from error
    return read


def encode_voice(speaker: RowSpeaker, audio: Any, text: str) -> Reference:
    """
    A recording as `speaker` takes it in the place of the file: read, cut and aligned.

    Args:
        speaker ([`~dtm_hf.runtime.contract.RowSpeaker`]): who will speak like it.
        audio: as of [`~dtm_hf.frontend.audio.read_speech`].
        text (`str`): what is said in it.

    Raises:
        TypeError, ValueError, FileNotFoundError: if it cannot be spoken like.
    """
    try:
        # Its own text is one that can be said if any can.
        return speaker.prepare(text, audio, text)[0].reference
    except ValueError as error:
        raise ValueError(str(error).replace("`text`", "`reference_text`")) from error

"""The voices of a server or of a run, each read and checked before anybody asks for it."""

from typing import Any

from dtm_hf.pipelines.rows import Reference
from dtm_hf.runtime.contract import RowSpeaker


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

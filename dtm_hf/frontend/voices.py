"""Recordings of voices, by name: those packaged with a pipeline, and those of a folder. Imports no audio library."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

# How the names of the recordings of a pipeline begin.
PACKAGED = "reference"
# What is looked at of a folder: what a recording may be called, not all that can be read.
_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a")
_MAX_TEXT_BYTES = 64 * 2**10


@dataclass(frozen=True)
class Recording:
    """A recording of a voice and what is said in it."""

    audio: Path
    text: str


def packaged_voices(model: str | os.PathLike) -> dict[str, Recording]:
    """Recordings in the folder of a pipeline: `reference.wav` as "default", `reference-NAME.wav` as NAME."""
    voices = {}
    for audio in sorted(Path(model).glob(f"{PACKAGED}*.wav"), key=lambda audio: audio.stem):
        said = audio.with_suffix(".txt")
        if said.is_file() and re.fullmatch(rf"{PACKAGED}(-.+)?", audio.stem):
            name = audio.stem.removeprefix(PACKAGED).removeprefix("-") or "default"
            voices[name] = Recording(audio, said.read_text(encoding="utf-8").strip())
    return voices


def voices_of_folder(folder: str | os.PathLike) -> dict[str, Recording]:
    """
    Recordings of a folder by the stem of their names, each with what is said in it beside it, as `NAME.txt`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no such pair in it, a text is empty or no text in UTF-8, or two have one name.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"`voices` {str(folder)!r} is not an existing folder.")
    voices: dict[str, Recording] = {}
    for audio in sorted(folder.iterdir()):
        said = audio.with_suffix(".txt")
        if audio.suffix.lower() not in _SUFFIXES or not said.is_file():
            continue
        if audio.stem in voices:
            raise ValueError(f"`voices` {str(folder)!r} holds two recordings called {audio.stem!r}.")
        with open(said, "rb") as file:
            content = file.read(_MAX_TEXT_BYTES)
        try:
            text = content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"`voices`: {str(said)!r} must be text in UTF-8 (byte {error.start} is none).") from error
        if not text:
            raise ValueError(f"`voices`: {str(said)!r} is empty; it must hold what is said in {audio.name!r}.")
        voices[audio.stem] = Recording(audio, text)
    if not voices:
        raise ValueError(
            f"`voices` {str(folder)!r} holds no recording ({', '.join(_SUFFIXES)}) with its text beside it, NAME.txt."
        )
    return voices


__all__ = ["PACKAGED", "Recording", "packaged_voices", "voices_of_folder"]

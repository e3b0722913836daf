"""Where texts and voices come from: streams of `datasets`, and folders of recordings."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dtm_hf.frontend.audio import load_reference
from dtm_hf.frontend.voices import voices_of_folder
from dtm_hf.hub import hub_name
from dtm_hf.reading import show
from dtm_hf.validation import naming

MAX_VOICES = 10_000
_BUILDERS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class SourceVoice:
    """A recording, as a path or as the bytes of a file, and what is said in it."""

    audio: Any
    text: str

    @property
    def digest(self) -> str:
        """Of what it is, wherever it lies."""
        content = Path(self.audio).read_bytes() if isinstance(self.audio, str) else self.audio["bytes"]
        return sha256(content + self.text.encode()).hexdigest()


def stream_rows(source: str, split: str) -> Iterator[dict[str, Any]]:
    """
    The rows of a data set, in their order, as they come.

    Args:
        source (`str`): a file (.txt with a text a line, .jsonl, .csv, .tsv, .parquet), a folder, or a Hub name.
        split (`str`): of a folder or a Hub repository.

    Raises:
        ValueError: if it is none of these, or cannot be read; also on the way, where a file breaks off.
        FileNotFoundError: if it is not there.
    """
    from datasets import disable_progress_bars, load_dataset
    from datasets.utils import logging

    # What it logs of a file that it cannot read is what it raises.
    logging.set_verbosity(logging.CRITICAL)
    disable_progress_bars()
    path = Path(source).expanduser()
    with naming(source):
        if path.is_file():
            if path.suffix.lower() not in _BUILDERS:
                raise ValueError(f"`{source}` must end in one of {', '.join(_BUILDERS)}.")
            more = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
            rows = load_dataset(
                _BUILDERS[path.suffix.lower()], data_files=str(path), split="train", streaming=True, **more
            )
        elif path.is_dir() or hub_name(source):
            rows = load_dataset(str(path) if path.is_dir() else source, split=split, streaming=True)
        else:
            raise FileNotFoundError(f"{source!r} is neither a file, a folder nor the name of a Hub repository.")
        yield from _undecoded(rows)


def _undecoded(rows: Any) -> Any:
    """The rows with their recordings as bytes: a decoder is needed where they are heard, and not here."""
    from datasets import Audio

    for name, feature in (rows.features or {}).items():
        if isinstance(feature, Audio):
            rows = rows.cast_column(name, Audio(decode=False))
    return rows


def read_voices(source: str, split: str, name_column: str) -> dict[str, SourceVoice]:
    """
    Voices by name, every one of which can be spoken like.

    Args:
        source (`str`): a folder of recordings with their texts, or a data set with the columns `audio` and `text`.
        split (`str`): of a data set.
        name_column (`str`): its column of names; without it they are called `voice-0` and so on.

    Raises:
        ValueError, FileNotFoundError: if there are none, too many, or one cannot be used.
    """
    folder = Path(source).expanduser()
    voices: dict[str, SourceVoice] = {}
    if folder.is_dir() and any(file.with_suffix(".txt").is_file() for file in folder.glob("*.*") if file.stem):
        voices = {name: SourceVoice(str(v.audio), v.text) for name, v in voices_of_folder(folder).items()}
    else:
        for number, row in enumerate(itertools.islice(stream_rows(source, split), MAX_VOICES + 1)):
            name = str(row.get(name_column) or f"voice-{number}")
            audio, text = row.get("audio"), row.get("text")
            if not isinstance(audio, dict) or not isinstance(text, str) or not text.strip():
                raise ValueError(f"`--voices` {source!r}: row {number} must have `audio` and `text`.")
            if name in voices:
                raise ValueError(f"`--voices` {source!r} has two voices called {show(name)}.")
            voices[name] = SourceVoice(audio if audio.get("bytes") else str(audio["path"]), text)
    if not 0 < len(voices) <= MAX_VOICES:
        raise ValueError(f"`--voices` {source!r} must hold 1 to {MAX_VOICES} voices, but holds {len(voices)}.")
    for name, voice in voices.items():
        try:
            load_reference(voice.audio)
        except (ValueError, OSError) as error:
            raise ValueError(f"`--voices` {source!r}: {show(name)} cannot be used: {error}") from error
    return voices

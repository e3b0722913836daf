"""The two passes of `prepare`: a source shard is checked row by row and stored, an output shard is gathered."""

import errno
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile

from dtm_hf.files import folder_written_aside, written_aside
from dtm_hf.training.corpus.sentences import SPLITS, split_of
from dtm_hf.training.corpus.shuffle import gather, store_rows
from dtm_hf.training.data.formats import Shard
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.data.sources import Source, UnreadableShard
from dtm_hf.training.speech.rows import decode_audio

# Small row groups: a streaming reader holds one at a time.
_ROW_GROUP_SIZE = 100


class SourceUnavailable(RuntimeError):
    """A source that cannot be reached now: its network or the memory failed, not its file."""


@dataclass(frozen=True)
class RowChecks:
    """What a row must be to be kept, and what becomes of its audio."""

    min_seconds: float = 0.3
    max_seconds: float = 30.0
    sampling_rate: int | None = None
    """Rate in Hz of the FLAC that the audio is encoded to anew, or none to keep the bytes that came."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError(
                f"`min_seconds` must be at least 0 and below `max_seconds`, but got {self.min_seconds} and "
                f"{self.max_seconds}"
            )
        if self.sampling_rate is not None and self.sampling_rate < 1:
            raise ValueError(f"`sampling_rate` must be positive, but got {self.sampling_rate}")

    def __call__(self, source: Source, row) -> tuple[dict, bytes]:
        """
        `text`, `speaker`, `duration` in seconds and `format` of a row, and its encoded audio.

        Raises:
            BadRow, WrongLength: if it is left out.
        """
        text, speaker = source.text(row), source.label(row, "speaker")
        if not "".join(text).strip():
            raise BadRow("empty text")
        try:
            f"{''.join(text)}{speaker}".encode()
        except UnicodeEncodeError as error:
            raise BadRow("text that is not UTF-8") from error
        audio = source.content(row, "audio")
        try:
            stored = soundfile.info(io.BytesIO(audio))
        except Exception as error:
            raise BadRow("undecodable audio") from error
        rate = self.sampling_rate or stored.samplerate
        waveform = decode_audio(audio, rate, self.max_seconds)
        duration = len(waveform) / rate
        if duration < self.min_seconds:
            raise WrongLength(f"shorter than {self.min_seconds} s")
        if duration > self.max_seconds:
            raise WrongLength(f"longer than {self.max_seconds} s")
        if self.sampling_rate is not None:
            audio = _flac(waveform, rate)
        kind = stored.format if self.sampling_rate is None else "FLAC"
        return {"text": text, "speaker": speaker, "duration": duration, "format": kind.lower()}, audio


def unit_folder(work: Path, number: int) -> Path:
    """Where the rows of source shard `number` are stored; it exists if they are complete."""
    return work / f"{number:06d}"


def store_shard(
    source: Source, shard: Shard, number: int, work: Path, seed: int, checks: RowChecks, by_text: bool = False
) -> None:
    """
    First pass: keep the rows of `shard`, the source's `number`-th, that pass `checks`, and note those that do not.

    A shard that cannot be read to its end is kept up to there. `by_text` orders the rows by the split of their text,
    then at random.

    Raises:
        SourceUnavailable: if the source cannot be reached, so that what it holds is not known.
        OSError: if `work` cannot be written.
    """
    summary = {"rows": 0, "token_rows": 0, "bytes": 0, "seconds": Counter(), "splits": Counter()}
    summary |= {"skipped": [], "broken": None}
    with folder_written_aside(unit_folder(work, number)) as folder:
        store_rows(folder, seed, number, _kept(source, shard, checks, summary), _text_split if by_text else None)
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def _text_split(header: dict) -> int:
    """Place in [`SPLITS`] of the only split in which the text of a row may be."""
    return SPLITS.index(split_of("".join(header["text"])))


def _kept(source: Source, shard: Shard, checks: RowChecks, summary: dict) -> Iterator[tuple[int, dict, bytes]]:
    """Number, header and audio of each row that is kept; `summary` takes the figures, and the rows that are not."""
    try:
        for index, row in source.rows(shard):
            try:
                header, audio = checks(source, row)
            except (BadRow, WrongLength) as reason:
                if may_pass(source, reason.__cause__):
                    raise unavailable(shard, reason.__cause__) from reason
                summary["skipped"].append((index, str(reason)))
                continue
            summary["rows"] += 1
            summary["token_rows"] += isinstance(header["text"], list)
            summary["bytes"] += len(audio)
            summary["splits"][SPLITS[_text_split(header)]] += 1
            summary["seconds"][header["speaker"] or ""] += header["duration"]
            # The path leads back to the row it was; only its ending is ever read.
            header["path"] = f"{shard.name}/{index}.{header.pop('format')}"
            yield index, header, audio
    except UnreadableShard as error:
        if may_pass(source, error.__cause__):
            raise unavailable(shard, error.__cause__) from error
        summary["broken"] = str(error)


def may_pass(source: Source, error: BaseException | None) -> bool:
    """Whether another try might find the data whole. Arrow says by an OSError without number that a file is broken."""
    import httpx

    if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return True
    if "://" not in source.root or isinstance(error, FileNotFoundError):
        return False
    if isinstance(error, OSError):
        return error.errno is not None or isinstance(error, ConnectionError | TimeoutError)
    return isinstance(error, httpx.HTTPError)


def unavailable(shard: Shard, error: BaseException | None) -> SourceUnavailable:
    return SourceUnavailable(f"{shard.name} cannot be read now: {type(error).__name__}: {error}")


def write_shard(work: Path, num_shards: int, first: int, end: int, path: Path, tokens: bool) -> None:
    """
    Second pass: gather the rows with keys from `first` to below `end`, of all source shards, in a parquet file.

    `tokens` says that the texts are lists of tokens.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Audio, Features, List, Value

    text = List(Value("string")) if tokens else Value("string")
    columns = {"audio": Audio(), "text": text, "speaker": Value("string"), "duration": Value("float64")}
    # It holds the metadata of datasets too: load_dataset gives an Audio feature, and no cast is needed.
    schema = Features(columns).arrow_schema
    rows = (
        {"audio": {"bytes": audio, "path": header.pop("path")}} | header
        for header, audio in gather([unit_folder(work, number) for number in range(num_shards)], first, end)
    )
    # Encoded audio does not compress any further.
    with written_aside(path) as aside, pq.ParquetWriter(aside, schema, compression="none") as writer:
        while group := list(islice(rows, _ROW_GROUP_SIZE)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _flac(waveform: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1, 1), rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()

"""Any source of speech to parquet shards of the codes of its recordings, one for each of its own, as they come."""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dtm_hf.files import written_aside
from dtm_hf.reading import read_json
from dtm_hf.training.codes.packing import pack_codes
from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.corpus.jobs import process_pool, progress_bar, run_missing
from dtm_hf.training.corpus.passes import RowChecks, may_pass, unavailable
from dtm_hf.training.data.formats import Shard
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.data.sources import NoSuchSplit, Source, UnreadableShard, open_source
from dtm_hf.training.speech.rows import decode_audio

CARD = "tokenize.json"
# Small row groups: a streaming reader holds one at a time.
_ROW_GROUP_SIZE = 500
_SKIPPED = b"skipped"


@dataclass(frozen=True)
class Tokenization:
    """Everything that decides what is in the shards; `codec` is a folder or a Hub name."""

    source: SourceArguments
    codec: str
    codec_revision: str | None = None
    num_codebooks: int | None = None
    """The first ones; none for all that the codec has."""
    keep_audio: bool = False
    min_seconds: float = 0.3
    max_seconds: float = 30.0
    batch_seconds: float = 60.0
    """Speech that is coded at once, padding included; it changes no code."""

    def __post_init__(self) -> None:
        RowChecks(self.min_seconds, self.max_seconds)
        if not self.batch_seconds > 0:
            raise ValueError(f"`batch_seconds` must be positive, but got {self.batch_seconds}")

    def as_json(self) -> dict[str, Any]:
        """What decides the codes, as JSON holds it."""
        fields = asdict(self)
        del fields["source"]["weight"], fields["batch_seconds"]
        return json.loads(json.dumps(fields))


def tokenize(tokenization: Tokenization, out_dir: Path, splits: Sequence[str], workers: int = 1) -> dict:
    """
    Write a shard of codes for each shard of the source that `out_dir` lacks, then `tokenize.json`; returns what that
    holds. A call that was cut short goes on, and a source that has grown is taken up.

    Args:
        tokenization ([`Tokenization`]): what is coded by what.
        out_dir (`Path`): folder of the shards.
        splits (`list[str]`): those of the source that are wanted; what it lacks is passed over.
        workers (`int`, defaults to 1): processes, each with a codec of its own.

    Raises:
        ValueError: if the source has none of the splits, the codec has not so many codebooks or codes sound of another
            rate, or `out_dir` holds something else.
        SourceUnavailable: if the source cannot be reached now.
        OSError: if there is no such codec, or `out_dir` cannot be written.
    """
    out_dir, sources = Path(out_dir), _open(tokenization, splits)
    settings = {"arguments": tokenization.as_json(), "codec": _describe(tokenization)}
    _take_up(settings, out_dir)
    jobs = []
    for split, source in sources.items():
        for number, shard in enumerate(source.shards):
            path = out_dir / f"{split}-{number:05d}-of-{len(source.shards):05d}.parquet"
            jobs.append((path, tokenize_shard, (tokenization, _bare(source), shard, path)))
    with progress_bar() as progress, process_pool(workers) as pool:
        run_missing(pool, progress, "shards coded", jobs)
    card = settings | {"splits": {split: _count(out_dir, split) for split in sources}}
    _write(card, out_dir)
    return card


def tokenize_shard(tokenization: Tokenization, source: Source, shard: Shard, path: Path) -> None:
    """
    Write the codes of a shard's rows; those that cannot be used are counted in the file's metadata. A shard that
    cannot be read to its end is coded up to there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    skipped = Counter()
    rows = _coded(tokenization, source, shard, skipped)
    schema = _schema(tokenization.keep_audio)
    with written_aside(path) as aside, pq.ParquetWriter(aside, schema, compression="none") as writer:
        while group := list(islice(rows, _ROW_GROUP_SIZE)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
        writer.add_key_value_metadata({_SKIPPED: json.dumps(skipped)})


def _coded(tokenization: Tokenization, source: Source, shard: Shard, skipped: Counter) -> Iterator[dict]:
    """Rows with their codes, as many coded at once as `batch_seconds` hold."""
    import torch

    from dtm_hf.codec.mimi import encode_recordings

    codec = _codec(tokenization.codec, tokenization.codec_revision)
    rate = codec.config.sampling_rate
    waiting: list[tuple[dict, Any]] = []

    def code() -> Iterator[dict]:
        waveforms = [torch.from_numpy(waveform) for _, waveform in waiting]
        coded = encode_recordings(codec, waveforms, tokenization.num_codebooks) if waiting else []
        for (row, _), codes in zip(waiting, coded, strict=True):
            yield {"codes": pack_codes(codes.cpu().numpy())} | row
        waiting.clear()

    longest = 0
    for row, waveform in _decoded(tokenization, source, shard, rate, skipped):
        longest = max(longest, len(waveform))
        if waiting and longest * (len(waiting) + 1) > tokenization.batch_seconds * rate:
            yield from code()
            longest = len(waveform)
        waiting.append((row, waveform))
    yield from code()


def _decoded(tokenization, source: Source, shard: Shard, rate: int, skipped: Counter) -> Iterator[tuple[dict, Any]]:
    """Rows without codes, and their waveforms `(T,)`."""
    try:
        for index, row in source.rows(shard):
            try:
                text = source.text(row)
                if any(len(token) > 1 for token in text):
                    raise BadRow("tokens in the place of a text")
                text = "".join(text).strip()
                if not text:
                    raise BadRow("empty text")
                text.encode()
                audio = source.content(row, "audio")
                waveform = decode_audio(audio, rate, tokenization.max_seconds)
                if len(waveform) < tokenization.min_seconds * rate:
                    raise WrongLength(f"shorter than {tokenization.min_seconds} s")
                header = {"text": text, "speaker": source.label(row, "speaker"), "duration": len(waveform) / rate}
            except (BadRow, WrongLength, UnicodeEncodeError) as reason:
                if may_pass(source, reason.__cause__):
                    raise unavailable(shard, reason.__cause__) from reason
                is_text = isinstance(reason, UnicodeEncodeError)
                skipped["text that is not UTF-8" if is_text else str(reason)] += 1
                continue
            if tokenization.keep_audio:
                header["audio"] = {"bytes": audio, "path": f"{shard.name}/{index}"}
            yield header, waveform
    except UnreadableShard as error:
        if may_pass(source, error.__cause__):
            raise unavailable(shard, error.__cause__) from error
        skipped["rest of a shard that cannot be read"] += 1


def _schema(keep_audio: bool):
    from datasets import Audio, Features, Value

    columns = {
        "codes": {"bytes": Value("binary"), "num_codebooks": Value("int32")},
        "text": Value("string"),
        "speaker": Value("string"),
        "duration": Value("float64"),
    }
    # It holds the metadata of datasets too.
    return Features(columns | ({"audio": Audio()} if keep_audio else {})).arrow_schema


# Once a process.
@functools.cache
def _codec(name: str, revision: str | None):
    import torch

    from dtm_hf.codec.mimi import load_codec

    codec = load_codec(name, **({} if revision is None else {"revision": revision}))
    return codec.to("cuda" if torch.cuda.is_available() else "cpu")


def _describe(tokenization: Tokenization) -> dict[str, Any]:
    """
    What tells one codec from another, wherever it lies.

    Raises:
        ValueError: if it has not the codebooks that are wanted.
    """
    from dtm_hf.codec.mimi import codec_fingerprint

    codec = _codec(tokenization.codec, tokenization.codec_revision)
    wanted, config = tokenization.num_codebooks, codec.config
    if wanted is not None and not config.num_semantic_quantizers <= wanted <= config.num_quantizers:
        raise ValueError(
            f"`num_codebooks` must lie in [{config.num_semantic_quantizers}, {config.num_quantizers}] for this codec, "
            f"but got {wanted}"
        )
    return {
        "fingerprint": codec_fingerprint(codec),
        "num_codebooks": wanted or config.num_quantizers,
        "codebook_size": config.codebook_size,
        "frame_rate": config.sampling_rate / config.frame_size,
    }


def _open(tokenization: Tokenization, splits: Sequence[str]) -> dict[str, Source]:
    sources, failure = {}, None
    for split in splits:
        try:
            sources[split] = open_source(tokenization.source, split)
        except NoSuchSplit as error:
            failure = failure or error
    if not sources:
        raise failure or ValueError("`splits` must name one at least, but got none")
    return sources


def _bare(source: Source) -> Source:
    """A job takes its one shard along, and not the list of all."""
    from dataclasses import replace

    return replace(source, shards=[])


def _take_up(settings: dict, out_dir: Path) -> None:
    """Record what is done here, or check that it is what was begun."""
    path = out_dir / CARD
    if path.is_file():
        present = read_json(path)
        for name, value in settings.items():
            for key, entry in value.items():
                if present.get(name, {}).get(key) != entry:
                    raise ValueError(
                        f"`out_dir` {str(out_dir)!r} holds codes with `{key}` {present.get(name, {}).get(key)!r}, but "
                        f"got {entry!r}; choose an empty folder"
                    )
        return
    if out_dir.is_dir() and any(out_dir.iterdir()):
        raise ValueError(f"`out_dir` {str(out_dir)!r} is not empty and holds no codes: choose an empty folder")
    _write(settings, out_dir)


def _write(card: dict, out_dir: Path) -> None:
    with written_aside(out_dir / CARD) as aside:
        aside.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _count(out_dir: Path, split: str) -> dict[str, Any]:
    """Rows, hours, speakers and what was left out of the shards of a split."""
    import pyarrow.parquet as pq

    rows, seconds, skipped, speakers = 0, 0.0, Counter(), Counter()
    for path in sorted(out_dir.glob(f"{split}-*.parquet")):
        table = pq.read_table(path, columns=["duration", "speaker"])
        skipped.update(json.loads((pq.read_metadata(path).metadata or {}).get(_SKIPPED, b"{}")))
        rows += len(table)
        for row in table.to_pylist():
            seconds += row["duration"]
            speakers[row["speaker"] or ""] += 1
    counts = {"rows": rows, "hours": round(seconds / 3600, 4), "speakers": dict(sorted(speakers.items()))}
    return counts | {"skipped": dict(skipped.most_common())}

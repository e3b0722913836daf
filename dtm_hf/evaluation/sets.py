"""What a benchmark is run on."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dtm_hf.evaluation.lists import (
    LIST_SUFFIXES,
    TEXT_SUFFIX,
    librispeech_pc,
    own_list,
    read_audio,
    read_items,
    seed_tts,
    text_list,
)
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.recognizers.vocabulary import vocabulary_of

# Prefix of the spec -> its reader, language, recogniser and speaker model: those of the published figures.
_PUBLIC = {
    "seed-tts-en": (lambda folder: seed_tts(folder, "en"), "en", "whisper:large-v3", "wavlm-large"),
    "seed-tts-zh": (lambda folder: seed_tts(folder, "zh"), "zh", "paraformer-zh", "wavlm-large"),
    "librispeech-pc": (librispeech_pc, "en", "whisper:large-v3", "wavlm-large"),
}
_FORMS = (
    f"a folder of parquet shards, a {', '.join(LIST_SUFFIXES)} or {TEXT_SUFFIX} list, typed, or one of "
    f"{', '.join(f'{name}:FOLDER' for name in _PUBLIC)}"
)
# What people type into a synthesiser: a hundred lines in the package.
TYPED = "typed"
_TYPED_LIST = Path(__file__).with_name("typed.txt")
# Of a corpus. A shorter prompt says too little of the pace.
_MIN_PROMPT_SECONDS = 1.2


@dataclass
class BenchmarkSet:
    """
    Sentences to speak, and the judges that fit them.

    Args:
        name (`str`): What it is called in the results.
        items (`list[BenchmarkItem]`): In their order; ids are unique.
        sampling_rate (`int`, defaults to 24000): Of all waveforms, in Hz.
        vocabulary (`list[str]`, *optional*): Lower-case words that the texts are made of, for a recogniser that is
            held to them.
        recognizer (`str`, defaults to `"pocketsphinx"`): As in [`~dtm_hf.evaluation.recognizers.load_recognizer`].
        normalization (`str`, *optional*): How texts are compared, where it is not the recogniser's own way: a key of
            [`~dtm_hf.evaluation.metrics.normalization.NORMALIZATIONS`].
        speaker_model (`str`, defaults to `"resemblyzer"`): `"resemblyzer"` or `"wavlm-large"`.
        language (`str`, defaults to `"en"`): Language of the texts.
    """

    name: str
    items: list[BenchmarkItem]
    sampling_rate: int = 24000
    vocabulary: list[str] | None = None
    recognizer: str = "pocketsphinx"
    normalization: str | None = None
    speaker_model: str = "resemblyzer"
    language: str = "en"


def speaks_texts(spec: str) -> bool:
    """Whether a set has texts alone, so that prompts must come from elsewhere."""
    return spec == TYPED or spec.endswith(TEXT_SUFFIX)


def load_set(
    spec: str,
    limit: int | None = None,
    split: str = "validation",
    prompts: Sequence[tuple[Path, str]] = (),
) -> BenchmarkSet:
    """
    Read a set.

    Args:
        spec (`str`):
            A folder of parquet shards; a `.csv`, `.tsv` or `.jsonl` list with the columns `reference_audio`,
            `reference_text`, `text` and, where there is one, `recording`, paths relative to it
            ([`~dtm_hf.evaluation.lists.own_list`]); `typed`, the packaged list of what people type, or a `.txt` list
            of `text|kind` lines; `seed-tts-en:FOLDER`, `seed-tts-zh:FOLDER` or
            `librispeech-pc:FOLDER`, a public list and its audio.
        limit (`int`, *optional*): Items at most, the first ones.
        split (`str`, defaults to `"validation"`): Of a folder of shards; the others have one.
        prompts (sequence of `(Path, str)`, *optional*): Recordings and what they say, for lists of texts alone.

    Returns:
        [`BenchmarkSet`]: A closed vocabulary goes with pocketsphinx: that in the `corpus.json` of a folder, that of
        the texts of an English list of one's own. Whisper base listens to lists of texts alone unless pocketsphinx is
        asked to; sets without a vocabulary name a large recogniser.

    Raises:
        ValueError: for a spec of another form, a set without items, and a list or audio that cannot be used, naming
            file and line.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1, but got {limit}.")
    kind, _, folder = spec.partition(":")
    path = Path(spec).expanduser()
    if kind in _PUBLIC and folder:
        loaded = _public_set(kind, Path(folder).expanduser(), limit)
    elif path.is_dir():
        loaded = _corpus_set(path, limit, split)
    elif speaks_texts(spec):
        path = _TYPED_LIST if spec == TYPED else _existing(path)
        items = read_items(islice(text_list(path, prompts), limit), BenchmarkSet.sampling_rate)
        name = TYPED if spec == TYPED else path.name
        loaded = BenchmarkSet(name, items, vocabulary=_vocabulary(items), recognizer="whisper:base")
    elif path.suffix in LIST_SUFFIXES:
        loaded = _own_set(_existing(path), limit)
    else:
        raise ValueError(f"The set must be {_FORMS}, but got {spec!r}.")
    if not loaded.items:
        raise ValueError(f"{spec!r} holds no sentence to speak.")
    return loaded


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not an existing file.")
    return path


def _public_set(kind: str, folder: Path, limit: int | None) -> BenchmarkSet:
    entries, language, recognizer, speaker_model = _PUBLIC[kind]
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} of {kind}:FOLDER is not an existing folder.")
    items = read_items(islice(entries(folder), limit), BenchmarkSet.sampling_rate)
    return BenchmarkSet(
        kind,
        items,
        recognizer=recognizer,
        normalization="f5-tts",
        speaker_model=speaker_model,
        language=language,
    )


def _own_set(path: Path, limit: int | None) -> BenchmarkSet:
    items = read_items(islice(own_list(path), limit), BenchmarkSet.sampling_rate)
    languages = sorted({item.language for item in items})
    if len(languages) > 1:
        raise ValueError(f"{path}: `language` must be the same in all lines, but got {', '.join(languages)}.")
    if languages != ["en"]:
        recognizer = "paraformer-zh" if languages == ["zh"] else "whisper:large-v3"
        return BenchmarkSet(path.name, items, recognizer=recognizer, language=(languages or ["en"])[0])
    return BenchmarkSet(path.name, items, vocabulary=_vocabulary(items))


def _vocabulary(items: list[BenchmarkItem]) -> list[str]:
    return sorted({word for item in items for word in vocabulary_of(item.text)})


# Corpora


def _corpus_set(folder: Path, limit: int | None, split: str) -> BenchmarkSet:
    card, vocabulary = folder / "corpus.json", None
    if card.is_file():
        try:
            vocabulary = json.loads(card.read_text(encoding="utf-8"))["vocabulary"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{card} holds no `vocabulary`: build the corpus to its end.") from error
    items = list(islice(_corpus_items(folder, split), limit))
    recognizer = "whisper:large-v3" if vocabulary is None else BenchmarkSet.recognizer
    return BenchmarkSet(f"{folder.resolve().name}/{split}", items, vocabulary=vocabulary, recognizer=recognizer)


def _corpus_items(folder: Path, split: str) -> Iterator[BenchmarkItem]:
    """The sentences of a split in their order; the prompt of each is what its speaker said before it."""
    prompts, seen = {}, set()
    for number, (where, row) in enumerate(_corpus_rows(folder, split)):
        for name in ("audio", "text", "speaker"):
            if not row[name]:
                raise ValueError(f"{where}: has no `{name}`.")
        recording = read_audio(io.BytesIO(row["audio"]["bytes"]), BenchmarkSet.sampling_rate, f"{where}: `audio`")
        item_id = row.get("id") or f"{split}-{number:06d}"
        if item_id in seen:
            raise ValueError(f"{where}: `id` {item_id!r} is that of another row too.")
        seen.add(item_id)
        if row["speaker"] in prompts:
            prompt = prompts[row["speaker"]]
            yield BenchmarkItem(item_id, row["text"], *prompt, recording=recording, speaker=row["speaker"])
        if len(recording) >= _MIN_PROMPT_SECONDS * BenchmarkSet.sampling_rate:
            prompts[row["speaker"]] = recording, row["text"]


def _corpus_rows(folder: Path, split: str) -> Iterator[tuple[str, dict]]:
    import pyarrow.parquet as pq

    shards = sorted(folder.glob(f"{split}-*.parquet"))
    if not shards:
        raise ValueError(f"{str(folder)!r} holds no {split}-*.parquet shards.")
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            missing = [name for name in ("audio", "text", "speaker") if name not in file.schema_arrow.names]
            if missing:
                raise ValueError(f"{shard} has no column `{missing[0]}`.")
            columns = [name for name in ("id", "audio", "text", "speaker") if name in file.schema_arrow.names]
            number = 0
            # Few at a time: a row of a prepared corpus holds its audio.
            for batch in file.iter_batches(16, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{shard}:{number}", row

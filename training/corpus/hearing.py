"""A second corpus of the clips in which a recogniser hears what was to be said."""

import functools
import io
import json
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from dtm_hf.evaluation.metrics.words import word_error
from dtm_hf.evaluation.recognizers import Recognizer, load_recognizer
from dtm_hf.files import written_aside
from dtm_hf.training.corpus.jobs import process_pool, progress_bar, run_missing
from dtm_hf.training.corpus.rows import write_table

CARD = "filter.json"


def filter_corpus(source: Path, out_dir: Path, recognizer: str, max_wer: float = 0.2, workers: int = 1) -> dict:
    """
    Write each shard of `source` that `out_dir` lacks, without the clips whose word error rate is above `max_wer`.

    Errors are counted over the words of the text, both texts normalised as the recogniser asks for (for Whisper: case,
    punctuation, numbers, compounds and spellings). A shard is heard once: a call that was cut short, or a corpus that
    has grown, goes on.

    Args:
        source (`Path`): Folder of parquet shards that `build_corpus` wrote, complete or not.
        out_dir (`Path`): Folder of the shards without those clips; the others have a column `wer`.
        recognizer (`str`): As `dtm-hf benchmark` names it, such as "whisper:tiny.en" or "whisper:FOLDER".
        max_wer (`float`, defaults to 0.2): Word error rate up to which a clip is kept.
        workers (`int`, defaults to 1): Processes, each with a recogniser of its own.

    Returns:
        `dict`: what `filter.json` holds: the recogniser, and clips and hours of each speaker of each split.

    Raises:
        ValueError: if there is no shard, the recogniser cannot be had, or `out_dir` was filtered otherwise.
        ImportError: naming what to install.
    """
    source, out_dir = Path(source), Path(out_dir)
    shards = sorted(source.glob("*.parquet"))
    if not shards:
        raise ValueError(f"`source` must be a folder of parquet shards, but {str(source)!r} has none")
    if not max_wer >= 0:
        raise ValueError(f"`max_wer` must be 0 or more, but got {max_wer}")
    # A closed corpus tells its words to a recogniser that is held to some.
    corpus = source / "corpus.json"
    vocabulary = json.loads(corpus.read_text(encoding="utf-8")).get("vocabulary") if corpus.is_file() else None
    ears = (recognizer, vocabulary and tuple(vocabulary))
    judge = _recognizer(*ears)
    settings = {"recognizer": judge.name, "normalization": judge.normalization, "max_wer": max_wer}
    present = json.loads((out_dir / CARD).read_text(encoding="utf-8")) if (out_dir / CARD).is_file() else {}
    if any(out_dir.glob("*.parquet")) and {name: present.get(name) for name in settings} != settings:
        raise ValueError(
            f"`out_dir` {str(out_dir)!r} holds shards that {settings} did not filter: choose another folder"
        )
    _write_card(settings, out_dir)
    jobs = [(out_dir / path.name, filter_shard, (path, out_dir / path.name, ears, max_wer)) for path in shards]
    with progress_bar() as progress, process_pool(workers) as pool:
        run_missing(pool, progress, "shards heard", jobs)
    card = settings | {"splits": _count(shards, out_dir)}
    _write_card(card, out_dir)
    return card


def filter_shard(path: Path, out: Path, ears: tuple, max_wer: float) -> None:
    """
    Write the rows of the shard `path` that are heard well enough, with their word error rate, to `out`.

    `ears` is what `load_recognizer` takes.
    """
    table = pq.read_table(path)
    rates = [_word_error(_recognizer(*ears), row) for row in table.select(["audio", "text"]).to_pylist()]
    kept = [number for number, rate in enumerate(rates) if rate is None or rate <= max_wer]
    metadata = json.loads(table.schema.metadata[b"huggingface"])
    metadata["info"]["features"]["wer"] = {"dtype": "float64", "_type": "Value"}
    table = table.append_column("wer", pa.array(rates, pa.float64())).take(kept)
    table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    write_table(table, out)


def _word_error(judge: Recognizer, row: dict) -> float | None:
    """Word error rate of a clip, or none if its text cannot be judged."""
    return word_error(judge, row["text"], *sf.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32"))[0]


def _count(shards: list[Path], out_dir: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Split -> speaker -> clips kept and dropped, and hours kept."""
    found = defaultdict(lambda: defaultdict(Counter))
    for path in shards:
        split = path.name.partition("-")[0]
        for speaker in pq.read_table(path, columns=["speaker"])["speaker"].to_pylist():
            found[split][speaker]["dropped"] += 1
        for row in pq.read_table(out_dir / path.name, columns=["speaker", "duration"]).to_pylist():
            counts = found[split][row["speaker"]]
            counts["dropped"] -= 1
            counts["kept"] += 1
            counts["hours"] += row["duration"] / 3600
    return {
        split: {
            speaker: {"kept": counts["kept"], "dropped": counts["dropped"], "hours": round(counts["hours"], 4)}
            for speaker, counts in sorted(speakers.items())
        }
        for split, speakers in found.items()
    }


# Once a process: a recogniser has weights to load.
_recognizer = functools.cache(load_recognizer)


def _write_card(card: dict, out_dir: Path) -> None:
    with written_aside(out_dir / CARD) as aside:
        aside.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

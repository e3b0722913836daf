"""Any source that training reads -> pre-shuffled parquet shards of even size, in a folder that says what they hold."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from dtm_hf.files import written_aside
from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.corpus.card import add_up, dataset_card, write_skipped
from dtm_hf.training.corpus.jobs import process_pool, progress_bar, run_missing
from dtm_hf.training.corpus.passes import RowChecks, store_shard, unit_folder, write_shard
from dtm_hf.training.corpus.sentences import SPLITS
from dtm_hf.training.corpus.shuffle import stretches
from dtm_hf.training.data.sources import Source, open_source

MANIFEST, SKIPPED, CARD = "manifest.json", "skipped.jsonl", "README.md"
_WORK, _PLAN = ".prepare", "plan.json"
_VALIDATION = "validation"


@dataclass(frozen=True)
class Preparation:
    """Everything that decides what is in the shards."""

    source: SourceArguments
    split: str = "train"
    rows_per_shard: int | None = None
    """Rows of a shard at most, or none to go by `shard_size_mb`."""
    shard_size_mb: float = 256
    """Audio of a shard, about, in megabytes of 10^6 bytes."""
    num_validation: int = 0
    """Rows set apart as the split `validation`."""
    split_by_text: bool = False
    """Whether a row goes to train, validation or test by its text, so that no two of them share a sentence."""
    seed: int = 0
    checks: RowChecks = dataclasses.field(default_factory=RowChecks)

    def __post_init__(self) -> None:
        if self.rows_per_shard is not None and self.rows_per_shard < 1:
            raise ValueError(f"`rows_per_shard` must be 1 or more, but got {self.rows_per_shard}")
        if not self.shard_size_mb > 0:
            raise ValueError(f"`shard_size_mb` must be positive, but got {self.shard_size_mb}")
        if self.num_validation < 0:
            raise ValueError(f"`num_validation` must be 0 or more, but got {self.num_validation}")
        if self.num_validation and self.split == _VALIDATION:
            raise ValueError(f"`num_validation` must be 0 for the split 'validation', but got {self.num_validation}")

        if self.split_by_text and (self.num_validation or self.split != "train"):
            raise ValueError(
                f"`split_by_text` makes the splits of the source's `split` 'train', without `num_validation`, but got "
                f"{self.split!r} and {self.num_validation}"
            )

    def as_json(self) -> dict:
        """All fields as JSON holds them, but the weight of the source, which is for training alone."""
        fields = dataclasses.asdict(self)
        del fields["source"]["weight"]
        # Folders made before it was an option do not name it.
        if not self.split_by_text:
            del fields["split_by_text"]
        return json.loads(json.dumps(fields))

    def shard_sizes(self, rows: int, size: int, by_text: Mapping[str, int] | None = None) -> dict[str, int]:
        """
        Name -> rows of every shard to write, in the shuffled order of their rows.

        Args:
            rows (`int`): Rows there are.
            size (`int`): Bytes of their audio.
            by_text (mapping of `str` to `int`, *optional*): How many of them each split has, if their text decides it.
        """
        if by_text is not None:
            splits = {split: by_text[split] for split in SPLITS if by_text.get(split)}
            main = max(splits, key=splits.get)
        else:
            if rows <= self.num_validation:
                raise ValueError(
                    f"`num_validation` must be below the {rows} rows there are, but got {self.num_validation}"
                )
            splits, main = {_VALIDATION: self.num_validation, self.split: rows - self.num_validation}, self.split
        if self.rows_per_shard is None:
            count = min(splits[main], max(1, round(size * splits[main] / rows / (self.shard_size_mb * 1e6))))
        else:
            count = math.ceil(splits[main] / self.rows_per_shard)
        per_shard = math.ceil(splits[main] / count)
        sizes = {}
        for split, number in splits.items():
            sizes |= _even(split, number, count if split == main else math.ceil(number / per_shard))
        return sizes


def _even(split: str, rows: int, count: int) -> dict[str, int]:
    return {
        f"{split}-{i:05d}-of-{count:05d}.parquet": rows * (i + 1) // count - rows * i // count for i in range(count)
    }


def prepare(preparation: Preparation, out_dir: str | os.PathLike, workers: int = 2) -> dict:
    """
    Write the shards, the list of rows left out, a card and, last, `manifest.json`; returns what that holds.

    What an earlier call with the same `preparation` has finished is kept. The files come out the same to the byte,
    whatever `workers` is and however often the work was cut short. Until it ends, `out_dir` holds the rows twice.

    Raises:
        ValueError: if the source is not there, none of its rows can be used, or `out_dir` holds something else.
        SourceUnavailable: if the source cannot be reached now.
        OSError: if `out_dir` cannot be written.
    """
    if workers < 1:
        raise ValueError(f"`workers` must be 1 or more, but got {workers}")
    out_dir = Path(out_dir)
    work = out_dir / _WORK
    if (out_dir / MANIFEST).is_file():
        manifest = _finished(preparation, out_dir)
        shutil.rmtree(work, ignore_errors=True)
        return manifest
    source = open_source(preparation.source, preparation.split)
    plan = {"arguments": preparation.as_json(), "source": _fingerprint(source)}
    if not (work / _PLAN).is_file() and out_dir.is_dir() and any(path.name != _WORK for path in out_dir.iterdir()):
        raise ValueError(f"`out_dir` {str(out_dir)!r} is not empty and holds no preparation: choose an empty folder")
    try:
        with _alone(work):
            _take_up(plan, work)
            manifest = _both_passes(preparation, source, work, out_dir, workers)
        shutil.rmtree(work)
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process was killed, most likely for want of memory: call again with fewer `workers`; what is finished "
            "is kept"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"`out_dir` {str(out_dir)!r} cannot be written: {reason}. What is finished is kept: the same call goes on."
        ) from error
    return manifest


def _finished(preparation: Preparation, out_dir: Path) -> dict:
    manifest = json.loads((out_dir / MANIFEST).read_text(encoding="utf-8"))
    _same(manifest["arguments"], preparation.as_json(), out_dir)
    for name in manifest["shards"]:
        if not (out_dir / name).is_file():
            raise ValueError(f"`out_dir` {str(out_dir)!r} was finished, but now lacks {name}: choose an empty folder")
    return manifest


def _same(there: dict, wanted: dict, out_dir: Path) -> None:
    for name, value in wanted.items():
        if isinstance(value, dict):
            _same(there.get(name, {}), value, out_dir)
        elif there.get(name) != value:
            raise ValueError(
                f"`out_dir` {str(out_dir)!r} holds another preparation, with `{name}` {there.get(name)!r}, but got "
                f"{value!r}; choose an empty folder"
            )


def _fingerprint(source: Source) -> str:
    """Differs when a file has another name, size or time; what lies on the Hub has a commit."""
    files = {shard.path for shard in source.shards if os.path.exists(shard.path)}
    stats = [f"{path} {os.stat(path).st_size} {os.stat(path).st_mtime_ns}" for path in sorted(files)]
    return hashlib.sha256("\n".join([source.fingerprint, *stats]).encode()).hexdigest()


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Make the folder; refuse a second call in it while the first is at work. The lock ends with its process."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"`out_dir` {str(work.parent)!r} is being written by another process") from error
        except OSError:
            # Some network file systems have no locks.
            pass
        yield


def _take_up(plan: dict, work: Path) -> None:
    """Record what is done here, or check that it is what was begun."""
    path = work / _PLAN
    if not path.is_file():
        with written_aside(path) as aside:
            aside.write_text(json.dumps(plan), encoding="utf-8")
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    _same(begun["arguments"], plan["arguments"], work.parent)
    if begun["source"] != plan["source"]:
        raise ValueError(
            f"`source`: the files of {plan['arguments']['source']['dataset']!r} have changed since `out_dir` "
            f"{str(work.parent)!r} was begun; choose an empty folder"
        )


def _both_passes(preparation: Preparation, source: Source, work: Path, out_dir: Path, workers: int) -> dict:
    units = [unit_folder(work, number) for number in range(len(source.shards))]
    # A job takes its one shard along, and not the list of all.
    bare = dataclasses.replace(source, shards=[])
    with progress_bar() as progress, process_pool(workers) as pool:
        options = (work, preparation.seed, preparation.checks, preparation.split_by_text)
        jobs = [
            (unit, store_shard, (bare, shard, number, *options))
            for number, (unit, shard) in enumerate(zip(units, source.shards, strict=True))
        ]
        run_missing(pool, progress, "shards read", jobs)
        totals = add_up(units, source.shards)
        by_text = totals.pop("rows_by_text")
        sizes = preparation.shard_sizes(
            totals["rows"], totals["bytes"], by_text if preparation.split_by_text else None
        )
        keys = stretches(units, list(sizes.values()))
        paths = [out_dir / name for name in sizes]
        jobs = [
            (path, write_shard, (work, len(units), first, end, path, totals["tokens"]))
            for path, (first, end) in zip(paths, keys, strict=True)
        ]
        run_missing(pool, progress, "shards written", jobs)
    manifest = {"arguments": preparation.as_json(), "shards": sizes, **totals}
    with written_aside(out_dir / SKIPPED) as aside:
        write_skipped(units, source.shards, aside)
    with written_aside(out_dir / CARD) as aside:
        aside.write_text(dataset_card(manifest), encoding="utf-8")
    # The last file: with it the folder is complete.
    with written_aside(out_dir / MANIFEST) as aside:
        aside.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest

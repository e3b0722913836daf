"""Command line: render a corpus into pre-shuffled parquet shards that `datasets` reads as audio."""

import concurrent.futures
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
import typer

from dtm_hf.training.corpus.render import PROGRAMS, SAMPLE_RATE, VOICES, check_voice, render, require_program
from dtm_hf.training.corpus.sentences import (
    CLOSED_VOCABULARY,
    DOMAINS,
    SPLITS,
    held_out_sentences,
    normalize,
    train_sentences,
)

LICENCES = {
    "flite": "BSD-like free licence of Carnegie Mellon University, for the program and its built-in voices",
    "espeak-ng": "GPL-3.0-or-later (covers the program, not the audio that it speaks)",
}

_FEATURES = {
    "id": {"dtype": "string", "_type": "Value"},
    "audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"},
    "text": {"dtype": "string", "_type": "Value"},
    "speaker": {"dtype": "string", "_type": "Value"},
    "duration": {"dtype": "float64", "_type": "Value"},
}

# The metadata that `datasets` itself writes: with it, load_dataset gives an Audio feature and no cast is needed.
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("text", pa.string()),
        ("speaker", pa.string()),
        ("duration", pa.float64()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)

# Small row groups: a streaming reader holds one at a time.
_ROW_GROUP_SIZE = 100

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is in the shards."""

    domain: str = "closed"
    voices: tuple[str, ...] = ("slt", "rms")
    num_train: int = 20_000
    num_validation: int = 200
    num_test: int = 200
    shard_size: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS:
            raise ValueError(f"`domain` must be one of {tuple(DOMAINS)}, but got {self.domain!r}")
        if not self.voices or len(set(self.voices)) != len(self.voices):
            raise ValueError(f"`voices` must be one or more distinct names of {tuple(VOICES)}, but got {self.voices}")
        for voice in self.voices:
            if voice not in VOICES:
                raise ValueError(f"`voices` must be names of {tuple(VOICES)}, but got {voice!r}")
        for name in ("num_train", "num_validation", "num_test"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be 0 or more, but got {getattr(self, name)}")
        if self.shard_size < 1:
            raise ValueError(f"`shard_size` must be 1 or more, but got {self.shard_size}")

    def num_rows(self, split: str) -> int:
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}[split]

    def shards(self) -> list["Shard"]:
        """All shards, in the order train, validation, test."""
        found = []
        for split in SPLITS:
            starts = range(0, self.num_rows(split), self.shard_size)
            for index, start in enumerate(starts):
                size = min(self.shard_size, self.num_rows(split) - start)
                name = f"{split}-{index:05d}-of-{len(starts):05d}.parquet"
                found.append(Shard(split=split, index=index, size=size, file_name=name))
        return found


@dataclass(frozen=True)
class Shard:
    """One parquet file of `size` rows."""

    split: str
    index: int
    size: int
    file_name: str


def shard_lines(recipe: Recipe, shard: Shard) -> list[tuple[str, str]]:
    """(text, speaker) of each row; depends on the recipe and the shard's index alone."""
    if shard.split == "train":
        texts = itertools.islice(train_sentences(recipe.domain, recipe.seed, stream=shard.index), shard.size)
    else:
        # One stream for the whole split, so that its sentences are distinct across shards too.
        start = shard.index * recipe.shard_size
        sentences = held_out_sentences(recipe.domain, shard.split, recipe.seed)
        texts = itertools.islice(sentences, start, start + shard.size)
    order = _rng(recipe.seed, shard.split, shard.index).permutation(shard.size)
    return [(text, recipe.voices[place % len(recipe.voices)]) for text, place in zip(texts, order, strict=True)]


def write_shard(recipe: Recipe, shard: Shard, out_dir: Path) -> int:
    """Render one shard aside, then put it in place under its final name. Returns its number of rows."""
    rows: dict[str, list] = {name: [] for name in _SCHEMA.names}
    with tempfile.TemporaryDirectory(prefix="corpus-") as directory:
        for row, (text, speaker) in enumerate(shard_lines(recipe, shard)):
            identifier = f"{recipe.domain}-{shard.split}-{shard.index:05d}-{row:06d}"
            waveform = render(text, speaker, Path(directory), _rng(recipe.seed, identifier))
            rows["id"].append(identifier)
            rows["audio"].append({"bytes": _flac_bytes(waveform), "path": f"{identifier}.flac"})
            rows["text"].append(text)
            rows["speaker"].append(speaker)
            rows["duration"].append(len(waveform) / SAMPLE_RATE)
    aside = out_dir / f".{shard.file_name}.{os.getpid()}.tmp"
    try:
        # FLAC does not compress any further.
        pq.write_table(pa.table(rows, schema=_SCHEMA), aside, row_group_size=_ROW_GROUP_SIZE, compression="none")
        os.replace(aside, out_dir / shard.file_name)
    finally:
        aside.unlink(missing_ok=True)
    return shard.size


def build_corpus(recipe: Recipe, out_dir: Path, workers: int = 2, command: str = "") -> dict:
    """Render every shard that is not there yet and write `corpus.json`; returns what that file holds.

    Raises:
        ValueError: if `out_dir` holds another corpus, or `workers` is not positive.
        MissingProgramError: if a voice's program is not installed; nothing is written then.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if workers < 1:
        raise ValueError(f"`workers` must be 1 or more, but got {workers}")
    for voice in recipe.voices:
        check_voice(voice)
    out_dir = Path(out_dir)
    card_path = out_dir / "corpus.json"
    recipe_card = json.loads(json.dumps(asdict(recipe)))
    if card_path.is_file():
        present = json.loads(card_path.read_text())["recipe"]
        if present != recipe_card:
            raise ValueError(f"`out_dir` {out_dir} holds another corpus, {present}: choose an empty folder")
    out_dir.mkdir(parents=True, exist_ok=True)
    card = {"recipe": recipe_card, "command": command, "complete": False, "programs": _programs(recipe)}
    _write_json(card, card_path)

    shards = recipe.shards()
    missing = [shard for shard in shards if not (out_dir / shard.file_name).is_file()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        total = sum(shard.size for shard in shards)
        task = progress.add_task("utterances", total=total, completed=total - sum(shard.size for shard in missing))
        # Spawned, not forked: a caller that has torch loaded is slow and unsafe to fork.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            jobs = [pool.submit(write_shard, recipe, shard, out_dir) for shard in missing]
            try:
                for job in concurrent.futures.as_completed(jobs):
                    progress.advance(task, job.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    card |= {"complete": True} | _statistics(recipe, out_dir)
    _write_json(card, card_path)
    return card


@app.callback()
def main() -> None:
    """Speech corpora for training: rendered with free synthesisers, or prepared from what there is."""


@app.command()
def build(
    out_dir: Annotated[Path, typer.Argument(help="Folder of the shards; a build that was cut short goes on there.")],
    domain: Annotated[str, typer.Option(help="'closed' (73 words) or 'wide' (thousands of words).")] = "closed",
    voices: Annotated[str, typer.Option(help=f"Comma-separated names of {', '.join(VOICES)}.")] = "slt,rms",
    num_train: Annotated[int, typer.Option(help="Training sentences.")] = 20_000,
    num_validation: Annotated[int, typer.Option(help="Validation sentences.")] = 200,
    num_test: Annotated[int, typer.Option(help="Test sentences.")] = 200,
    shard_size: Annotated[int, typer.Option(help="Rows per parquet file.")] = 1000,
    seed: Annotated[int, typer.Option(help="Decides sentences, speakers and dither.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Render a corpus into OUT_DIR."""
    try:
        names = tuple(name.strip() for name in voices.split(",") if name.strip())
        recipe = Recipe(domain, names, num_train, num_validation, num_test, shard_size, seed)
        command = shlex.join(["python", "-m", "dtm_hf.training.corpus", *sys.argv[1:]])
        card = build_corpus(recipe, out_dir, workers, command)
    except (ValueError, RuntimeError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    hours = ", ".join(f"{speaker} {value:.2f} h" for speaker, value in card["hours_per_speaker"].items())
    typer.echo(f"{sum(card['rows'].values())} utterances in {out_dir}: {hours}")


def _rng(*parts: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _flac_bytes(waveform: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    samples = np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int16)
    sf.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _programs(recipe: Recipe) -> dict[str, dict[str, str]]:
    """Version and licence of each synthesiser that the recipe uses."""
    found = {}
    for name in PROGRAMS:
        if any(VOICES[voice][0] == name for voice in recipe.voices):
            # flite prints its version and leaves with status 1.
            done = subprocess.run([require_program(name), "--version"], capture_output=True, text=True, check=False)
            lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
            # The path of the data folder says where it was built, not what it is.
            version = next((line for line in lines if "version:" in line or "eSpeak" in line), "unknown")
            found[name] = {
                "version": version.removeprefix("version:").split("Data at")[0].strip(),
                "licence": LICENCES[name],
                "package": PROGRAMS[name],
            }
    return found


def _statistics(recipe: Recipe, out_dir: Path) -> dict:
    """Counts over all shards, read back from the files."""
    rows, speakers, seconds, words = Counter(), Counter(), defaultdict(float), set()
    texts = defaultdict(set)
    for shard in recipe.shards():
        table = pq.read_table(out_dir / shard.file_name, columns=["text", "speaker", "duration"])
        for row in table.to_pylist():
            key = normalize(row["text"])
            rows[shard.split] += 1
            speakers[row["speaker"]] += 1
            seconds[row["speaker"]] += row["duration"]
            texts[shard.split].add(key)
            words.update(key.split())
    return {
        "sample_rate": SAMPLE_RATE,
        "rows": dict(rows),
        "distinct_sentences": {split: len(found) for split, found in texts.items()},
        "rows_per_speaker": dict(speakers),
        "hours_per_speaker": {speaker: round(value / 3600, 4) for speaker, value in sorted(seconds.items())},
        "vocabulary": sorted(CLOSED_VOCABULARY if recipe.domain == "closed" else words),
    }


def _write_json(content: dict, path: Path) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(aside, path)

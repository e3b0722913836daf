"""Command line: render a corpus into pre-shuffled parquet shards that `datasets` reads as audio."""

import functools
import json
import shlex
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from dtm_hf.files import written_aside
from dtm_hf.training.corpus.engine import Unspeakable, check_voice
from dtm_hf.training.corpus.engines import ENGINES, load_engine
from dtm_hf.training.corpus.jobs import process_pool, progress_bar, run_missing
from dtm_hf.training.corpus.recipe import Recipe, Shard, row_rng, working_order
from dtm_hf.training.corpus.render import SAMPLE_RATE, render
from dtm_hf.training.corpus.rows import SCHEMA, flac_bytes, write_table
from dtm_hf.training.corpus.sentences import CLOSED_VOCABULARY, normalize, read_sentences

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def write_shard(recipe: Recipe, shard: Shard, out_dir: Path, model: str | None = None) -> int:
    """Render one shard aside, then put it in place under its final name. Returns its number of rows."""
    engine = _engine(recipe.engine, model, recipe.voices)
    rows: dict[str, list] = {name: [] for name in SCHEMA.names}
    for row, (text, speaker) in enumerate(recipe.lines(shard)):
        identifier = f"{recipe.domain}-{shard.split}-{shard.index:05d}-{row:06d}"
        try:
            waveform = render(engine, text, speaker, row_rng(recipe.seed, identifier))
        except Unspeakable:
            continue
        rows["id"].append(identifier)
        rows["audio"].append({"bytes": flac_bytes(waveform), "path": f"{identifier}.flac"})
        rows["text"].append(text)
        rows["speaker"].append(speaker)
        rows["duration"].append(len(waveform) / SAMPLE_RATE)
    write_table(pa.table(rows, schema=SCHEMA), out_dir / shard.file_name)
    return len(rows["id"])


def build_corpus(recipe: Recipe, out_dir: Path, workers: int = 2, command: str = "", model: str | None = None) -> dict:
    """Render every shard that is not there yet and write `corpus.json`; returns what that file holds.

    Args:
        recipe (`Recipe`): What is in the corpus.
        out_dir (`Path`): Folder of the shards.
        workers (`int`, defaults to 2): Processes, each with an engine of its own.
        command (`str`): What the user typed, for the card.
        model (`str`, *optional*): Folder or Hub name of the engine's weights.

    Raises:
        ValueError: if `out_dir` holds another corpus, or `workers` is not positive.
        MissingProgramError: if the engine is not installed; nothing is written then.
    """
    if workers < 1:
        raise ValueError(f"`workers` must be 1 or more, but got {workers}")
    engine = _engine(recipe.engine, model, recipe.voices)
    engine.require()
    for voice in (*recipe.voices, *recipe.unseen_voices):
        check_voice(engine, voice)
    out_dir = Path(out_dir)
    card_path = out_dir / "corpus.json"
    programs = {recipe.engine: engine.about()}
    if card_path.is_file():
        card = json.loads(card_path.read_text())
        for present, wanted in ((card["recipe"], recipe.card()), (card["programs"], programs)):
            if present != wanted:
                raise ValueError(f"`out_dir` {out_dir} holds another corpus, {present}: choose an empty folder")
    out_dir.mkdir(parents=True, exist_ok=True)
    card = {"recipe": recipe.card(), "command": command, "complete": False, "programs": programs}
    _write_json(card, card_path)

    jobs = [
        (out_dir / shard.file_name, write_shard, (recipe, shard, out_dir, model))
        for shard in working_order(recipe.shards())
    ]
    with progress_bar() as progress, process_pool(workers) as pool:
        run_missing(pool, progress, "shards", jobs)
    card |= {"complete": True} | _statistics(recipe, out_dir)
    _write_json(card, card_path)
    return card


@app.callback()
def main() -> None:
    """Speech corpora for training: rendered with free synthesisers, or prepared from what there is."""


@app.command()
def build(
    out_dir: Annotated[Path, typer.Argument(help="Folder of the shards; a build that was cut short goes on there.")],
    sentences: Annotated[
        list[Path] | None,
        typer.Option(help="Text file with a sentence a line, 'id|' before it or not; can be given more than once."),
    ] = None,
    domain: Annotated[str, typer.Option(help="What is said without --sentences: 'closed' (73 words).")] = "closed",
    engine: Annotated[str, typer.Option(help=f"One of {', '.join(ENGINES)}.")] = "flite",
    voices: Annotated[str, typer.Option(help="Comma-separated voices; a wrong one lists them.")] = "slt,rms",
    unseen_voices: Annotated[str, typer.Option(help="Voices for the split 'unseen' alone.")] = "",
    model: Annotated[
        str | None, typer.Option(help="Folder or Hub name of the engine's weights (kokoro, pipeline).")
    ] = None,
    num_train: Annotated[int, typer.Option(help="Training rows.")] = 20_000,
    num_validation: Annotated[int, typer.Option(help="Validation rows.")] = 200,
    num_test: Annotated[int, typer.Option(help="Test rows.")] = 200,
    num_unseen: Annotated[int, typer.Option(help="Rows of the unseen voices, who say the test sentences.")] = 0,
    shard_size: Annotated[int, typer.Option(help="Rows per parquet file.")] = 1000,
    seed: Annotated[int, typer.Option(help="Decides sentences, speakers, dither and what the engine varies.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Render a corpus into OUT_DIR."""
    try:
        if domain != "closed":
            raise ValueError(f"`domain` must be 'closed', but got {domain!r}; for other sentences, use `sentences`")
        numbers = (num_train, num_validation, num_test, num_unseen)
        texts = read_sentences(sentences) if sentences else ()
        recipe = Recipe(engine, _names(voices), _names(unseen_voices), *numbers, shard_size, seed, texts)
        command = shlex.join(["python", "-m", "dtm_hf.training.corpus", *sys.argv[1:]])
        card = build_corpus(recipe, out_dir, workers, command, model)
    except (ValueError, RuntimeError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    hours = ", ".join(f"{speaker} {value:.2f} h" for speaker, value in card["hours_per_speaker"].items())
    typer.echo(f"{sum(card['rows'].values())} utterances in {out_dir}: {hours}")
    if card["left_out"]:
        typer.echo(f"left out: {card['left_out']} that the engine cannot say", err=True)


# Once a process: an engine may have weights to load.
_engine = functools.cache(load_engine)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


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
        "left_out": sum(shard.size for shard in recipe.shards()) - rows.total(),
        "distinct_sentences": {split: len(found) for split, found in texts.items()},
        "rows_per_speaker": dict(speakers),
        "hours_per_speaker": {speaker: round(value / 3600, 4) for speaker, value in sorted(seconds.items())},
        "vocabulary": sorted(words if recipe.sentences else CLOSED_VOCABULARY),
    }


def _write_json(content: dict, path: Path) -> None:
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n")

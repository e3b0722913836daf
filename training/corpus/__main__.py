"""Entry point of ``python -m dtm_hf.training.corpus``."""

from pathlib import Path
from typing import Annotated

import typer

from dtm_hf.training.config import options
from dtm_hf.training.corpus.build import app


@app.command("prepare")
def prepare_command(
    source: Annotated[
        str, typer.Argument(help="Folder or Hub name: parquet, WebDataset, audio folder or F5-TTS's own.")
    ],
    out_dir: Annotated[Path, typer.Argument(help="Folder of the shards; what was cut short goes on there.")],
    split: Annotated[str, typer.Option(help="Split of the source, and name of what is written.")] = "train",
    format: options.Format = None,
    config: options.Config = None,
    revision: options.Revision = None,
    audio_column: options.AudioColumn = "audio",
    text_column: options.TextColumn = "text",
    speaker_column: options.SpeakerColumn = "speaker",
    shard_size_mb: Annotated[float, typer.Option(help="Megabytes of audio in a shard, about.")] = 256,
    rows_per_shard: Annotated[int | None, typer.Option(help="Rows of a shard at most, in place of its size.")] = None,
    num_validation: Annotated[int, typer.Option(help="Rows set apart as the split validation.")] = 0,
    split_by_text: Annotated[
        bool, typer.Option("--split-by-text", help="Make train, validation and test, which share no sentence.")
    ] = False,
    min_seconds: Annotated[float, typer.Option(help="Shorter clips are left out.")] = 0.3,
    max_seconds: Annotated[float, typer.Option(help="Longer clips are left out.")] = 30.0,
    sampling_rate: Annotated[
        int | None, typer.Option(help="Encode all audio anew, as mono 16-bit FLAC at this rate in Hz.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the order of the rows.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Write SOURCE into OUT_DIR as pre-shuffled shards of even size, without the rows that cannot be trained on."""
    from dtm_hf.training.config.arguments import SourceArguments
    from dtm_hf.training.corpus.passes import RowChecks
    from dtm_hf.training.corpus.prepare import Preparation, prepare

    try:
        columns = {"audio_column": audio_column, "text_column": text_column, "speaker_column": speaker_column or None}
        arguments = SourceArguments(source, format=format, config=config, revision=revision, **columns)
        checks = RowChecks(min_seconds, max_seconds, sampling_rate)
        preparation = Preparation(
            arguments, split, rows_per_shard, shard_size_mb, num_validation, split_by_text, seed, checks
        )
        manifest = prepare(preparation, out_dir, workers)
    except (ValueError, RuntimeError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    shards, speakers = len(manifest["shards"]), len(manifest["hours_by_speaker"])
    typer.echo(
        f"{manifest['rows']} rows in {shards} shards in {out_dir}: {manifest['hours']:.2f} h, speakers: {speakers}"
    )
    for reason, count in manifest["skipped"].items():
        typer.echo(f"left out: {count} {reason}", err=True)
    for name in manifest["broken_shards"]:
        typer.echo(f"left out: the shard {name}, or what follows the place where it breaks", err=True)


@app.command("tokenize")
def tokenize_command(
    source: Annotated[
        str, typer.Argument(help="Folder or Hub name: parquet, WebDataset, audio folder or F5-TTS's own.")
    ],
    out_dir: Annotated[Path, typer.Argument(help="Folder of the shards; what was cut short goes on there.")],
    codec: Annotated[str, typer.Option(help="Folder or Hub name of a MimiModel.")] = "kyutai/mimi",
    codec_revision: Annotated[str | None, typer.Option(help="Revision of the codec.")] = None,
    num_codebooks: Annotated[
        int | None, typer.Option(help="Codebooks, the first ones.", show_default="all of the codec")
    ] = None,
    splits: Annotated[str, typer.Option(help="Splits, with commas between.")] = "train,validation,test",
    keep_audio: Annotated[bool, typer.Option("--keep-audio", help="Keep the recordings beside their codes.")] = False,
    format: options.Format = None,
    config: options.Config = None,
    revision: options.Revision = None,
    audio_column: options.AudioColumn = "audio",
    text_column: options.TextColumn = "text",
    speaker_column: options.SpeakerColumn = "speaker",
    min_seconds: Annotated[float, typer.Option(help="Shorter clips are left out.")] = 0.3,
    max_seconds: Annotated[float, typer.Option(help="Longer clips are left out.")] = 30.0,
    batch_seconds: Annotated[float, typer.Option(help="Speech that is coded at once; changes no code.")] = 60.0,
    workers: Annotated[int, typer.Option(help="Processes, each with a codec of its own.")] = 1,
) -> None:
    """Write the codes of SOURCE's recordings into OUT_DIR, for `objective: trm`: a shard for each of its own."""
    from dtm_hf.training.config.arguments import SourceArguments
    from dtm_hf.training.corpus.codes import Tokenization, tokenize

    try:
        columns = {"audio_column": audio_column, "text_column": text_column, "speaker_column": speaker_column or None}
        arguments = SourceArguments(source, format=format, config=config, revision=revision, **columns)
        bounds = (min_seconds, max_seconds, batch_seconds)
        tokenization = Tokenization(arguments, codec, codec_revision, num_codebooks, keep_audio, *bounds)
        names = [name.strip() for name in splits.split(",") if name.strip()]
        card = tokenize(tokenization, out_dir, names, workers)
    except (ValueError, RuntimeError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    for split, counts in card["splits"].items():
        typer.echo(f"{split}: {counts['rows']} rows, {counts['hours']:.2f} h, speakers: {len(counts['speakers'])}")
        for reason, count in counts["skipped"].items():
            typer.echo(f"left out of {split}: {count} {reason}", err=True)


@app.command("filter")
def filter_command(
    source: Annotated[Path, typer.Argument(help="Folder that `build` writes; it may still be writing.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder of the shards without what is misheard.")],
    recognizer: Annotated[
        str, typer.Option(help="As in `dtm-hf benchmark`: whisper:SIZE or whisper:FOLDER.")
    ] = "whisper:tiny.en",
    max_wer: Annotated[float, typer.Option(help="Clips with a higher word error rate are dropped.")] = 0.2,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Drop the clips in which a recogniser does not hear the text. New shards are heard when it runs again."""
    from dtm_hf.training.corpus.hearing import filter_corpus

    try:
        card = filter_corpus(source, out_dir, recognizer, max_wer, workers)
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    for split, speakers in card["splits"].items():
        for speaker, counts in speakers.items():
            kept = f"{counts['kept']:6} kept, {counts['dropped']} dropped: {counts['hours']:.2f} h"
            typer.echo(f"{split:10} {speaker:12} {kept}")


@app.command("phrases")
def phrases_command(
    out: Annotated[Path, typer.Argument(help="Text file, for `build --sentences`.")],
    num: Annotated[int, typer.Option(min=1, help="Phrases.")] = 1500,
    seed: Annotated[int, typer.Option(help="Decides the phrases.")] = 0,
) -> None:
    """Write what people type, as it is said, into OUT: greetings, questions, times, dates, numbers, addresses."""
    from itertools import islice

    from dtm_hf.files import written_aside
    from dtm_hf.training.corpus.phrases import phrases

    try:
        with written_aside(out) as aside:
            aside.write_text("".join(f"{text}\n" for text in islice(phrases(seed), num)), encoding="utf-8")
    except (ImportError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{num} phrases in {out}")


@app.command("examples")
def examples_command(
    wordnet: Annotated[Path, typer.Argument(help="Folder of WordNet's database, with data.noun and so on.")],
    out: Annotated[Path, typer.Argument(help="Text file, for `build --sentences`.")],
    num: Annotated[int, typer.Option(min=1, help="Lines at most.")] = 7000,
    words: Annotated[bool, typer.Option("--words", help="Single words and names in the place of sentences.")] = False,
) -> None:
    """Write the example sentences of WordNet into OUT: short, and with words that no other text here has."""
    from dtm_hf.files import written_aside
    from dtm_hf.training.corpus.examples import example_sentences, words_and_names

    try:
        lines = (words_and_names if words else example_sentences)(wordnet, num)
        with written_aside(out) as aside:
            aside.write_text("".join(f"{text}\n" for text in lines), encoding="utf-8")
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{len(lines)} lines in {out}")


# Worker processes import this file again under another name: the guard keeps them from starting a second build.
if __name__ == "__main__":
    app(prog_name="python -m dtm_hf.training.corpus")

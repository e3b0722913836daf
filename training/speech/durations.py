"""Fits a [`DurationPredictor`] to recordings: ``python -m dtm_hf.training.durations``."""

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from dtm_hf.files import written_aside
from dtm_hf.training.config import options
from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.data.sources import Source, UnreadableShard, open_source

if TYPE_CHECKING:
    from dtm_hf.frontend.duration_prediction import DurationPredictor

# A character of fewer recordings tells little of itself.
_MIN_RECORDINGS = 20
# Every so many rows one is held out.
_HELD_OUT = 10
# What characters take that always occur together is shared out evenly: the recordings cannot divide it.
_RIDGE = 1.0
# Keeps a text of characters without weight from taking no time.
_MIN_BASE_SECONDS = 0.05
# A header may say anything: one that was written to a pipe, thousands of years.
_MAX_SECONDS = 30.0
_MAX_BAD_FRACTION = 0.05
# F5-TTS's frames a second.
_FRAME_RATE = 24000 / 256

_PIPELINE_FILE = "model_index.json"

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Timed:
    """A text, how many seconds it takes, and who says it."""

    text: str
    seconds: float
    speaker: str | None


def read_rows(source: Source, max_rows: int) -> tuple[list[Timed], Counter]:
    """
    The first rows of a source, their length that of the audio's header, and how many were left out for which reason.

    Raises:
        ValueError: if more than one in twenty cannot be read.
    """
    rows, left_out, bad = [], Counter(), 0
    for shard in source.shards:
        try:
            for _, row in islice(source.rows(shard), max_rows - len(rows)):
                try:
                    rows.append(_timed(source, row))
                except WrongLength as reason:
                    left_out[str(reason)] += 1
                except BadRow as reason:
                    left_out[str(reason)] += 1
                    bad += 1
        except UnreadableShard as error:
            left_out[f"shard ({shard.name}: {error})"] += 1
    if bad > _MAX_BAD_FRACTION * (bad + len(rows)):
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        raise ValueError(
            f"`dataset` {source.arguments.dataset!r}: {bad} of {bad + len(rows)} rows cannot be used ({reasons})."
        )
    return rows, left_out


def _timed(source: Source, row: Row) -> Timed:
    import soundfile

    text = source.text(row)
    if any(len(token) > 1 for token in text):
        raise BadRow("tokens in the place of a text")
    text = "".join(text).strip()
    if not text:
        raise BadRow("empty text")
    try:
        seconds = soundfile.info(io.BytesIO(source.content(row, "audio"))).duration
    except soundfile.LibsndfileError as error:
        raise BadRow("undecodable audio") from error
    if seconds <= 0:
        raise BadRow("empty audio")
    if seconds > _MAX_SECONDS:
        raise WrongLength(f"longer than {_MAX_SECONDS} s")
    return Timed(text, seconds, source.label(row, "speaker"))


def fit_durations(rows: list[Timed], training_data: str | None = None) -> "DurationPredictor":
    """
    Least squares of the seconds on the number of words and of each character, all weights 0 or more.

    Raises:
        ValueError: if there are too few rows, or their durations do not grow with the texts.
    """
    from scipy.optimize import nnls

    from dtm_hf.frontend.duration_prediction import DurationPredictor

    texts = [row.text.casefold() for row in rows]
    in_rows = Counter(character for text in texts for character in set("".join(text.split())))
    known = sorted(character for character, count in in_rows.items() if count >= _MIN_RECORDINGS)
    columns = {character: index for index, character in enumerate(known, start=3)}
    if not known:
        raise ValueError(
            f"`dataset` must hold {_MIN_RECORDINGS} recordings that share a character, but got {len(rows)} recordings."
        )

    # Columns: any text, words, bytes of characters that are not known, the known ones. Summed up row by row: the table
    # of all rows by all characters of a language would not fit into memory.
    gram, moment = _RIDGE * np.eye(3 + len(known)), np.zeros(3 + len(known))
    # A full stop that all texts end with is then part of what any text takes, also one without it.
    gram[0, 0] = 0.0
    occurrences, num_bytes = Counter(), Counter()
    for row, text in zip(rows, texts, strict=True):
        words = text.split()
        counts = Counter()
        for character, count in Counter("".join(words)).items():
            column, size = columns.get(character, 2), len(character.encode())
            counts[column] += count if column > 2 else count * size
            occurrences[column] += count
            num_bytes[column] += count * size
        where = np.array([0, 1, *counts])
        values = np.array([1.0, len(words), *counts.values()])
        gram[np.ix_(where, where)] += np.outer(values, values)
        moment[where] += values * row.seconds
    lower = np.linalg.cholesky(gram)
    weights, _ = nnls(lower.T, np.linalg.solve(lower, moment))

    if not weights[3:].any():
        raise ValueError("the durations in `dataset` do not grow with the texts: are they of the same rows?")
    # As many seconds as a byte of the known characters has on the average.
    total = sum(weights[column] * occurrences[column] for column in columns.values())
    return DurationPredictor(
        base_seconds=max(round(float(weights[0]), 5), _MIN_BASE_SECONDS),
        word_seconds=round(float(weights[1]), 5),
        character_seconds={character: round(float(weights[column]), 5) for character, column in columns.items()},
        other_byte_seconds=round(float(total / sum(num_bytes[column] for column in columns.values())), 5),
        training_data=training_data,
    )


def proportion_error(rows: list[Timed], measure: Callable[[str], float]) -> tuple[float, int]:
    """
    How far off a pipeline's guess of a duration is whose prompt is another recording of the same speaker, each row
    after the one before it: the standard deviation of the logarithm of guessed over true, and of how many pairs.
    """
    from dtm_hf.pipelines.chunking import finish_reference_text, target_frames

    before: dict[str | None, Timed] = {}
    errors = []
    for row in rows:
        prompt = before.get(row.speaker)
        if prompt is not None:
            frames = int(prompt.seconds * _FRAME_RATE)
            guessed = target_frames(row.text, finish_reference_text(prompt.text), frames, 1.0, measure)
            errors.append(np.log(max(guessed, 1) / _FRAME_RATE / row.seconds))
        before[row.speaker] = row
    return (float(np.std(errors)) if errors else float("nan")), len(errors)


def check_output(output: Path) -> None:
    """
    Refuse, before hours of recordings are read, what the predictor would be lost in.

    Raises:
        ValueError: unless `output` is the folder of a saved pipeline or of a predictor, or new, or empty.
    """
    from dtm_hf.frontend.duration_prediction import DurationPredictor

    if not output.exists() or output.is_dir() and not any(output.iterdir()):
        return
    if not any((output / name).is_file() for name in (_PIPELINE_FILE, DurationPredictor.config_name)):
        raise ValueError(
            f"`output` must be the folder of a saved pipeline (with {_PIPELINE_FILE}), or a new one for the predictor "
            f"alone, but got {str(output)!r}."
        )


def install(predictor: "DurationPredictor", output: Path) -> Path:
    """Save into the pipeline that is in the folder `output`, card included, or alone; returns where it is."""
    index = output / _PIPELINE_FILE
    place = output / "duration_predictor" if index.is_file() else output
    with written_aside(place / predictor.config_name) as aside:
        predictor.to_json_file(aside)
    if place is output:
        return place
    from dtm_hf.hub import fill_card
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline
    from dtm_hf.pipelines.pipeline_trm import TRMPipeline

    components = json.loads(index.read_text(encoding="utf-8"))
    components["duration_predictor"] = ["dtm_hf", type(predictor).__name__]
    with written_aside(index) as aside:
        aside.write_text(json.dumps(components, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    codes = components.get("_class_name") == TRMPipeline.__name__
    pipeline = TRMPipeline.from_pretrained(output) if codes else DTMPipeline.from_pretrained(output, force_head=True)
    fill_card(pipeline).save(output / "README.md")
    return place


@app.command()
def main(
    dataset: Annotated[str, typer.Argument(help="Folder or Hub name, as for training.")],
    output: Annotated[Path, typer.Argument(help="Folder of a saved pipeline that takes it in, or a new one.")],
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    format: options.Format = None,
    config: options.Config = None,
    revision: options.Revision = None,
    audio_column: options.AudioColumn = "audio",
    text_column: options.TextColumn = "text",
    speaker_column: options.SpeakerColumn = "speaker",
    max_rows: Annotated[int, typer.Option(min=1, help="Recordings to use at most.")] = 100_000,
) -> None:
    """Fit how long a text takes to say, in the place of F5-TTS's count of bytes, and give it to a pipeline."""
    columns = {"audio_column": audio_column, "text_column": text_column, "speaker_column": speaker_column or None}
    arguments = SourceArguments(dataset, format=format, config=config, revision=revision, **columns)
    try:
        check_output(output)
        rows, left_out = read_rows(open_source(arguments, split), max_rows)
        fitted = [row for number, row in enumerate(rows) if number % _HELD_OUT]
        name = Path(dataset).resolve().name if Path(dataset).is_dir() else dataset
        predictor = fit_durations(fitted, training_data=f"{len(fitted)} recordings of {name}")
        place = install(predictor, output)
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    for reason, count in left_out.items():
        typer.echo(f"left out: {count} {reason}", err=True)
    typer.echo(f"{place}: fitted on {len(fitted)} recordings, {len(predictor.config.character_seconds)} characters")
    # A sentence that was fitted tells nothing of others.
    texts = {row.text for row in fitted}
    _report([row for row in rows[::_HELD_OUT] if row.text not in texts], predictor)


def _report(held_out: list[Timed], predictor: "DurationPredictor") -> None:
    from dtm_hf.pipelines.chunking import num_bytes

    (by_bytes, pairs), (by_characters, _) = (proportion_error(held_out, f) for f in (num_bytes, predictor))
    if not pairs:
        typer.echo("its error is not measured: no speaker has two held-out recordings of other texts")
        return
    typer.echo(
        f"error of a length guessed from another recording of the speaker ({pairs} held-out pairs, standard deviation "
        f"of the logarithm): bytes {by_bytes:.3f}, characters {by_characters:.3f}"
    )

"""Fits a [`DurationPredictor`] to recordings: ``python -m dtm_hf.training.durations``."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from dtm_hf.files import written_aside
from dtm_hf.training.arguments import SourceArguments
from dtm_hf.training.data.rows import BadRow
from dtm_hf.training.data.sources import Source, UnreadableShard, open_source

if TYPE_CHECKING:
    from dtm_hf.frontend.duration_prediction import DurationPredictor

# A character of fewer recordings tells little of itself.
_MIN_RECORDINGS = 20
# Every so many rows one is held out.
_HELD_OUT = 10
# Seconds squared: keeps the weights of characters that always come together apart from chance.
_RIDGE = 1.0

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Timed:
    """A text, how many seconds it takes, and who says it."""

    text: str
    seconds: float
    speaker: str | None


def timed_rows(source: Source) -> Iterator[Timed]:
    """All rows of a source whose text and audio can be read; the audio's length is that of its header."""
    import soundfile

    for shard in source.shards:
        try:
            for _, row in source.rows(shard):
                try:
                    text = "".join(source.text(row)).strip()
                    seconds = soundfile.info(io.BytesIO(source.audio(row))).duration
                    speaker = source.speaker(row)
                except (BadRow, soundfile.LibsndfileError):
                    continue
                if text and seconds > 0:
                    yield Timed(text, seconds, speaker)
        except UnreadableShard as error:
            typer.echo(f"left out: the rest of the shard {shard.name}: {error}", err=True)


def fit_durations(rows: list[Timed], training_data: str | None = None) -> "DurationPredictor":
    """
    Least squares of the seconds on the number of words and of each character, all weights 0 or more.

    Raises:
        ValueError: if there are too few rows, or their durations have nothing to do with the texts.
    """
    from scipy.optimize import nnls

    from dtm_hf.frontend.duration_prediction import DurationPredictor

    in_rows = Counter(character for row in rows for character in set("".join(row.text.casefold().split())))
    known = sorted(character for character, count in in_rows.items() if count >= _MIN_RECORDINGS)
    columns = {character: index for index, character in enumerate(known, start=3)}
    if not known:
        raise ValueError(
            f"`dataset` must hold {_MIN_RECORDINGS} recordings that share a character, but got {len(rows)} recordings."
        )

    # Columns: any text, words, characters that are not known, the known ones. Summed up row by row, so that memory
    # does not grow with the rows.
    gram, moment = _RIDGE * np.eye(3 + len(known)), np.zeros(3 + len(known))
    # A full stop that all texts end with is then part of what any text takes, also one without it.
    gram[0, 0] = 0.0
    for row in rows:
        text = row.text.casefold()
        counts = Counter(columns.get(character, 2) for character in "".join(text.split()))
        where = np.array([0, 1, *counts])
        values = np.array([1.0, len(text.split()), *counts.values()])
        gram[np.ix_(where, where)] += np.outer(values, values)
        moment[where] += values * row.seconds
    lower = np.linalg.cholesky(gram)
    weights, _ = nnls(lower.T, np.linalg.solve(lower, moment))

    if not weights[3:].any():
        raise ValueError("the durations in `dataset` do not grow with the texts: are they of the same rows?")
    # As many seconds as the known characters have on the average of their occurrences.
    occurrences = Counter(c for row in rows for c in row.text.casefold() if c in columns)
    mean = sum(weights[columns[c]] * count for c, count in occurrences.items()) / occurrences.total()
    return DurationPredictor(
        base_seconds=round(float(weights[0]), 5),
        word_seconds=round(float(weights[1]), 5),
        character_seconds={character: round(float(weights[index]), 5) for character, index in columns.items()},
        other_character_seconds=round(float(mean), 5),
        training_data=training_data,
    )


def proportion_error(rows: list[Timed], length: Callable[[str], float]) -> float:
    """
    How far off a duration is that is taken in proportion to another recording's of the same speaker: the standard
    deviation of the logarithm of predicted over true, each row after the one before it.
    """
    before: dict[str | None, Timed] = {}
    errors = []
    for row in rows:
        other = before.get(row.speaker)
        if other is not None:
            predicted = other.seconds * length(row.text) / length(other.text)
            errors.append(np.log(predicted / row.seconds))
        before[row.speaker] = row
    return float(np.std(errors)) if errors else float("nan")


def install(predictor: "DurationPredictor", output: Path) -> Path:
    """Save into the pipeline that is in the folder `output`, or into that folder alone; returns where it is."""
    index = output / "model_index.json"
    if not index.is_file():
        predictor.save_pretrained(output)
        return output
    components = json.loads(index.read_text())
    predictor.save_pretrained(output / "duration_predictor")
    components["duration_predictor"] = ["dtm_hf", type(predictor).__name__]
    with written_aside(index) as aside:
        aside.write_text(json.dumps(components, indent=2, sort_keys=True) + "\n")
    return output / "duration_predictor"


@app.command()
def main(
    dataset: Annotated[str, typer.Argument(help="Folder or Hub name, as for training.")],
    output: Annotated[Path, typer.Argument(help="Folder of a saved pipeline that takes it in, or of it alone.")],
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    format: Annotated[str | None, typer.Option(help="parquet, webdataset, audiofolder or f5; none to look.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub dataset.")] = None,
    audio_column: Annotated[str, typer.Option(help="Column of the audio.")] = "audio",
    text_column: Annotated[str, typer.Option(help="Column of the transcript; json.text reaches inside one.")] = "text",
    speaker_column: Annotated[str, typer.Option(help="Column of the speaker; '' if there is none.")] = "speaker",
    max_rows: Annotated[int, typer.Option(help="Rows to read at most.")] = 100_000,
) -> None:
    """Fit how long a text takes to say, in the place of F5-TTS's count of bytes, and give it to a pipeline."""
    from itertools import islice

    columns = {"audio_column": audio_column, "text_column": text_column, "speaker_column": speaker_column or None}
    arguments = SourceArguments(dataset, format=format, config=config, revision=revision, **columns)
    try:
        source = open_source(arguments, split)
        rows = list(islice(timed_rows(source), max_rows))
        held_out = rows[::_HELD_OUT]
        fitted = [row for number, row in enumerate(rows) if number % _HELD_OUT]
        predictor = fit_durations(fitted, training_data=f"{len(fitted)} recordings of {Path(dataset).name}")
        place = install(predictor, output)
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    from dtm_hf.pipelines.chunking import num_bytes

    typer.echo(f"{place}: fitted on {len(fitted)} recordings, {len(predictor.config.character_seconds)} characters")
    typer.echo(
        f"off by (held out, {len(held_out)}, in proportion to another of the speaker; standard deviation of the log): "
        f"bytes {proportion_error(held_out, num_bytes):.1%}, characters {proportion_error(held_out, predictor):.1%}"
    )


if __name__ == "__main__":
    app(prog_name="python -m dtm_hf.training.durations")

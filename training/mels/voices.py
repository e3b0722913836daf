"""Makes a [`SpeakerTable`] of recordings: ``python -m dtm_hf.training.speakers``."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from dtm_hf.files import folder_written_aside
from dtm_hf.frontend.voice_embedding import VOICE_RATE, VoiceEncoder
from dtm_hf.speecht5.speakers import SpeakerTable
from dtm_hf.training.config import options
from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.data.sources import Source, UnreadableShard, open_source
from dtm_hf.training.mels.rows import NOBODY
from dtm_hf.training.speech.rows import decode_audio

# More of one voice changes its mean by little.
_RECORDINGS = 20

app = typer.Typer(add_completion=False)


def embed_speakers(source: Source, most: int) -> tuple[SpeakerTable, Counter]:
    """
    The mean embedding of the first recordings of each speaker, of length 1; and how many were left out for which
    reason.

    Args:
        source ([`Source`]): with the roles `audio`, `text` and `speaker`.
        most (`int`): recordings a speaker.

    Raises:
        ValueError: if there is no voice in any.
        ImportError: if Resemblyzer is not installed.
    """
    encoder, heard, left_out = VoiceEncoder(), {}, Counter()
    for shard in source.shards:
        try:
            for _, row in source.rows(shard):
                try:
                    name = source.label(row, "speaker") or NOBODY
                    if len(heard.get(name, ())) >= most:
                        continue
                    vector = encoder(decode_audio(source.content(row, "audio"), VOICE_RATE))
                    if vector is None:
                        raise BadRow("no voice")
                    heard.setdefault(name, []).append(vector)
                except (BadRow, WrongLength) as reason:
                    left_out[str(reason)] += 1
        except UnreadableShard as error:
            left_out[f"shard ({shard.name}: {error})"] += 1
    if not heard:
        raise ValueError(f"`dataset` {source.arguments.dataset!r} must hold recordings of voices, but there is none.")
    means = {name: np.mean(vectors, axis=0) for name, vectors in sorted(heard.items())}
    vectors = {name: torch.from_numpy(mean / np.linalg.norm(mean)) for name, mean in means.items()}
    return SpeakerTable(vectors, encoder="resemblyzer"), left_out


@app.command()
def main(
    dataset: Annotated[str, typer.Argument(help="Folder or Hub name, as for training.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; must not exist or be empty.")],
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    format: options.Format = None,
    config: options.Config = None,
    revision: options.Revision = None,
    audio_column: options.AudioColumn = "audio",
    text_column: options.TextColumn = "text",
    speaker_column: options.SpeakerColumn = "speaker",
    recordings: Annotated[int, typer.Option(min=1, help="Recordings of each speaker at most.")] = _RECORDINGS,
) -> None:
    """Embed the voices of a data set with Resemblyzer, for `speaker_table` of the objective speecht5."""
    columns = {"audio_column": audio_column, "text_column": text_column, "speaker_column": speaker_column or None}
    arguments = SourceArguments(dataset, format=format, config=config, revision=revision, **columns)
    try:
        with folder_written_aside(output) as aside:
            table, left_out = embed_speakers(open_source(arguments, split), recordings)
            table.save_pretrained(aside)
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    for reason, count in left_out.items():
        typer.echo(f"left out: {count} {reason}", err=True)
    typer.echo(f"{output}: {len(table.vectors)} speakers, {table.size} numbers each")

"""The options of a command that reads a source, under the names of [`SourceArguments`]."""

from typing import Annotated

import typer

Format = Annotated[str | None, typer.Option(help="parquet, webdataset, audiofolder or f5; none to look.")]
Config = Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a Hub dataset.")]
AudioColumn = Annotated[str, typer.Option(help="Column of the audio.")]
TextColumn = Annotated[str, typer.Option(help="Column of the transcript; json.text reaches inside one.")]
SpeakerColumn = Annotated[str, typer.Option(help="Column of the speaker; '' if there is none.")]

"""Entry point of `python -m dtm_hf.synthesize`, alone or under `accelerate launch`."""

from pathlib import Path
from typing import Annotated

import typer

from dtm_hf.commands.console import ReportingGroup, stderr
from dtm_hf.commands.options import (
    HeadSteps,
    LocalFilesOnly,
    Model,
    PathOption,
    PlaceOption,
    Precision,
    Revision,
    Seed,
    Steps,
    StudentAdapters,
)

app = typer.Typer(cls=ReportingGroup, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def main(
    texts: Annotated[
        str, PlaceOption(help="A file (.txt, .jsonl, .csv, .tsv, .parquet), a folder or a Hub name; it is streamed.")
    ],
    output: Annotated[
        Path, PathOption("--output", "-o", help="Folder of the shards; what was cut short goes on there.")
    ],
    voices: Annotated[
        str | None,
        PlaceOption(
            help="Folder of NAME.wav with NAME.txt, or a data set with audio and text.",
            show_default="those packaged with the model",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Of data sets.")] = "train",
    text_column: Annotated[str, typer.Option(help="Of the texts.")] = "text",
    voice_column: Annotated[
        str, typer.Option(help="Of the texts, where they say who speaks; of the voices, their names.")
    ] = "voice",
    model: Model = None,
    student: StudentAdapters = None,
    steps: Steps = None,
    head_steps: HeadSteps = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale.", show_default="what is baked into the head, else 3")
    ] = None,
    seed: Seed = 0,
    num_shards: Annotated[int, typer.Option(min=1, max=512, help="Parquet files.")] = 16,
    max_batch_frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Frames that are sampled at once, padding included.",
            show_default="what a GPU's memory holds; on a CPU each chunk by itself",
        ),
    ] = None,
    recognizer: Annotated[
        str | None, typer.Option(help="Leaves out what it does not hear: whisper:MODEL.", show_default=False)
    ] = None,
    max_word_error: Annotated[float, typer.Option(min=0, help="Up to which a row is kept.")] = 0.3,
    dtype: Annotated[Precision, typer.Option(help="Type of the weights.")] = Precision.float32,
    device: Annotated[str | None, typer.Option(help="As torch names it.", show_default="each process its own")] = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Of each process on a CPU.")] = 1,
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="Hub repository of the data set, org/name, when all is spoken.", show_default=False),
    ] = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")] = False,
) -> None:
    """Speak a data set of texts into shuffled parquet shards with audio, text, speaker, seed and settings."""
    from .run import Request, synthesize

    def say(message: str) -> None:
        stderr.print(message, markup=False, highlight=False, soft_wrap=True)

    options = {name: value for name, value in locals().items() if name in Request.__dataclass_fields__}
    summary = synthesize(Request(**options | {"dtype": dtype.value}), say)
    if summary is not None:
        typer.echo(f"{summary['rows']} rows in {output}: {summary['hours']:.3f} h; {summary['bad_rows']} left out")


if __name__ == "__main__":
    app(prog_name="python -m dtm_hf.synthesize")

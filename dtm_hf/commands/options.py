"""Options that several commands have, and the choices of those with a few."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer


class Precision(StrEnum):
    """Types that the networks can run in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Runtime(StrEnum):
    """What a model speaks with."""

    torch = "torch"
    onnx = "onnx"
    openvino = "openvino"


class PortFormat(StrEnum):
    """Formats that `export` writes."""

    onnx = "onnx"
    openvino = "openvino"
    torch_export = "torch_export"


class PortWeights(StrEnum):
    """Types that `export` keeps weights in."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Durations(StrEnum):
    """Where a benchmark has the lengths of its speech from."""

    predicted = "predicted"
    bytes = "bytes"
    recording = "recording"


def path(typed: str | Path) -> Path:
    """
    A path with its `~`, which a shell leaves alone in `--output=~/speech` and in quotes.

    Raises:
        BadParameter: if it is the home of a user that there is not.
    """
    try:
        return Path(typed).expanduser()
    except RuntimeError as error:
        raise typer.BadParameter(f"{str(typed)!r} is in the home of a user that there is not.") from error


def place(typed: str) -> str:
    """A folder or a file, as of [`path`], or a name on the Hub as it is."""
    return str(path(typed)) if typed.startswith("~") else typed


# Every option that may be a path is one of these: what follows has one name for a file.
PathOption = partial(typer.Option, parser=path)
PlaceOption = partial(typer.Option, parser=place)
PathArgument = partial(typer.Argument, parser=path)
PlaceArgument = partial(typer.Argument, parser=place)

Model = Annotated[
    str | None,
    PlaceOption(help="Folder of a pipeline or name of a Hub repository.", show_default="the embedded dtm-f5-voice"),
]
StudentAdapters = Annotated[
    str | None, PlaceOption(help="Folder or Hub name of a distilled student's adapters.", show_default=False)
]
Beside = Annotated[
    list[str] | None,
    PlaceOption(
        help="Folder or Hub name of a SpeechT5, which speaks the arm speecht5, or of a TRM, for trm-H.",
        show_default=False,
    ),
]
Arms = Annotated[
    str,
    typer.Option(
        help="Ways to sample, with commas between: euler-N, uniform-N, epss-N, midpoint-N, dtm-TxS, oracle-TxS, "
        "renoise-N:C, noise-N:STD, student-N; @SCALE behind one sets its guidance. Of models beside: speecht5; "
        "trm-H, trm-H:independent, trm-H+S."
    ),
]
Output = Annotated[Path, PathOption("--output", "-o", help="WAV file to write; an existing one is replaced.")]
Voice = Annotated[
    str | None,
    typer.Option(
        help="Which of the recordings packaged with the pipeline to speak like, or of the voices that it knows.",
        metavar="NAME",
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the noise.")]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1, max=1000, help="Global steps, a backbone pass and branch each.", show_default="the pipeline's"
    ),
]
HeadSteps = Annotated[
    int | None,
    typer.Option(min=0, max=1000, help="Head calls a step; 0 is the F5-TTS baseline.", show_default="the pipeline's"),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")]
LocalFilesOnly = Annotated[bool, typer.Option("--local-files-only", help="Use the cache alone, no network.")]

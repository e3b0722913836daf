"""The options of the commands that last until they are told to end: `dtm-hf serve` and `dtm-hf app`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import LocalFilesOnly, Model, PathOption, Precision, Revision, Runtime, StudentAdapters

VoicesFolder = Annotated[
    Path | None,
    PathOption(
        help="Folder of further voices: recordings, each with what is said in it beside it as NAME.txt.",
        show_default=False,
    ),
]
Host = Annotated[
    str, typer.Option(help="Address to listen at; 0.0.0.0 is reached from other machines, this one's default is not.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 is any that is free.")]
Device = Annotated[str | None, typer.Option(help="As torch names it.", show_default="cuda if there is one")]
Dtype = Annotated[Precision, typer.Option(help="Type of the weights.")]
Engine = Annotated[
    Runtime,
    typer.Option(help="What it speaks with; onnx and openvino take a port that `export` wrote, and no PyTorch."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=256,
        help="Chunks of text that are sampled together, whoever asked for them.",
        show_default="16 on a GPU; 1 on a CPU, which is as busy with one as with many",
    ),
]


def serve(
    model: Model = None,
    student: StudentAdapters = None,
    voices: VoicesFolder = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="DTM_HF_TOKEN",
            help="What clients must send as their API key. On the command line other users of this machine see it.",
            show_default=False,
        ),
    ] = None,
    max_characters: Annotated[int, typer.Option(min=1, max=1_000_000, help="Of one text.")] = 4096,
    max_steps: Annotated[int, typer.Option(min=1, max=1000, help="Global steps that a client may ask for.")] = 64,
    max_requests: Annotated[
        int, typer.Option(min=1, max=10_000, help="That are spoken or wait at once; more are told to come again.")
    ] = 64,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds that an answer, or a stream's next piece, may take.")
    ] = 120.0,
    batch_size: BatchSize = None,
    runtime: Engine = Runtime.torch,
    dtype: Dtype = Precision.float32,
    device: Device = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Serve speech over HTTP as OpenAI's interface has it: /v1/audio/speech, and /health."""
    from .serving import ServiceModel, run_server

    run_server(
        ServiceModel(
            model=model,
            student=student,
            voices=voices,
            batch_size=batch_size,
            runtime=runtime.value,
            dtype=dtype.value,
            device=device,
            revision=revision,
            local_files_only=local_files_only,
        ),
        host=host,
        port=port,
        token=token,
        max_characters=max_characters,
        max_steps=max_steps,
        max_requests=max_requests,
        timeout_s=timeout,
    )


def app_page(
    model: Model = None,
    student: StudentAdapters = None,
    voices: VoicesFolder = None,
    recognizer: Annotated[
        str | None,
        typer.Option(
            help="Who writes what is said in a recording: whisper:MODEL (a size such as base, or a folder), "
            "paraformer-zh, or none.",
            show_default="whisper:base where faster-whisper is installed, loaded with the first recording",
        ),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    batch_size: BatchSize = None,
    runtime: Engine = Runtime.torch,
    dtype: Dtype = Precision.float32,
    device: Device = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Open a web page to try a model on: speak, compare ways to sample, long text in several voices, tables."""
    from .page import run_page
    from .serving import ServiceModel

    run_page(
        ServiceModel(
            model=model,
            student=student,
            voices=voices,
            batch_size=batch_size,
            runtime=runtime.value,
            dtype=dtype.value,
            device=device,
            revision=revision,
            local_files_only=local_files_only,
        ),
        recognizer=recognizer,
        host=host,
        port=port,
    )

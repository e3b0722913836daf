"""Speaking from the command line without PyTorch: a port in `dtm_hf.runtime`."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dtm_hf.files import written_aside

from .console import ArgumentError
from .models import ANY_KIND, EMBEDDED, choose_model, pipeline_kind
from .requests import SpeakRequest, play, reference_of
from .spoken import spoken_texts, write_wav

if TYPE_CHECKING:
    import numpy as np

    from dtm_hf.frontend.voices import Recording
    from dtm_hf.runtime import Speaker

# The port of the embedded pipeline, if this installation holds one.
EMBEDDED_PORT = EMBEDDED.with_name(f"{EMBEDDED.name}-onnx")


def speak_port(request: SpeakRequest) -> None:
    """Write a WAV a text and say what it cost. Bad arguments are refused before loading."""
    started = time.perf_counter()
    for name, value in (("--student", request.student), ("--device", request.device), ("--picture", request.picture)):
        if value:
            raise ArgumentError(f"`{name}` is for `--runtime torch`, and `--runtime {request.runtime}` has none.")
    if request.dtype != "float32":
        raise ArgumentError(
            f"`--dtype` {request.dtype} is for `--runtime torch`; a port has the type that it was exported with."
        )
    model = choose_port(request.model, request.runtime)
    reference = reference_of(request, model)
    with ExitStack() as stack:
        wavs = [stack.enter_context(written_aside(path)) for path in request.outputs]
        speaker = open_port(model, request.runtime, request.revision, request.local_files_only)
        loaded, seconds = time.perf_counter(), 0.0
        for text, wav in zip(request.texts, wavs, strict=True):
            waves = _waves(speaker, text, request, reference)
            seconds += write_wav(wav, waves, speaker.sampling_rate) / speaker.sampling_rate
        took = time.perf_counter() - loaded
    for path in request.outputs:
        typer.echo(path)
    typer.echo(
        f"{seconds:.2f} s of speech in {took:.2f} s (real-time factor {took / seconds:.2f}); "
        f"loading took {loaded - started:.1f} s"
    )
    for path in request.outputs if request.play else ():
        play(path)


def _waves(speaker: "Speaker", text: str, request: SpeakRequest, reference: "Recording") -> "Iterator[np.ndarray]":
    """What [`Speaker`] says when it is called, chunk after chunk."""
    generator = speaker.noise(request.seed)
    rows = speaker.prepare(
        text, str(reference.audio), reference.text, request.speed, request.duration, generator=generator
    )
    # Row by row: a CPU is as busy with one as with many.
    alone = [range(index, index + 1) for index in range(len(rows))]
    texts = spoken_texts(speaker, rows, speaker.noise_sources(rows, generator), alone, **request.sampling)
    return next(texts)


def open_port(model: str, runtime: str, revision: str | None, local_files_only: bool) -> "Speaker":
    """A port of this runtime, loaded."""
    from dtm_hf.runtime import Speaker

    try:
        return Speaker.from_pretrained(model, revision=revision, local_files_only=local_files_only, runtime=runtime)
    except ValueError as error:
        raise ValueError(str(error).replace("`runtime`", "`--runtime`")) from error


def choose_port(model: str | None, runtime: str = "onnx") -> str:
    """A folder or a Hub name of a port; the embedded one for `None`, which is of ONNX."""
    if model is not None:
        chosen = choose_model(model)
        if Path(chosen).is_dir() and (kind := pipeline_kind(chosen)) in ANY_KIND and kind != "DTMPipeline":
            raise ArgumentError(
                f"`--runtime {runtime}` is for a DTMPipeline; a {kind} speaks with its port without it."
            )
        return chosen
    if runtime != "onnx" or not EMBEDDED_PORT.is_dir():
        raise ArgumentError(
            f"`--runtime {runtime}` needs `--model`, the folder or the Hub name of a port; `dtm-hf export` makes one."
        )
    return str(EMBEDDED_PORT)

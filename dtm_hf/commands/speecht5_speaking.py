"""Speaking with a SpeechT5 from the command line: a WAV a text, and what it cost."""

import time
from contextlib import ExitStack
from pathlib import Path

import typer

from dtm_hf.files import written_aside

from .console import ArgumentError, stderr
from .models import load_pipeline
from .requests import SpeakRequest, check_output, play
from .spoken import write_wav


def speak_speecht5(request: SpeakRequest, model: str) -> None:
    """
    Write a WAV a text. The voice is one of the model's, by `--voice`; or `--reference-audio`: a recording, or an
    `.npy` file with the embedding of a speaker. Bad arguments are refused before loading.

    Raises:
        ArgumentError: for options that this kind of model has none of.
    """
    started = time.perf_counter()
    speaker, recording = _choose_speaker(request)
    check_output(request)
    with ExitStack() as stack:
        wavs = [stack.enter_context(written_aside(path)) for path in request.outputs]
        pipeline = load_pipeline(
            model,
            kinds=("SpeechT5Pipeline",),
            dtype=request.dtype,
            device=request.device,
            revision=request.revision,
            local_files_only=request.local_files_only,
        )
        loaded, steps = time.perf_counter(), 0
        with stderr.status("Speaking") as status:
            import torch

            def count(done: int) -> None:
                nonlocal steps
                steps += 1
                status.update(f"Speaking: {done} steps")

            try:
                audios = pipeline(
                    list(request.texts),
                    speaker,
                    recording,
                    # Each text is what it is by itself.
                    generator=[torch.Generator().manual_seed(request.seed) for _ in request.texts],
                    callback_on_step_end=count,
                ).audios
            except ValueError as error:
                raise ValueError(str(error).replace("`speaker`", f"`{_option(request)}`")) from error
        rate, took = pipeline.sampling_rate, time.perf_counter() - loaded
        seconds = sum(write_wav(wav, [audio], rate) for wav, audio in zip(wavs, audios, strict=True)) / rate
    for path in request.outputs:
        typer.echo(path)
    typer.echo(
        f"{seconds:.2f} s of speech in {took:.2f} s (real-time factor {took / seconds:.2f}), {steps} decoder steps; "
        f"loading took {loaded - started:.1f} s"
    )
    for path in request.outputs if request.play else ():
        play(path)


def _option(request: SpeakRequest) -> str:
    return "--reference-audio" if request.reference_audio is not None else "--voice"


def _choose_speaker(request: SpeakRequest) -> tuple[str | None, str | None]:
    """A name or the path of an embedding, and the path of a recording."""
    others = {
        "--student": request.student,
        "--reference-text": request.reference_text,
        "--steps": request.steps,
        "--head-steps": request.head_steps,
        "--guidance": request.guidance,
        "--guidance-end": None if request.guidance_end == 1 else request.guidance_end,
        "--speed": None if request.speed == 1 else request.speed,
        "--duration": request.duration,
        "--temperature": request.temperature,
        "--picture": request.picture or None,
    }
    if given := [name for name, value in others.items() if value is not None]:
        raise ArgumentError(f"`{given[0]}` is for another kind of model: a SpeechT5 speaks until it is done.")
    audio: Path | None = request.reference_audio
    if audio is not None and request.voice is not None:
        raise ArgumentError("`--voice` and `--reference-audio` exclude each other.")
    if audio is None:
        return request.voice, None
    if not audio.is_file():
        raise ArgumentError(f"`--reference-audio` {str(audio)!r} is no existing file.")
    path = str(audio)
    return (path, None) if path.endswith(".npy") else (None, path)

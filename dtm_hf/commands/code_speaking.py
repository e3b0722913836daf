"""Speaking with a pipeline of codes from the command line: a WAV a text, a picture if wanted, and what it cost."""

import time
from contextlib import ExitStack
from pathlib import Path

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dtm_hf.files import written_aside

from .console import ArgumentError, stderr
from .models import choose_reference, load_pipeline
from .requests import SpeakRequest, check_options, check_texts, play, small_config
from .spoken import write_wav


def speak_codes(request: SpeakRequest, model: str) -> None:
    """
    Write a WAV a text, in one of the model's voices, by `--voice`; on from `--reference-audio`, if there is one. Bad
    arguments are refused before loading.

    Raises:
        ArgumentError: for what cannot be spoken, and for options that this kind of model has none of.
    """
    started = time.perf_counter()
    recording = _check(request, model)
    with ExitStack() as stack:
        wavs = [stack.enter_context(written_aside(path)) for path in request.outputs]
        pictures = [path.with_suffix(".png") for path in request.outputs if request.picture]
        if odd := [path for path in pictures if path.exists() and not path.is_file()]:
            raise OSError(f"{str(odd[0])!r} cannot be written: it is no regular file.")
        pipeline = load_pipeline(
            model,
            kinds=("TRMPipeline",),
            dtype=request.dtype,
            device=request.device,
            revision=request.revision,
            local_files_only=request.local_files_only,
        )
        loaded = time.perf_counter()
        audios, rate = _run(pipeline, request, recording)
        took = time.perf_counter() - loaded
        seconds = sum(write_wav(wav, [audio], rate) for wav, audio in zip(wavs, audios, strict=True)) / rate
        for text, wav, path in zip(request.texts, wavs, pictures, strict=False):
            _draw(wav, path, text)
    for path in (*request.outputs, *pictures):
        typer.echo(path)
    typer.echo(
        f"{seconds:.2f} s of speech in {took:.2f} s (real-time factor {took / seconds:.2f}), "
        f"{pipeline.num_timesteps} cycles; loading took {loaded - started:.1f} s"
    )
    for path in request.outputs if request.play else ():
        play(path)


def _check(request: SpeakRequest, model: str) -> str | None:
    """The path of the recording, if there is one."""
    for name, value in (("--student", request.student), ("--head-steps", request.head_steps)):
        if value is not None:
            raise ArgumentError(f"`{name}` is for F5-TTS's backbones, and this model has none.")
    check_options(request)
    recording = None
    if request.reference_audio is not None or request.reference_text is not None:
        recording = str(choose_reference(model, request.reference_audio, request.reference_text, None).audio)
    if Path(model).is_dir():
        from dtm_hf.pipelines.code_rows import find_voice

        speakers = small_config(Path(model) / "model" / "config.json").get("speakers")
        try:
            check_texts(request, Path(model), request.reference_text)
            if isinstance(speakers, list):
                find_voice(speakers, request.voice)
        except ValueError as error:
            raise ArgumentError(str(error)) from error
    return recording


def _run(pipeline, request: SpeakRequest, recording: str | None) -> tuple[list, int]:
    """The waveforms `(T,)`, one a text, and their rate."""
    import torch

    pipeline.set_progress_bar_config(disable=True)
    columns = (TextColumn("Speaking"), BarColumn(), MofNCompleteColumn(), TextColumn("cycles"), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task("", total=request.steps or pipeline.scheduler.config.num_inference_steps)

        def advance(speaking, _step, _timestep, tensors):
            # Chunks of a long text take their cycles one after the other.
            progress.update(task, total=speaking.num_timesteps, advance=1)
            return tensors

        output = pipeline(
            list(request.texts),
            voice=request.voice,
            reference_audio=recording,
            reference_text=request.reference_text,
            num_inference_steps=request.steps,
            guidance_scale=1.0 if request.guidance is None else request.guidance,
            guidance_end=request.guidance_end,
            speed=request.speed,
            duration_s=request.duration,
            # Each text is what it is by itself.
            generator=[torch.Generator().manual_seed(request.seed) for _ in request.texts],
            callback_on_step_end=advance,
            **({} if request.temperature is None else {"temperature": request.temperature}),
        )
    return output.audios, output.sampling_rate


def _draw(wav: Path, path: Path, title: str) -> None:
    import soundfile
    import torch

    from dtm_hf import F5FeatureExtractor
    from dtm_hf.pictures import save_mel_picture

    # A pipeline of codes has no mels of its own.
    extractor = F5FeatureExtractor()
    audio, _ = soundfile.read(wav, dtype="float32")
    mel = extractor.log_mel(torch.from_numpy(audio)[None])[0]
    save_mel_picture(mel, path, titles=title, sampling_rate=extractor.sampling_rate, hop_length=extractor.hop_length)

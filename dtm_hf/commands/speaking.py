"""Speaking from the command line: a WAV, a picture of it if wanted, and what it cost."""

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dtm_hf.files import written_aside

from .console import ArgumentError, say_note, stderr
from .models import choose_model, choose_reference, load_pipeline

if TYPE_CHECKING:
    from dtm_hf import DTMPipeline

# In the closed domain of the embedded pipeline.
DEMO_TEXT = "The train leaves at half past nine."


@dataclass(frozen=True)
class SpeakRequest:
    """What to say and how; the fields are the options of `dtm-hf speak`."""

    text: str
    output: Path
    model: str | None = None
    student: str | None = None
    voice: str | None = None
    reference_audio: Path | None = None
    reference_text: str | None = None
    steps: int | None = None
    head_steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    speed: float = 1.0
    dtype: str = "float32"
    device: str | None = None
    revision: str | None = None
    local_files_only: bool = False
    picture: bool = False


@dataclass
class Cost:
    """Network calls of one run. A backbone pass is one branch of guidance for one step."""

    backbone_passes: int = 0
    head_calls: int = 0


def speak(request: SpeakRequest) -> None:
    """Write `request.output` (24 kHz, mono, 16 bit) and say what it cost. Bad arguments are refused before loading."""
    started = time.perf_counter()
    _check(request)
    model = choose_model(request.model)
    reference = choose_reference(model, request.reference_audio, request.reference_text, request.voice)
    with ExitStack() as stack:
        wav = stack.enter_context(written_aside(request.output))
        picture = stack.enter_context(written_aside(request.output.with_suffix(".png"))) if request.picture else None
        pipeline = load_pipeline(
            model,
            dtype=request.dtype,
            device=request.device,
            revision=request.revision,
            local_files_only=request.local_files_only,
            student=request.student,
        )
        loaded = time.perf_counter()
        audio, cost = _run(pipeline, request, reference)
        spoken = time.perf_counter()
        _write(pipeline, audio, wav, picture, request.text)
        rate = pipeline.vocoder.sampling_rate
    seconds, took = len(audio) / rate, spoken - loaded
    typer.echo(request.output)
    if request.picture:
        typer.echo(request.output.with_suffix(".png"))
    typer.echo(
        f"{seconds:.2f} s of speech in {took:.2f} s (real-time factor {took / seconds:.2f}), "
        f"{cost.backbone_passes} backbone passes, {cost.head_calls} head calls; "
        f"loading took {loaded - started:.1f} s"
    )


def _check(request: SpeakRequest) -> None:
    if not request.text.strip():
        raise ArgumentError("`TEXT` must not be empty.")
    if request.output.suffix.lower() != ".wav":
        raise ArgumentError(f"`--output` must end in .wav, but got {str(request.output)!r}.")
    if not 0 < request.speed < float("inf"):
        raise ArgumentError(f"`--speed` must be a positive number, but got {request.speed}.")
    if request.guidance is not None and not abs(request.guidance) < float("inf"):
        raise ArgumentError(f"`--guidance` must be a finite number, but got {request.guidance}.")


def _run(pipeline: "DTMPipeline", request: SpeakRequest, reference) -> tuple:
    """The waveform `[T]` and its [`Cost`]."""
    import torch

    pipeline.set_progress_bar_config(disable=True)
    columns = (TextColumn("Speaking"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    with _counted(pipeline) as cost, Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task("", total=request.steps or pipeline.scheduler.config.num_inference_steps)

        def advance(speaking, _step, _timestep, tensors):
            # Chunks of a long text may take their steps one after the other.
            progress.update(task, total=speaking.num_timesteps, advance=1)
            return tensors

        output = pipeline(
            request.text,
            str(reference.audio),
            reference.text,
            num_inference_steps=request.steps,
            num_head_steps=request.head_steps,
            guidance_scale=request.guidance,
            speed=request.speed,
            generator=torch.Generator().manual_seed(request.seed),
            callback_on_step_end=advance,
        )
    return output.audios[0], cost


@contextmanager
def _counted(pipeline: "DTMPipeline"):
    """Counts what the networks are really asked for, rather than what the options should amount to."""
    cost = Cost()

    def count_backbone(_module, inputs, output):
        cost.backbone_passes += len(output.velocity) // len(inputs[0])

    def count_head(_module, _inputs, _output):
        cost.head_calls += 1

    handles = [pipeline.backbone.register_forward_hook(count_backbone)]
    if pipeline.head is not None:
        handles.append(pipeline.head.register_forward_hook(count_head))
    try:
        yield cost
    finally:
        for handle in handles:
            handle.remove()


def _write(pipeline: "DTMPipeline", audio, wav: Path, picture: Path | None, title: str) -> None:
    import numpy as np
    import soundfile
    import torch

    if not np.isfinite(audio).all():
        raise ValueError(
            "The model's output holds NaN or infinite samples; its weights may be damaged, or try float32."
        )
    # 16 bits hold [-1, 1]; what is louder would be cut off.
    peak = float(np.abs(audio).max())
    if peak > 1:
        say_note(f"lowered by {20 * np.log10(peak):.1f} dB to fit into 16 bits")
        audio = audio / peak
    soundfile.write(wav, audio, pipeline.vocoder.sampling_rate, format="WAV", subtype="PCM_16")
    if picture is not None:
        from dtm_hf.pictures import save_mel_picture

        extractor = pipeline.feature_extractor
        mel = extractor.log_mel(torch.from_numpy(audio)[None])[0]
        save_mel_picture(
            mel, picture, titles=title, sampling_rate=extractor.sampling_rate, hop_length=extractor.hop_length
        )

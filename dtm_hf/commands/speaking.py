"""Speaking from the command line: a WAV, a picture of it if wanted, and what it cost."""

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dtm_hf.files import written_aside

from .code_speaking import speak_codes
from .console import stderr
from .models import choose_model, load_pipeline, pipeline_kind
from .requests import SpeakRequest, play, reference_of
from .speecht5_speaking import speak_speecht5
from .spoken import spoken_texts, write_wav

if TYPE_CHECKING:
    from dtm_hf import DTMPipeline
    from dtm_hf.frontend.voices import Recording


@dataclass
class Cost:
    """Network calls of one run. A backbone pass is one branch of guidance for one step."""

    backbone_passes: int = 0
    head_calls: int = 0


def speak(request: SpeakRequest) -> None:
    """Write a WAV a text (24 kHz, mono, 16 bit) and say what it cost. Bad arguments are refused before loading."""
    started = time.perf_counter()
    model = choose_model(request.model)
    others = {"SpeechT5Pipeline": speak_speecht5, "TRMPipeline": speak_codes}
    kind = pipeline_kind(model, request.revision, request.local_files_only)
    if kind in others:
        others[kind](request, model)
        return
    reference = reference_of(request, model)
    with ExitStack() as stack:
        wavs = [stack.enter_context(written_aside(path)) for path in request.outputs]
        pictures = [path.with_suffix(".png") for path in request.outputs if request.picture]
        if odd := [path for path in pictures if path.exists() and not path.is_file()]:
            raise OSError(f"{str(odd[0])!r} cannot be written: it is no regular file.")
        pipeline = load_pipeline(
            model,
            dtype=request.dtype,
            device=request.device,
            revision=request.revision,
            local_files_only=request.local_files_only,
            student=request.student,
        )
        loaded = time.perf_counter()
        samples, cost = _run(pipeline, request, reference, wavs)
        spoken = time.perf_counter()
        # Each is written aside by itself.
        for text, wav, path in zip(request.texts, wavs, pictures, strict=False):
            _draw(pipeline, wav, path, text)
    seconds, took = samples / pipeline.vocoder.sampling_rate, spoken - loaded
    for path in (*request.outputs, *pictures):
        typer.echo(path)
    typer.echo(
        f"{seconds:.2f} s of speech in {took:.2f} s (real-time factor {took / seconds:.2f}), "
        f"{cost.backbone_passes} backbone passes, {cost.head_calls} head calls; "
        f"loading took {loaded - started:.1f} s"
    )
    for path in request.outputs if request.play else ():
        play(path)


def _run(pipeline: "DTMPipeline", request: SpeakRequest, reference: "Recording", wavs: list[Path]) -> tuple[int, Cost]:
    """Write the WAVs, one a text; samples of all together, and their [`Cost`]."""
    from dtm_hf.pipelines.batching import default_batch_frames, split_batches
    from dtm_hf.serving.pipeline_speaker import PipelineSpeaker

    speaker = PipelineSpeaker(pipeline)
    columns = (TextColumn("Speaking"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    # Each text is what it is by itself.
    generators = [speaker.noise(request.seed) for _ in request.texts]
    pipeline.choose(request.steps, request.head_steps, request.guidance, request.guidance_end)
    rows = pipeline.prepare(
        list(request.texts), str(reference.audio), reference.text, request.speed, request.duration, generators
    )
    frames = default_batch_frames(pipeline.backbone, pipeline._execution_device)
    batches = split_batches(rows, frames)
    with _counted(pipeline) as cost, Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task("", total=request.steps or pipeline.scheduler.config.num_inference_steps)

        def advance(speaking, _step, _timestep, tensors):
            # Chunks of a long text may take their steps one after the other.
            progress.update(task, total=speaking.num_timesteps * len(batches), advance=1)
            return tensors

        texts = spoken_texts(
            speaker,
            rows,
            speaker.noise_sources(rows, generators),
            batches,
            **request.sampling,
            callback_on_step_end=advance,
            max_batch_frames=frames,
        )
        samples = sum(write_wav(wav, waves, speaker.sampling_rate) for wav, waves in zip(wavs, texts, strict=True))
    return samples, cost


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


def _draw(pipeline: "DTMPipeline", wav: Path, path: Path, title: str) -> None:
    import soundfile
    import torch

    from dtm_hf.pictures import save_mel_picture

    extractor = pipeline.feature_extractor
    audio, _ = soundfile.read(wav, dtype="float32")
    mel = extractor.log_mel(torch.from_numpy(audio)[None])[0]
    save_mel_picture(mel, path, titles=title, sampling_rate=extractor.sampling_rate, hop_length=extractor.hop_length)

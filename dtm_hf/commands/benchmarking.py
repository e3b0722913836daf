"""`dtm-hf benchmark`: arms side by side on one set of sentences."""

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dtm_hf.evaluation.arms import Arm, parse_arms
from dtm_hf.evaluation.foreign_arms import ForeignArm, parse_any_arm

from .console import ArgumentError, say_note, stderr
from .models import choose_model, choose_reference, load_pipeline, model_voices, pipeline_kind

if TYPE_CHECKING:
    from dtm_hf import DTMPipeline
    from dtm_hf.evaluation.benchmark import Benchmark
    from dtm_hf.evaluation.metric import Metric
    from dtm_hf.evaluation.sets import BenchmarkSet
    from dtm_hf.evaluation.systems import ForeignSystem

# Mels and listening samples of this many sentences.
_NUM_PICTURES = 2


@dataclass(frozen=True)
class BenchmarkRequest:
    """Options of the command, as documented there."""

    model: str | None
    student: str | None
    beside: list[str]
    items: str
    split: str
    voice: str | None
    reference_audio: Path | None
    reference_text: str | None
    recognizer: str | None
    limit: int
    arms: str
    seeds: str
    metrics: str
    reference: str | None
    durations: str
    batch_size: int
    repeats: int
    dtype: str
    device: str | None
    revision: str | None
    local_files_only: bool
    speaker_checkpoint: Path | None
    output: Path


def benchmark(request: BenchmarkRequest) -> None:
    """Run what is not known yet in the folder, then write the results over those that are there."""
    arms, seeds, metric_names, reference = _check(request)
    model = _own_model(request)
    beside = _beside(request, arms)
    from dtm_hf.evaluation.sets import load_set

    # Before the model is loaded: what is wrong with a list is said within seconds.
    prompts = _prompts(request, model)
    try:
        items = load_set(request.items, request.limit, request.split, prompts)
    except (ValueError, OSError) as error:
        raise ArgumentError(str(error)) from error
    items.recognizer = request.recognizer or items.recognizer
    if request.durations == "recording":
        _take_durations(items)
    pipe = _load(request, model)
    if request.durations == "bytes":
        pipe.duration_predictor = None
    student = _student(request, pipe)
    others = [_other(request, name, kind, pipe) for name, kind in beside.items()]

    from dtm_hf.evaluation.benchmark import Benchmark
    from dtm_hf.evaluation.metrics import make_metrics
    from dtm_hf.evaluation.records import Records
    from dtm_hf.evaluation.report import draw_fronts, table, write_table
    from dtm_hf.evaluation.summary import Summary
    from dtm_hf.evaluation.systems import DTMSystem, system_of
    from dtm_hf.files import write_json

    for arm in arms:
        # Before hours are spent on others.
        system_of(arm, DTMSystem(pipe, student), others).check(arm)
    metrics = make_metrics(metric_names, items, pipe.feature_extractor, request.speaker_checkpoint)
    own = [arm for arm in arms if isinstance(arm, Arm)]
    settings = _settings(request, pipe, student, own, items, metrics) | {
        system.kind: system.fingerprint for system in others
    }
    records = Records(request.output, settings)
    run = Benchmark(pipe, items, arms, seeds, metrics, records, request.batch_size, student, others)
    with _progress("Judging") as advance:
        advance.total(run.total)
        run.run(advance)
    timings = _timings(request, run)
    head_config = None if pipe.head is None else pipe.head.config
    baked = head_config is not None and head_config.guidance_scale is not None
    results = {
        "settings": settings
        | {
            "model": request.model or Path(model).name,
            "seeds": seeds,
            "reference": reference,
            "items": len(items.items),
        },
        **Summary(items, arms, seeds, metrics, records, timings, baked, reference, head_config).results(),
    }
    write_json(request.output / "results.json", results)
    write_table(results, metrics, request.output / "results.md")
    draw_fronts(results, metrics, request.output / "fronts.png")
    _illustrate(request.output, run)
    typer.echo(table(results, metrics))
    typer.echo(request.output / "results.md")


def _own_model(request: BenchmarkRequest) -> str:
    from dtm_hf.evaluation.foreign import KINDS

    model = choose_model(request.model)
    kind = pipeline_kind(model, request.revision, request.local_files_only)
    if kind in KINDS:
        raise ArgumentError(
            f"`--model` must be a DTMPipeline, but {request.model!r} is a {kind}: name it by `--beside`, for the arm "
            f"{KINDS[kind]}."
        )
    return model


def _beside(request: BenchmarkRequest, arms: list[Arm | ForeignArm]) -> dict[str, str]:
    """The class of each pipeline that is judged beside that of DTM; one that no arm asks for is not loaded."""
    from dtm_hf.evaluation.foreign import KINDS

    found: dict[str, str] = {}
    for typed in request.beside:
        name = choose_model(typed, "--beside")
        kind = pipeline_kind(name, request.revision, request.local_files_only)
        if kind not in KINDS:
            raise ArgumentError(f"`--beside` {typed!r} must be a {' or a '.join(KINDS)}, but is a {kind}.")
        if kind in found.values():
            raise ArgumentError(f"`--beside` may name one {kind}, but got {', '.join(request.beside)}.")
        found[name] = kind
    missing = [arm for arm in arms if isinstance(arm, ForeignArm) and arm.kind not in map(KINDS.get, found.values())]
    if missing:
        needed = next(name for name, kind in KINDS.items() if kind == missing[0].kind)
        raise ArgumentError(f"`--arms` holds {missing[0].name!r}: name the {needed} that speaks it, `--beside`.")
    return {name: kind for name, kind in found.items() if KINDS[kind] in [arm.kind for arm in arms]}


def _load(request: BenchmarkRequest, model: str, kind: str = "DTMPipeline", option: str = "--model"):
    pipe = load_pipeline(
        model,
        kinds=(kind,),
        option=option,
        dtype=request.dtype,
        device=request.device,
        revision=request.revision,
        local_files_only=request.local_files_only,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _other(request: BenchmarkRequest, name: str, kind: str, pipe: "DTMPipeline") -> "ForeignSystem":
    from dtm_hf.evaluation.foreign import foreign_system

    other = _load(request, name, kind, "--beside")
    try:
        return foreign_system(other, pipe.feature_extractor)
    except ValueError as error:
        raise ArgumentError(f"`--beside` {name!r}: {error}") from error


def _prompts(request: BenchmarkRequest, model: str) -> list[tuple[Path, str]]:
    """Recordings to speak like, for a set of texts alone: those asked for, else all that the model packages."""
    from dtm_hf.evaluation.sets import speaks_texts

    asked = (request.voice, request.reference_audio, request.reference_text)
    if not speaks_texts(request.items):
        if any(value is not None for value in asked):
            raise ArgumentError(
                "`--voice`, `--reference-audio` and `--reference-text` are for lists of texts alone, typed or .txt, "
                f"but `--set` {request.items!r} has prompts of its own."
            )
        return []
    where = request.revision, request.local_files_only
    chosen = choose_reference(model, request.reference_audio, request.reference_text, request.voice, *where)
    voices = list(model_voices(model, *where).values()) if asked == (None, None, None) else [chosen]
    return [(voice.audio, voice.text) for voice in voices]


def _take_durations(items: "BenchmarkSet") -> None:
    """Give each sentence the length of its recording."""
    silent = [item.id for item in items.items if item.recording is None]
    if silent:
        raise ArgumentError(f"`--durations recording` needs a recording of each sentence, but {silent[0]!r} has none.")
    for item in items.items:
        item.duration_s = len(item.recording) / items.sampling_rate


def _check(request: BenchmarkRequest) -> tuple[list[Arm | ForeignArm], list[int], list[str], str]:
    try:
        arms = parse_arms(request.arms, parse_any_arm)
    except ValueError as error:
        raise ArgumentError(str(error)) from error
    try:
        seeds = [int(seed) for seed in request.seeds.split(",")]
    except ValueError:
        raise ArgumentError(
            f"`--seeds` must be whole numbers with commas between, but got {request.seeds!r}."
        ) from None
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ArgumentError(f"`--seeds` must be different and not negative, but got {request.seeds!r}.")
    names = [name.strip() for name in request.metrics.split(",")]
    from dtm_hf.evaluation.metrics import METRICS
    from dtm_hf.evaluation.recognizers import RECOGNIZERS

    if request.recognizer is not None and request.recognizer.partition(":")[0] not in RECOGNIZERS:
        raise ArgumentError(
            f"`--recognizer` must be {', '.join(RECOGNIZERS)}, or one of them with :MODEL, but got "
            f"{request.recognizer!r}."
        )
    for name in names:
        if name not in METRICS:
            raise ArgumentError(f"`--metrics` must be of {', '.join(METRICS)}, but got {name!r}.")
    reference = request.reference or ("euler-32" if "euler-32" in [arm.name for arm in arms] else arms[0].name)
    if reference not in [arm.name for arm in arms]:
        raise ArgumentError(f"`--reference` must be one of the arms {request.arms!r}, but got {reference!r}.")
    if request.output.exists() and not request.output.is_dir():
        raise ArgumentError(f"`--output` {str(request.output)!r} is no folder.")
    return arms, seeds, names, reference


def _student(request: BenchmarkRequest, pipe: "DTMPipeline") -> "DTMPipeline | None":
    """The pipeline with the student of the request in the place of its backbone; the other parts are shared."""
    if request.student is None:
        return None
    from dtm_hf import DTMPipeline

    student = DTMPipeline(**pipe.components | {"head": None})
    student.load_student(request.student, local_files_only=request.local_files_only)
    student.set_progress_bar_config(disable=True)
    return student


def _settings(
    request: BenchmarkRequest,
    pipe: "DTMPipeline",
    student: "DTMPipeline | None",
    arms: list[Arm],
    items: "BenchmarkSet",
    metrics: list["Metric"],
) -> dict:
    """What a figure depends on, besides the arm and the seed; what no arm has used yet is `None`."""
    import torch

    from dtm_hf.backbone.fingerprint import fingerprint_of
    from dtm_hf.evaluation.metrics.words import WordErrorRate
    from dtm_hf.evaluation.systems import runtime_of

    device = pipe._execution_device
    means = pipe.config.mean_mel if any(arm.kind == "analytic" for arm in arms) else None
    head = pipe.head if any(arm.needs_head for arm in arms) else None
    # What its weights do not say of a head: where it runs, and what stands in its place at t = 0.
    told = ("guidance_scale", "guidance_end", "mean_mel")
    return {
        "backbone": pipe.backbone.fingerprint,
        "runtime": runtime_of(pipe.backbone),
        "head": None if head is None else fingerprint_of(head),
        "head_guidance": None if head is None else _digest([getattr(head.config, name, None) for name in told]),
        "mean_mel": None if means is None else _digest(means),
        "student": student.backbone.fingerprint if any(arm.needs_student for arm in arms) else None,
        # What these arms take from the pipeline's scheduler.
        "head_solver": pipe.scheduler.config.head_solver if any(arm.num_head_steps for arm in arms) else None,
        "head_time_grid": pipe.scheduler.config.time_grid if any(arm.num_head_steps for arm in arms) else None,
        "vocoder": type(pipe.vocoder).__name__,
        "set": items.name,
        "recognizer": next((metric.ears.name for metric in metrics if isinstance(metric, WordErrorRate)), None),
        "durations": _durations(request, pipe),
        "dtype": request.dtype,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _durations(request: BenchmarkRequest, pipe: "DTMPipeline") -> str:
    """Where the lengths are from, and by which predictor; without one it is bytes that they are predicted from."""
    if request.durations != "predicted":
        return request.durations
    if pipe.duration_predictor is None:
        return "bytes"
    # A user's own may have no configuration.
    config = getattr(pipe.duration_predictor, "config", {})
    figures = {name: value for name, value in config.items() if not name.startswith("_")}
    return f"predicted by {type(pipe.duration_predictor).__name__} {_digest(figures)}"


def _digest(figures) -> str:
    return hashlib.sha256(json.dumps(figures, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _timings(request: BenchmarkRequest, run: "Benchmark") -> dict:
    """Seconds of each arm: those of the folder if all its arms were timed together, else new ones."""
    from dtm_hf.evaluation.timing import time_arms
    from dtm_hf.files import write_json

    path, items = request.output / "timings.json", run.items
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if request.repeats == 0 or all(arm.name in known for arm in run.arms):
        return known
    sizes = (1, 8)
    with _progress("Timing") as advance:
        advance.total(len(run.arms) * len(sizes) * (request.repeats + 1))
        batches = items.items, items.sampling_rate, sizes, request.repeats
        timings = time_arms(run.pipe, run.arms, *batches, advance, run.student, run.others)
    write_json(path, timings)
    return timings


def _illustrate(folder: Path, run: "Benchmark") -> None:
    """Mels and WAVs of the first sentences, and the error of each step where a recording tells it."""
    import soundfile

    from dtm_hf.evaluation.records import file_name
    from dtm_hf.evaluation.report import draw_mels, draw_steps
    from dtm_hf.evaluation.steps import step_errors
    from dtm_hf.files import written_aside

    items = run.items
    for index, item in enumerate(items.items[:_NUM_PICTURES]):
        speeches = dict(run.speeches(index, item))
        draw_mels(
            {f"{name}: {item.text}": speech.mel for name, speech in speeches.items()}, folder / f"mels-{index}.png"
        )
        for name, speech in speeches.items():
            with written_aside(folder / "samples" / f"{index}-{file_name(name)}.wav") as aside:
                soundfile.write(aside, speech.waveform, speech.sampling_rate, format="WAV", subtype="PCM_16")
    distance = next((metric for metric in run.metrics if metric.name == "mel"), None)
    recorded = [item for item in items.items if item.recording is not None][:8]
    if distance is not None and recorded:
        with stderr.status("Following each step"):
            errors = step_errors(run.pipe, run.arms, recorded, items.sampling_rate, distance, run.student)
        if errors:
            draw_steps(errors, f"{distance.title} of where the step points", folder / "steps.png")
    elif distance is None:
        say_note("no picture of the steps: it needs the metric mel")


@contextmanager
def _progress(title: str):
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        yield _Advance(progress, progress.add_task("", total=None))


class _Advance:
    """Moves a progress bar when it is called."""

    def __init__(self, progress: Progress, task):
        self._progress, self._task = progress, task

    def total(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def __call__(self, count: int) -> None:
        self._progress.advance(self._task, count)

"""The whole of it: a plan, shards shared out among the ranks, and a summary."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtm_hf.commands.console import ArgumentError
from dtm_hf.commands.models import choose_model, load_ears, load_pipeline, model_voices
from dtm_hf.hub import hub_name
from dtm_hf.reading import show
from dtm_hf.synthesize.journal import Journal
from dtm_hf.synthesize.plan import (
    MAX_SHARDS,
    bad_rows,
    check_plan,
    has_plan,
    make_plan,
    plan_settings,
    planned_rows,
)
from dtm_hf.synthesize.shards import SUMMARY, shard_path, to_flac, write_outcome, write_shard, write_summary
from dtm_hf.synthesize.sources import SourceVoice, read_voices, stream_rows
from dtm_hf.synthesize.speaking import SpokenRow, speak_rows

if TYPE_CHECKING:
    from dtm_hf.evaluation.recognizers import Recognizer
    from dtm_hf.serving.pipeline_speaker import PipelineSpeaker

_WORK = ".work"
_TOLD_SECONDS = 10.0


@dataclass(frozen=True)
class Request:
    """What to speak; the fields are the options of `python -m dtm_hf.synthesize`."""

    texts: str
    output: Path
    voices: str | None = None
    split: str = "train"
    text_column: str = "text"
    voice_column: str = "voice"
    model: str | None = None
    student: str | None = None
    steps: int | None = None
    head_steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    num_shards: int = 16
    max_batch_frames: int | None = None
    recognizer: str | None = None
    max_word_error: float = 0.3
    dtype: str = "float32"
    device: str | None = None
    threads: int = 1
    revision: str | None = None
    local_files_only: bool = False
    push_to_hub: str | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        """As arguments of a pipeline."""
        return {
            "num_inference_steps": self.steps,
            "num_head_steps": self.head_steps,
            "guidance_scale": self.guidance,
        }


def synthesize(request: Request, say=print) -> dict[str, Any] | None:
    """
    Speak what is missing of the output, in as many processes as were launched.

    Args:
        request ([`Request`]): what to speak.
        say (`Callable`): is told how it goes.

    Returns:
        `dict`: what `summary.json` holds, in the first process; `None` in the others.

    Raises:
        ArgumentError, ValueError, OSError, ImportError: for what cannot be spoken, read or written.
    """
    _check(request)
    model = choose_model(request.model)
    voices = _voices(request, model)
    ears = load_ears(request.recognizer)
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=request.device == "cpu")
    torch.set_num_threads(request.threads)
    device = request.device or str(state.device)
    if request.push_to_hub is not None and state.is_main_process:
        _open_repository(request.push_to_hub)
    pipeline = load_pipeline(
        model,
        dtype=request.dtype,
        device=device,
        revision=request.revision,
        local_files_only=request.local_files_only,
        student=request.student,
    )
    from dtm_hf.pipelines.batching import default_batch_frames
    from dtm_hf.serving.pipeline_speaker import PipelineSpeaker

    speaker = PipelineSpeaker(pipeline)
    # Refused here and not row by row.
    speaker.passes(**request.sampling)
    frames = request.max_batch_frames or default_batch_frames(pipeline.backbone, pipeline.device)
    plan = request.output / _WORK / "plan"
    # By looking, and not by a barrier, which gives up after minutes: a plan, or a slow rank's shards, may take hours.
    if not state.is_main_process:
        _wait_until(lambda: has_plan(plan))
    if has_plan(plan) and request.max_batch_frames is None:
        # It depends on the memory of who began.
        frames = plan_settings(plan)["max_batch_frames"]
    settings = _settings(request, pipeline, voices, frames, ears)
    if has_plan(plan):
        check_plan(plan, settings)
    else:
        _check_voices(speaker, voices)
        rows = stream_rows(request.texts, request.split)
        make_plan(plan, settings, rows, sorted(voices), request.text_column, request.voice_column)
    outcomes = [_outcome(request.output, shard) for shard in range(request.num_shards)]
    meter = _Meter(say, state.process_index)
    for shard in range(state.process_index, request.num_shards, state.num_processes):
        if outcomes[shard].is_file():
            _journal(request.output, shard).unlink(missing_ok=True)
        else:
            _speak_shard(request, shard, plan, speaker, voices, frames, ears, settings, meter)
    meter.end()
    if not state.is_main_process:
        return None
    _wait_until(lambda: all(outcome.is_file() for outcome in outcomes))
    summary = write_summary(request.output, outcomes, bad_rows(plan), settings)
    if request.push_to_hub is not None:
        _push(request)
    return summary


def _open_repository(name: str) -> None:
    """
    Made if it is not there, and asked for leave to write.

    Raises:
        ArgumentError: if what will be spoken cannot be pushed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = HfApi()
    try:
        hub.create_repo(name, repo_type="dataset", exist_ok=True)
        # Asks for leave and uploads nothing: small files go with a commit alone.
        hub.preupload_lfs_files(name, [CommitOperationAdd(SUMMARY, b"{}")], repo_type="dataset")
    except OSError as error:
        raise ArgumentError(f"`--push-to-hub` {name!r} cannot be written: {error}") from error


def _push(request: Request) -> None:
    from huggingface_hub import HfApi

    HfApi().upload_folder(
        repo_id=request.push_to_hub,
        folder_path=request.output,
        repo_type="dataset",
        ignore_patterns=[f"{_WORK}/**"],
        # Those of a run with another `--num-shards` would be read with these.
        delete_patterns=shard_path(Path(), 0, 0).with_name("*.parquet").as_posix(),
        commit_message="Speech by dtm_hf.synthesize",
    )


def _wait_until(condition: Callable[[], bool]) -> None:
    """For other processes; their launcher ends this one when one of them fails."""
    while not condition():
        time.sleep(0.2)


def _speak_shard(request, shard, plan, speaker, voices, frames, ears, settings, meter) -> None:
    rows, rate = planned_rows(plan, shard), speaker.sampling_rate
    file, path = _journal(request.output, shard), shard_path(request.output, shard, request.num_shards)
    with Journal(file) as journal:
        meter.expect(len(rows) - len(journal.positions))
        for spoken in speak_rows(speaker, rows, voices, request.sampling, frames, journal):
            header, audio = _record(spoken, rate, ears, request.max_word_error)
            journal.add(header, audio)
            meter.add(header.get("seconds", 0.0))
        write_shard(path, rows, journal, rate, settings)
        write_outcome(_outcome(request.output, shard), journal, rate)
        # What it holds lies in the shard now.
        file.unlink()


def _record(
    spoken: SpokenRow, rate: int, ears: "Recognizer | None", max_word_error: float
) -> tuple[dict[str, Any], bytes]:
    row, error = spoken.row, spoken.error
    if error is None and ears is not None:
        error = _misheard(spoken, rate, ears, max_word_error)
    if error is not None:
        return {"id": row.id, "error": error}, b""
    return {"id": row.id, "seconds": len(spoken.audio) / rate}, to_flac(spoken.audio, rate)


def _misheard(spoken: SpokenRow, rate: int, ears: "Recognizer", most: float) -> str | None:
    from dtm_hf.evaluation.metrics.words import word_error

    errors, heard = word_error(ears, spoken.row.text, spoken.audio, rate)
    return None if errors is None or errors <= most else f"word error {errors:.2f}: {heard!r} was heard."


class _Meter:
    """Says now and then, and at the end, how far a process is, and how fast."""

    def __init__(self, say, rank: int):
        self._say, self._rank = say, rank
        self._started = self._told = time.monotonic()
        self._rows = self._wanted = 0
        self._seconds = 0.0

    def expect(self, rows: int) -> None:
        self._wanted += rows

    def add(self, seconds: float) -> None:
        self._rows, self._seconds = self._rows + 1, self._seconds + seconds
        if time.monotonic() - self._told >= _TOLD_SECONDS:
            self._tell()

    def end(self) -> None:
        # What a run that goes on found done is no speed.
        if self._rows:
            self._tell()

    def _tell(self) -> None:
        self._told, hours = time.monotonic(), self._seconds / 3600
        self._say(
            f"process {self._rank}: {self._rows} of {self._wanted} rows of its shards so far, {hours:.3f} h, "
            f"{hours / (self._told - self._started):.2e} hours of speech a second"
        )


def _check(request: Request) -> None:
    if not 1 <= request.num_shards <= MAX_SHARDS:
        raise ArgumentError(f"`--num-shards` must be from 1 to {MAX_SHARDS}, but got {request.num_shards}.")
    if request.push_to_hub is not None and hub_name(request.push_to_hub) is None:
        raise ArgumentError(f"`--push-to-hub` must be org/name, but got {show(request.push_to_hub)}.")
    if request.output.exists() and not request.output.is_dir():
        raise ArgumentError(f"`--output` {str(request.output)!r} must be a folder.")
    if request.output.is_dir() and any(request.output.iterdir()) and not (request.output / _WORK).is_dir():
        raise ArgumentError(f"`--output` {str(request.output)!r} exists and was not written by this; name another.")


def _voices(request: Request, model: str) -> dict[str, SourceVoice]:
    if request.voices is not None:
        try:
            return read_voices(request.voices, request.split, request.voice_column)
        except (ValueError, OSError) as error:
            message = str(error).replace("`voices`", "`--voices`")
            raise ArgumentError(message if "--voices" in message else f"`--voices`: {message}") from error
    packaged = model_voices(model, request.revision, request.local_files_only)
    voices = {name: SourceVoice(str(voice.audio), voice.text) for name, voice in packaged.items()}
    if not voices:
        raise ArgumentError(f"`--voices` is needed: {model!r} packages no recording.")
    return voices


def _check_voices(speaker: "PipelineSpeaker", voices: dict[str, SourceVoice]) -> None:
    """
    Raises:
        ArgumentError: for a recording that cannot be spoken like with its text: its rows would be left out one by one.
    """
    from dtm_hf.serving.voices import encode_voice

    for name, voice in voices.items():
        try:
            encode_voice(speaker, voice.audio, voice.text)
        except (ValueError, TypeError, OSError) as error:
            raise ArgumentError(f"`--voices`: {show(name)} cannot be used: {error}") from error


def _settings(request, pipeline, voices, frames: int, ears) -> dict[str, Any]:
    """What decides the speech, to the bit: a run goes on with the same, whoever speaks."""
    from dtm_hf.backbone.fingerprint import component_fingerprint

    digest = sha256("".join(f"{name}:{voice.digest}\n" for name, voice in sorted(voices.items())).encode())
    parts = {
        name: None if component is None else component_fingerprint(component)
        for name, component in pipeline.components.items()
    }
    scheduler = pipeline.scheduler.config
    means = pipeline.config.mean_mel
    return parts | {
        "texts": request.texts,
        "split": request.split,
        "text_column": request.text_column,
        "voice_column": request.voice_column,
        "voices": digest.hexdigest(),
        "model": request.model or "dtm-f5-voice",
        "mean_mel": None if means is None else sha256(json.dumps(means).encode()).hexdigest()[:16],
        "student": request.student,
        "num_inference_steps": request.steps or scheduler.num_inference_steps,
        "num_head_steps": scheduler.num_head_steps if request.head_steps is None else request.head_steps,
        "guidance_scale": request.guidance,
        "seed": request.seed,
        "num_shards": request.num_shards,
        "max_batch_frames": frames,
        "dtype": request.dtype,
        "device": pipeline.device.type,
        "threads": request.threads,
        "recognizer": None if ears is None else ears.name,
        "max_word_error": None if ears is None else request.max_word_error,
    }


def _outcome(output: Path, shard: int) -> Path:
    return output / _WORK / f"shard-{shard:05d}.json"


def _journal(output: Path, shard: int) -> Path:
    return output / _WORK / f"shard-{shard:05d}.journal"

"""What `dtm-hf speak` is asked for: the same with every runtime."""

import json
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dtm_hf.frontend.voices import Recording

from .console import ArgumentError, say_note
from .models import choose_reference

# Of no list that the embedded pipeline was trained on.
DEMO_TEXT = "This voice was made in a few minutes, and it can say whatever you like."

# A book of a million words has six.
_MAX_TEXT_BYTES = 16 * 2**20
# Programs that play a WAV and end, with what they are told to be silent about it.
_PLAYERS = (
    ("pw-play",),
    ("paplay",),
    ("aplay", "-q"),
    ("afplay",),
    ("play", "-q"),
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error"),
)


@dataclass(frozen=True)
class SpeakRequest:
    """What to say and how; the fields are the options of `dtm-hf speak`."""

    texts: tuple[str, ...]
    output: Path
    model: str | None = None
    student: str | None = None
    voice: str | None = None
    reference_audio: Path | None = None
    reference_text: str | None = None
    steps: int | None = None
    head_steps: int | None = None
    guidance: float | None = None
    guidance_end: float = 1.0
    seed: int = 0
    speed: float = 1.0
    duration: float | None = None
    temperature: float | None = None
    dtype: str = "float32"
    device: str | None = None
    revision: str | None = None
    local_files_only: bool = False
    picture: bool = False
    play: bool = False
    runtime: str = "torch"

    @property
    def sampling(self) -> dict[str, Any]:
        """How a [`~dtm_hf.DTMPipeline`] and a port of it are to sample."""
        return {
            "num_inference_steps": self.steps,
            "num_head_steps": self.head_steps,
            "guidance_scale": self.guidance,
            "guidance_end": self.guidance_end,
        }

    @property
    def outputs(self) -> list[Path]:
        """One a text: the file itself, or with several texts `NAME-1.wav`, `NAME-2.wav`, as wide as the last."""
        path, count = self.output, len(self.texts)
        if count == 1:
            return [path]
        width = len(str(count))
        return [path.with_name(f"{path.stem}-{i:0{width}}{path.suffix}") for i in range(1, count + 1)]


def read_texts(texts: list[str] | None, file: Path | None, split_lines: bool) -> tuple[str, ...]:
    """
    What to say: the arguments, of which `-` is standard input, or a file in UTF-8; a text a line if wanted.

    Raises:
        ArgumentError: if there is nothing, or both, or the file cannot be read.
    """
    if bool(texts) == (file is not None):
        raise ArgumentError("Exactly one of `TEXT` and `--text-file` must be given; `-` as `TEXT` is standard input.")
    given = [_read(file)] if file is not None else [_read(None) if text == "-" else text for text in texts]
    if split_lines:
        given = [line.strip() for text in given for line in text.splitlines() if line.strip()]
    if not given or not all(text.strip() for text in given):
        raise ArgumentError(f"`{'TEXT' if file is None else '--text-file'}` must not be empty.")
    return tuple(given)


def _read(file: Path | None) -> str:
    """A file, or standard input for `None`."""
    name = "`TEXT` - (standard input)" if file is None else f"`--text-file` {str(file)!r}"
    if file is not None and not file.is_file():
        raise ArgumentError(f"{name} is no existing file.")
    if file is None:
        content = sys.stdin.buffer.read(_MAX_TEXT_BYTES + 1)
    else:
        with open(file, "rb") as opened:
            content = opened.read(_MAX_TEXT_BYTES + 1)
    if len(content) > _MAX_TEXT_BYTES:
        raise ArgumentError(f"{name} must be at most {_MAX_TEXT_BYTES >> 20} MiB of text.")
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{name} must be text in UTF-8, but byte {error.start} of it is none.") from error


def check_output(request: SpeakRequest) -> None:
    """
    Raises:
        ArgumentError: if the speech cannot go where it is wanted.
    """
    if request.output.suffix.lower() != ".wav":
        raise ArgumentError(f"`--output` must end in .wav, but got {str(request.output)!r}.")
    if request.play and _player() is None:
        raise ArgumentError(f"`--play` needs a program that plays: {', '.join(name for name, *_ in _PLAYERS)}.")


def reference_of(request: SpeakRequest, model: str) -> Recording:
    """The recording to speak like, once the request has passed [`check_request`] with it. Raises as that does."""
    reference = choose_reference(
        model,
        request.reference_audio,
        request.reference_text,
        request.voice,
        request.revision,
        request.local_files_only,
    )
    check_request(request, model, reference)
    return reference


def check_request(request: SpeakRequest, model: str, reference: Recording) -> None:
    """
    Refuse what cannot be spoken, before anything is loaded: what no model could speak, and what this one cannot, as
    far as the small files of its folder tell.

    Raises:
        ArgumentError: naming the option.
    """
    check_options(request)
    if request.temperature is not None:
        raise ArgumentError("`--temperature` is for a model that draws codes, and this one draws none.")
    try:
        if Path(model).is_dir():
            check_texts(request, Path(model), reference.text)
            _check_sampling(request, Path(model))
    except ValueError as error:
        raise ArgumentError(str(error)) from error


def check_options(request: SpeakRequest) -> None:
    """
    The part of [`check_request`] that is the same for all models.

    Raises:
        ArgumentError: naming the option.
    """
    from dtm_hf.pipelines.arguments import GUIDANCE_SCALES, SPEEDS, check_durations, check_number

    check_output(request)
    try:
        check_number("speed", request.speed, SPEEDS)
        check_number("guidance_end", request.guidance_end, (0.0, 1.0))
        if request.guidance is not None:
            check_number("guidance_scale", request.guidance, GUIDANCE_SCALES)
        if request.duration is not None:
            check_durations([request.duration] * len(request.texts), request.texts)
    except ValueError as error:
        raise ArgumentError(str(error)) from error


def check_texts(request: SpeakRequest, model: Path, reference_text: str | None) -> None:
    """
    Refuse what the vocabulary of a folder cannot say.

    Raises:
        ValueError: naming the argument.
    """
    vocabulary = model / "tokenizer" / "vocab.txt"
    if not vocabulary.is_file():
        return
    normalized = (small_config(model / "model_index.json").get("text_normalizer") or [None])[0] is not None
    from dtm_hf.frontend.vocabulary import Vocabulary
    from dtm_hf.pipelines.rows import check_text

    known = Vocabulary(vocabulary)
    given = [("text", text) for text in request.texts]
    given += [] if reference_text is None else [("reference_text", reference_text)]
    for name, text in given:
        # Numbers and symbols that a normalizer writes out in words need not be in the vocabulary.
        if not (normalized and any(unicodedata.category(character)[0] in "NS" for character in text)):
            check_text(name, text, known)


def _check_sampling(request: SpeakRequest, model: Path) -> None:
    """What scheduler, head and student are told; a file that is not as it should be is the loader's to refuse."""
    from dtm_hf.pipelines.guidance import choose_guidance
    from dtm_hf.scheduling.solvers import check_num_steps, effective_solver

    sampler = {"num_inference_steps": 8, "num_head_steps": 2, "head_solver": "midpoint"}
    sampler |= small_config(model / "scheduler" / "scheduler_config.json")
    has_head = (small_config(model / "model_index.json").get("head") or [None])[0] is not None
    head = {"guidance_scale": None, "guidance_scale_range": None} | small_config(model / "head" / "config.json")
    served = small_config(model / "backbone" / "config.json").get("step_counts")
    if request.student is not None:
        student = small_config(Path(request.student) / "config.json")
        sampler |= student.get("sampler") or {}
        served, has_head = student.get("step_counts"), False
    steps = sampler["num_inference_steps"] if request.steps is None else request.steps
    calls = sampler["num_head_steps"] if request.head_steps is None else request.head_steps
    calls = calls if has_head else 0
    try:
        check_num_steps(steps, calls)
        effective_solver(sampler["head_solver"], calls)
        if served is not None and steps not in served:
            raise ArgumentError(f"`--steps` must be one of {served} for this student, but got {steps}.")
        head = SimpleNamespace(**head) if calls else None
        is_student = served is not None or request.student is not None
        choose_guidance(request.guidance, request.guidance_end, head, is_student)
    except (TypeError, AttributeError):
        return


def small_config(path: Path) -> dict[str, Any]:
    """A configuration of a folder; empty if it is not as it should be, which is the loader's to say."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _player() -> list[str] | None:
    """The first of the programs that is there, with its arguments."""
    return next(([shutil.which(name), *options] for name, *options in _PLAYERS if shutil.which(name)), None)


def play(path: Path) -> None:
    """Play a WAV to its end; a player that fails is noted, for the file is there."""
    run = subprocess.run([*_player(), str(path)], capture_output=True, text=True)
    if run.returncode:
        said = " ".join(run.stderr.split())[:200]
        say_note(f"{str(path)!r} could not be played ({said or f'exit code {run.returncode}'})")

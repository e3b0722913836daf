"""Which pipeline a command uses, which recording of a voice and which recogniser, and how they are loaded."""

import difflib
import re
import warnings
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from dtm_hf.frontend.voices import PACKAGED, Recording, packaged_voices

from .console import ArgumentError, quiet_libraries, stderr

if TYPE_CHECKING:
    from dtm_hf import DTMPipeline
    from dtm_hf.evaluation.recognizers import Recognizer

# Classes of pipelines by the kind that a command names.
ANY_KIND = ("DTMPipeline", "SpeechT5Pipeline", "TRMPipeline")
EMBEDDED = Path(str(files("dtm_hf"))) / "assets" / "dtm-f5-voice"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def choose_model(model: str | None, option: str = "--model") -> str:
    """A folder or a Hub name, given by an option; the embedded pipeline for `None`."""
    if model is None:
        if not (EMBEDDED / "model_index.json").is_file():
            raise ArgumentError(
                "This installation holds no embedded pipeline. Name a folder or a Hub repository: `--model`."
            )
        return str(EMBEDDED)
    if model == EMBEDDED.name and not Path(model).exists():
        return choose_model(None)
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file() and not (folder / "config.json").is_file():
            raise ArgumentError(
                f"`{option}` {model!r} holds no pipeline: neither model_index.json nor config.json is in it."
            )
        return str(folder)
    near = _near(folder)
    # Beside a folder of nearly that name it is a typo, and no organisation of the Hub.
    if not _HUB_NAME.fullmatch(model) or near is not None:
        raise ArgumentError(
            f"`{option}` {model!r} is neither an existing folder nor the name of a Hub repository (org/name)."
            + (f" Did you mean {near!r}?" if near else "")
        )
    return model


def _near(path: Path) -> str | None:
    """A folder beside a path that is not there, or the embedded pipeline, with a name that is much like its own."""
    there = {EMBEDDED.name: EMBEDDED.name} if path.parent == Path() else {}
    if path.parent.is_dir():
        there |= {folder.name: str(folder) for folder in path.parent.iterdir() if folder.is_dir()}
    return next((there[name] for name in difflib.get_close_matches(path.name, there, 1)), None)


def model_voices(model: str, revision: str | None = None, local_files_only: bool = False) -> dict[str, Recording]:
    """
    The recordings packaged with a model, by name, wherever it lies; arguments as of [`load_pipeline`].

    Raises:
        ArgumentError: if there is no such repository, or it cannot be reached.
    """
    if Path(model).is_dir():
        return packaged_voices(model)
    from huggingface_hub import snapshot_download

    # A pipeline is loaded without them: they are no part of it.
    files = [f"{PACKAGED}*{suffix}" for suffix in (".wav", ".txt")]
    try:
        folder = snapshot_download(model, revision=revision, allow_patterns=files, local_files_only=local_files_only)
    except OSError as error:
        raise ArgumentError(
            f"`--model` {model!r} is no folder here, and of the Hub it cannot be loaded: {error}"
        ) from error
    return packaged_voices(folder)


def choose_reference(
    model: str,
    audio: Path | None,
    text: str | None,
    voice: str | None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Recording:
    """
    The recording to speak like: `audio` with `text`, else a packaged one of the model, as of [`model_voices`].

    Read once here, which takes no model, so that a bad recording is refused at once.
    """
    if audio is not None:
        if voice is not None:
            raise ArgumentError("`--voice` and `--reference-audio` exclude each other.")
        if text is None or not text.strip():
            raise ArgumentError(f"`--reference-text` is missing: what is said in {str(audio)!r}.")
        reference = Recording(audio, text)
    elif text is not None:
        raise ArgumentError(
            "`--reference-text` is given without the recording that it belongs to, `--reference-audio`."
        )
    else:
        voices = model_voices(model, revision, local_files_only)
        if not voices:
            raise ArgumentError(
                f"`--reference-audio` and `--reference-text` are needed: {model!r} packages no recording."
            )
        wanted = voice or ("default" if "default" in voices else next(iter(voices)))
        if wanted not in voices:
            raise ArgumentError(f"`--voice` must be one of {sorted(voices)}, but got {wanted!r}.")
        reference = voices[wanted]

    from dtm_hf.frontend.audio import load_reference

    with warnings.catch_warnings():
        # The pipeline reads it again, and says then what there is to say.
        warnings.simplefilter("ignore")
        try:
            load_reference(reference.audio)
        except (ValueError, OSError) as error:
            raise ArgumentError(str(error)) from error
    return reference


def load_ears(spec: str | None) -> "Recognizer | None":
    """
    The recogniser of `--recognizer`; none for `None`.

    Raises:
        ArgumentError: for a name that there is not, and for a model that cannot be loaded.
        ImportError: naming what to install.
    """
    if spec is None:
        return None
    from dtm_hf.evaluation.recognizers import load_recognizer

    try:
        return load_recognizer(spec)
    except ValueError as error:
        said = str(error).replace("`recognizer`", "`--recognizer`").replace("`model`", "`--recognizer`")
        raise ArgumentError(said) from error


def pipeline_kind(model: str, revision: str | None = None, local_files_only: bool = False) -> str:
    """
    Class of the pipeline of a folder or a Hub name, by its small files alone. What cannot be read is taken for a
    `DTMPipeline`, whose loader says what is wrong with it.
    """
    from dtm_hf.reading import read_json

    for file in ("model_index.json", "config.json"):
        path = Path(model) / file
        try:
            if not Path(model).is_dir():
                from huggingface_hub import hf_hub_download

                path = hf_hub_download(model, file, revision=revision, local_files_only=local_files_only)
            content = read_json(path)
        except (OSError, ValueError):
            continue
        if file == "model_index.json":
            return str(content.get("_class_name"))
        # A checkpoint of transformers.
        return "SpeechT5Pipeline" if content.get("model_type") == "speecht5" else "DTMPipeline"
    return "DTMPipeline"


def load_pipeline(
    model: str,
    *,
    kinds: tuple[str, ...] = ("DTMPipeline",),
    option: str = "--model",
    dtype: str = "float32",
    device: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    student: str | None = None,
    **kwargs,
) -> "DTMPipeline":
    """
    Load the pipeline of a folder or a Hub name, with a spinner.

    Args:
        model (`str`): Result of [`choose_model`].
        kinds (`tuple[str, ...]`): Classes of pipelines that the command takes.
        option (`str`): What it was named by.
        dtype (`str`): Name of a floating-point type of torch.
        device (`str`, *optional*): As torch names them; the first GPU if there is one, else the CPU.
        student (`str`, *optional*): Folder or Hub name of a student's adapters, which take the backbone's place.
        revision, local_files_only, kwargs: As in `DTMPipeline.from_pretrained`.

    Raises:
        ValueError: if a file is damaged, the parts do not fit, or there is no such device.
        OSError: if there is no such repository, revision or file.
    """
    kind = pipeline_kind(model, revision, local_files_only)
    if kind in ANY_KIND and kind not in kinds:
        raise ArgumentError(f"`{option}` {model!r} is a {kind}, and this command is for a {' or a '.join(kinds)}.")
    if student is not None and kind != "DTMPipeline":
        raise ArgumentError(f"`--student` is for a DTMPipeline, and {model!r} is a {kind}.")
    # A spinner would fight with the Hub's download bars.
    local = Path(model).is_dir()
    quiet_libraries()
    with stderr.status("Importing the libraries") if local else nullcontext() as status:
        import torch
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        import dtm_hf

        # What is none of them is refused by its loader.
        pipeline_class = getattr(dtm_hf, kind if kind in kinds else kinds[0])
        diffusers_logging.disable_progress_bar()
        # It warns that float16 does not run on the CPU, where it does.
        diffusers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise ArgumentError(f"`--device` {device!r} cannot be used: {str(error).splitlines()[0]}") from error
        if status is not None:
            status.update(f"Loading {Path(model).name}")
        else:
            stderr.print(f"Loading {model} from the Hub", markup=False, highlight=False)
        loaded = f"`{option}` {model!r}"
        try:
            pipeline = pipeline_class.from_pretrained(
                model, dtype=getattr(torch, dtype), revision=revision, local_files_only=local_files_only, **kwargs
            )
            if student is not None:
                loaded = f"`--student` {student!r}"
                pipeline.load_student(student, local_files_only=local_files_only)
        except ValueError as error:
            raise ValueError(f"{loaded}: {error}") from error
        except OSError as error:
            if local:
                raise
            raise OSError(f"{loaded} is no folder here, and of the Hub it cannot be loaded: {error}") from error
        return pipeline.to(device)

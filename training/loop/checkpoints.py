"""Checkpoints that are complete or absent, which of them are kept, and whether one is still what was written."""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from dtm_hf.training.loop.errors import CheckpointError

_NAME = "checkpoint-{:08d}"
_NUMBERED = re.compile(r"checkpoint-([0-9]+)")
_PARTIAL = ".partial-"
_STATE = "trainer_state.json"
# Sizes and hashes of all other files, written last.
_FILES = "files.json"


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints by their number, the lowest first. A folder of any other name is none."""
    return [path for path in _numbered_folders(output_dir) if (path / _STATE).is_file()]


def _numbered_folders(output_dir: str | Path) -> list[Path]:
    found = [path for path in Path(output_dir).glob("checkpoint-*") if _NUMBERED.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir()), key=_number)


def _number(checkpoint: Path) -> int:
    return int(_NUMBERED.fullmatch(checkpoint.name)[1])


def newest_sound_checkpoint(output_dir: str | Path, say: Callable[[str], None] = print) -> Path | None:
    """
    The newest checkpoint whose files are those that were written; `None` if there is no checkpoint at all. Newer ones
    that are damaged get another name, so that they are neither read nor counted again.

    Args:
        say (`Callable`, defaults to `print`): gets a line for each that is skipped, and one if what is returned cannot
            be checked, for it was written before checkpoints listed their files.

    Raises:
        CheckpointError: if all of them are damaged. They keep their names then.
    """
    damages: dict[Path, str] = {}
    for checkpoint in reversed(_numbered_folders(output_dir)):
        if not any((checkpoint / name).is_file() for name in (_STATE, _FILES)):
            say(f"{checkpoint.name} is no checkpoint, for it has no {_STATE}.")
            continue
        damage = find_damage(checkpoint)
        if damage is not None:
            damages[checkpoint] = damage
            continue
        for damaged, reason in damages.items():
            aside = damaged.with_name(f"{damaged.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            damaged.rename(aside)
            say(f"Skipped {damaged.name}, which is damaged and now called {aside.name}: {reason}.")
        if not (checkpoint / _FILES).is_file():
            say(f"{checkpoint.name} lists no hashes of its files, as older versions wrote it: it is taken unchecked.")
        return checkpoint
    if damages:
        reasons = "; ".join(f"{checkpoint.name}: {reason}" for checkpoint, reason in damages.items())
        raise CheckpointError(
            f"`output_dir` {str(output_dir)!r} holds no checkpoint to go on from, for all are damaged ({reasons}). "
            "Remove them to begin anew, or choose another folder."
        )
    return None


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, the first thing found; `None` if nothing is."""
    try:
        read_state(checkpoint)
        listed = _read_object(checkpoint / _FILES) if (checkpoint / _FILES).is_file() else {}
        for name, entry in listed.items():
            if not isinstance(entry, dict):
                return f"{_FILES} is no list of files"
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry.get("size"):
                return f"{name} has {path.stat().st_size} bytes in the place of {entry.get('size')}"
            if _sha256(path) != entry.get("sha256"):
                return f"{name} is not what was written: its SHA-256 differs"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def best_checkpoint(output_dir: str | Path) -> Path | None:
    """The complete checkpoint with the lowest decisive figure; `None` if none was validated."""
    figures = [(decisive_figure(path), path) for path in checkpoint_folders(output_dir)]
    validated = [(figure, path) for figure, path in figures if figure is not None]
    return min(validated)[1] if validated else None


def is_best(output_dir: str | Path, figure: float | None) -> bool:
    """Whether a decisive figure, if there is one, is lower than that of any checkpoint."""
    best = best_checkpoint(output_dir)
    return figure is not None and (best is None or figure < decisive_figure(best))


def decisive_figure(checkpoint: Path) -> float | None:
    """
    The figure that tells the best checkpoint, lower is better; `None` if this one was not validated, or its state
    cannot be read.
    """
    try:
        state = read_state(checkpoint)
        figure = state.get(state.get("decisive", "validation_loss"))
    except (OSError, ValueError, TypeError):
        return None
    # Older versions wrote NaN.
    return figure if isinstance(figure, float | int) and math.isfinite(figure) else None


def write_checkpoint(
    output_dir: str | Path,
    step: int,
    write: Callable[[Path], None],
    state: dict,
    keep: int,
    *,
    keep_every: int | None = None,
    process=None,
) -> Path:
    """
    Write a checkpoint aside, sizes and hashes of its files last, then give it its name in one rename, then prune old
    ones. What a killed run left half done is removed. Every process of a run calls this, over one file system.

    Args:
        output_dir (`str` or `Path`): Folder of the run.
        step (`int`): Optimizer steps taken.
        write: Called in every process with the folder to fill.
        state (`dict`): JSON-serialisable state of the loop. Its entry that `decisive` names, `validation_loss` by
            default, tells which is the best, if it is there.
        keep (`int`): Newest checkpoints to keep, this one included. The best one is kept beside them.
        keep_every (`int`, *optional*): Checkpoints at multiples of this step are never removed.
        process: `Accelerator` or `PartialState` of a run of several processes.

    Raises:
        CheckpointError: if it could not be written, for a full disk say.
    """
    if process is None:
        from accelerate import PartialState

        process = PartialState()
    output_dir = Path(output_dir)
    final = output_dir / _NAME.format(step)
    partial = output_dir / (_PARTIAL + final.name)
    try:
        if process.is_main_process:
            for leftover in output_dir.glob(_PARTIAL + "*"):
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink()
            partial.mkdir(parents=True)
        process.wait_for_everyone()
        write(partial)
        process.wait_for_everyone()
        if process.is_main_process:
            (partial / _STATE).write_text(json.dumps(state, indent=2, allow_nan=False))
            (partial / _FILES).write_text(json.dumps(_list_files(partial), indent=2))
            for path in partial.rglob("*"):
                _fsync(path)
            _fsync(partial)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(partial, final)
            _fsync(output_dir)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        complete = checkpoint_folders(output_dir)
        newest = f"the newest complete one is {complete[-1].name}" if complete else "there is no complete one"
        raise CheckpointError(
            f"The checkpoint of step {step} could not be written to {str(output_dir)!r}; {newest}. "
            f"{type(error).__name__}: {error}"
        ) from error
    if process.is_main_process:
        _prune(output_dir, final, keep, keep_every)
    process.wait_for_everyone()
    return final


def load_weights(accelerator: Accelerator, checkpoint: Path) -> None:
    """
    Weights, optimizers and generators, as Accelerate has saved them; every process calls this.

    Raises:
        CheckpointError: if they do not fit.
    """
    try:
        accelerator.load_state(str(checkpoint))
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{str(checkpoint)!r} does not fit this configuration; to begin anew, choose another `output_dir`. "
            f"{type(error).__name__}: {reason[:300]}"
        ) from error


def read_state(checkpoint: Path) -> dict:
    """
    State of the loop that a checkpoint was written with.

    Raises:
        OSError, ValueError: if it cannot be read.
    """
    return _read_object(checkpoint / _STATE)


def _read_object(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no mapping")
    return content


def _list_files(folder: Path) -> dict[str, dict]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prune(output_dir: Path, newest: Path, keep: int, keep_every: int | None) -> None:
    # By number, but never the one just written: another run may have left higher numbers in this folder.
    others = [path for path in checkpoint_folders(output_dir) if path != newest]
    best = best_checkpoint(output_dir)
    for old in others[: max(len(others) + 1 - keep, 0)]:
        milestone = keep_every and _number(old) % keep_every == 0
        if not milestone and old != best:
            shutil.rmtree(old, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Checkpoints that are complete or absent, and which of them are kept."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

_NAME = "checkpoint-{:08d}"
_PARTIAL = ".partial-"
_STATE = "trainer_state.json"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; those before it are intact."""


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in Path(output_dir).glob("checkpoint-*") if (path / _STATE).is_file())


def best_checkpoint(output_dir: str | Path) -> Path | None:
    """The complete checkpoint with the lowest decisive figure; `None` if none was validated."""
    figures = [(decisive_figure(path), path) for path in checkpoint_folders(output_dir)]
    validated = [(figure, path) for figure, path in figures if figure is not None]
    return min(validated)[1] if validated else None


def decisive_figure(checkpoint: Path) -> float | None:
    """The figure that tells the best checkpoint, lower is better; `None` if this one was not validated."""
    state = read_state(checkpoint)
    return state.get(state.get("decisive", "validation_loss"))


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
    Write a checkpoint aside, then give it its name in one rename, then prune old ones. What a killed run left half
    done is removed. Every process of a run calls this, over one file system.

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
                shutil.rmtree(leftover)
            partial.mkdir(parents=True)
        process.wait_for_everyone()
        write(partial)
        process.wait_for_everyone()
        if process.is_main_process:
            (partial / _STATE).write_text(json.dumps(state, indent=2))
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


def read_state(checkpoint: Path) -> dict:
    """State of the loop that a checkpoint was written with."""
    return json.loads((checkpoint / _STATE).read_text())


def _prune(output_dir: Path, newest: Path, keep: int, keep_every: int | None) -> None:
    # By number, but never the one just written: another run may have left higher numbers in this folder.
    others = [path for path in checkpoint_folders(output_dir) if path != newest]
    best = best_checkpoint(output_dir)
    for old in others[: max(len(others) + 1 - keep, 0)]:
        milestone = keep_every and int(old.name.rsplit("-", 1)[1]) % keep_every == 0
        if not milestone and old != best:
            shutil.rmtree(old)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Checkpoints that are complete or absent."""

import json
import os
import shutil
from pathlib import Path

_NAME = "checkpoint-{:08d}"
_PARTIAL = ".partial-"


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in Path(output_dir).glob("checkpoint-*") if (path / "trainer_state.json").is_file())


def write_checkpoint(output_dir: str | Path, step: int, write, state: dict, keep: int) -> Path:
    """
    Write a checkpoint aside, then give it its name in one rename, then prune old ones. What a killed run left half
    done is removed.

    Args:
        output_dir (`str` or `Path`): Folder of the run.
        step (`int`): Optimizer steps taken.
        write: Called with the folder to fill.
        state (`dict`): JSON-serialisable state of the loop.
        keep (`int`): Checkpoints to keep, this one included.
    """
    output_dir = Path(output_dir)
    final = output_dir / _NAME.format(step)
    partial = output_dir / (_PARTIAL + final.name)
    for leftover in output_dir.glob(_PARTIAL + "*"):
        shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    write(partial)
    (partial / "trainer_state.json").write_text(json.dumps(state, indent=2))
    for path in partial.rglob("*"):
        if path.is_file():
            _fsync(path)
    _fsync(partial)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(partial, final)
    _fsync(output_dir)
    # By number, but never the one just written: another run may have left higher numbers in this folder.
    others = [path for path in checkpoint_folders(output_dir) if path != final]
    for old in others[: max(len(others) + 1 - keep, 0)]:
        shutil.rmtree(old)
    return final


def read_state(checkpoint: Path) -> dict:
    """State of the loop that a checkpoint was written with."""
    return json.loads((checkpoint / "trainer_state.json").read_text())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

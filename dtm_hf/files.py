"""Files and folders that are either complete or absent."""

import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:
    # Windows: leftovers stay there, for nothing tells whose writer is alive.
    fcntl = None

# The suffix stays last: writers read the format from it.
_ASIDE = re.compile(r"\..*\.[0-9a-f]{16}\.partial(\.[^.]*)?", re.DOTALL)


@contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[Path]:
    """
    A temporary file beside `path` that takes its name when the block ends well, and is removed when it does not.

    The file and missing parent folders are made on entry: a path that cannot be written is refused before any work is
    done for it. What a killed process left of its own in the same folder is removed.

    Raises:
        OSError: if `path` cannot be written, or is a folder or a device.
    """
    asked, path = path, Path(path).expanduser().resolve()
    if path.exists() and not path.is_file():
        raise OSError(f"{str(asked)!r} cannot be written: it is no regular file.")
    with _parents(path, asked), _beside(path, asked, path.stem, path.suffix, Path.touch) as aside:
        yield aside
        os.replace(aside, path)


@contextmanager
def folder_written_aside(path: str | os.PathLike) -> Iterator[Path]:
    """
    A temporary folder beside `path` that takes its name when the block ends well, and is removed when it does not.
    What a killed process left of its own in the same place is removed.

    Raises:
        OSError: if `path` cannot be written, or exists and is not an empty folder.
    """
    asked, path = path, Path(path).expanduser().resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{str(asked)!r} exists and is not an empty folder; choose another or remove it.")
    with _parents(path, asked), _beside(path, asked, path.name, "", Path.mkdir) as aside:
        yield aside
        os.replace(aside, path)


@contextmanager
def entries_written_aside(folder: str | os.PathLike) -> Iterator[Path]:
    """
    A temporary folder in `folder`, which may hold other things. When the block ends well, each file and folder in it
    takes the place of what has its name in `folder`; when it does not, all stays as it was.

    Raises:
        OSError: if `folder` cannot be written.
    """
    asked, entry = folder, Path(folder).expanduser().resolve() / "entries"
    with _parents(entry, asked), _beside(entry, asked, entry.name, "", Path.mkdir) as aside:
        try:
            yield aside
            # Files last: one of them names the folders, as model_index.json does.
            for new in sorted(aside.iterdir(), key=lambda path: (path.is_file(), path.name)):
                old = entry.with_name(new.name)
                if old.is_dir():
                    # No rename replaces a folder that holds something.
                    os.replace(old, aside / f"{new.name}.old")
                os.replace(new, old)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """
    A folder among the system's temporary ones, for this user alone, that goes when the block ends. What a killed
    process left of its own there is removed.

    Args:
        name (`str`): part of its name.
    """
    path = Path(tempfile.gettempdir()) / name
    with _beside(path, path, name, "", partial(Path.mkdir, mode=0o700)) as aside:
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """
    Figures as a file of JSON, complete or absent. A number that is infinite or none at all becomes `null`: JSON has
    neither, and what Python writes in their place (`Infinity`, `NaN`) is refused by other readers.

    Raises:
        OSError: if `path` cannot be written.
    """
    text = json.dumps(_in_json(content), indent=2, allow_nan=False)
    with written_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def _in_json(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _in_json(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_in_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the temporary files and folders directly in `folder` whose writers are dead; what cannot be stays."""
    with suppress(OSError):
        names = [entry.name for entry in os.scandir(folder) if _ASIDE.fullmatch(entry.name)]
        for path in (Path(folder) / name for name in names):
            with suppress(OSError), _locked(path, wait=False):
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _beside(
    path: Path, asked: str | os.PathLike, stem: str, suffix: str, make: Callable[[Path], object]
) -> Iterator[Path]:
    """
    A new temporary name beside `path`, taken by `make` and locked for the block: the lock of a killed writer ends
    with it, whereas its PID may be that of the next one, as it is in containers. It goes when the block fails.
    """
    remove_leftovers(path.parent)
    while True:
        # Not the whole stem, which alone may be as long as a name can be.
        aside = path.with_name(f".{stem[:40]}.{secrets.token_hex(8)}.partial{suffix}")
        try:
            with _saying_which(asked):
                make(aside)
            with _locked(aside, wait=True):
                # Between the two lines above another process may have taken it for a leftover.
                if aside.exists():
                    yield aside
                    return
        except BaseException:
            # Ctrl-C may come before whoever asked for it has it, and so cannot remove it.
            _remove(aside)
            raise


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[None]:
    """
    Raises:
        OSError: if `wait` is off and the file is locked, or cannot be.
    """
    if fcntl is None:
        if not wait:
            raise OSError("no locks")
        yield
        return
    descriptor = None
    try:
        # Some network file systems have no locks: there a writer goes on without, and no leftover is removed.
        with suppress(*([OSError] if wait else [])):
            descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _parents(path: Path, asked: str | os.PathLike) -> Iterator[None]:
    """The folders above `path`; those that had to be made are removed again when the block fails."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        with _saying_which(asked):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def _saying_which(asked: str | os.PathLike) -> Iterator[None]:
    """System errors that name the path that was asked for, and not the one beside it."""
    try:
        yield
    except OSError as error:
        raise type(error)(f"{str(asked)!r} cannot be written: {error.strerror or error}.") from error

"""Files and folders that are either complete or absent."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[Path]:
    """
    A temporary file beside `path` that takes its name when the block ends well, and is removed when it does not.

    The file and missing parent folders are made on entry: a path that cannot be written is refused before any work is
    done for it.

    Raises:
        OSError: if `path` cannot be written, or is a folder or a device.
    """
    asked, path = path, Path(path).expanduser().resolve()
    if path.exists() and not path.is_file():
        raise OSError(f"{str(asked)!r} cannot be written: it is no regular file.")
    # The suffix stays last: writers read the format from it.
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with _parents(path, asked):
        with _saying_which(asked):
            aside.touch(exist_ok=False)
        try:
            yield aside
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


@contextmanager
def folder_written_aside(path: str | os.PathLike) -> Iterator[Path]:
    """
    A temporary folder beside `path` that takes its name when the block ends well, and is removed when it does not.

    Raises:
        OSError: if `path` cannot be written, or exists and is not an empty folder.
    """
    asked, path = path, Path(path).expanduser().resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{str(asked)!r} exists and is not an empty folder; choose another or remove it.")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with _parents(path, asked):
        with _saying_which(asked):
            aside.mkdir()
        try:
            yield aside
            os.replace(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


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

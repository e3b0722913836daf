"""One writer a folder: a lock that ends with its process, however that ends."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from dtm_hf.files import remove_leftovers

try:
    import fcntl
except ImportError:
    # Windows, where nothing is locked.
    fcntl = None

_NAME = ".lock"
# By process and path, for a fork holds nothing: the lock file, and how often it is asked for. To close any descriptor
# of a file ends all locks that the process has on it.
_held: dict[tuple[int, Path], tuple[TextIO, int]] = {}


@contextmanager
def written_alone(folder: str | os.PathLike) -> Iterator[None]:
    """
    Make the `output_dir` of a run, and keep other processes from writing it for the block. What a killed one left half
    written is removed.

    Raises:
        ValueError: if another process is at work in it; the message names it and its host.
        OSError: if the folder cannot be made or written.
    """
    path = Path(folder).expanduser().resolve() / _NAME
    key = os.getpid(), path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file, count = _held[key] if key in _held else (_lock(path, folder), 0)
    except OSError as error:
        raise OSError(f"`output_dir` {str(folder)!r} cannot be written: {error.strerror or error}.") from error
    _held[key] = file, count + 1
    remove_leftovers(path.parent)
    try:
        yield
    finally:
        file, count = _held.pop(key)
        if count > 1:
            _held[key] = file, count - 1
        else:
            # Still locked, so that nobody else can be about to take this file for the lock.
            path.unlink(missing_ok=True)
            file.close()


def _lock(path: Path, folder: str | os.PathLike) -> TextIO:
    while True:
        file = open(path, "a+", encoding="utf-8", errors="replace")
        try:
            if fcntl is not None:
                # Not `flock`, which the processes that read the data would keep when this one is killed.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            with file:
                file.seek(0)
                holder = _holder(file.read(1000))
            raise ValueError(
                f"`output_dir` {str(folder)!r} is being written by {holder}; wait for its end, or choose another."
            ) from None
        except OSError:
            # Some network file systems have no locks.
            pass
        with suppress(FileNotFoundError):
            # Else the file was another process's, which removed it between the two calls.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                file.truncate(0)
                file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
                file.flush()
                return file
        file.close()


def _holder(content: str) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, TypeError, KeyError):
        return "another process"

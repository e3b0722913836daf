"""
What was spoken of a shard that is not complete: records behind one another in a file, each with its length and its
checksum. A process may be killed at any byte; the record that it was writing is cut off, and the others count.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:
    # Windows: nothing tells whether another process writes here.
    fcntl = None

_HEAD = struct.Struct("<III")
# Longer than the speech of any row.
_MAX_BYTES = 2**30


class Journal:
    """
    The records of one shard, to be read and added to by one process at a time.

    Args:
        path (`Path`): of the file; made if it is not there.

    Raises:
        OSError: if another process has it open.
    """

    def __init__(self, path: Path):
        self._file = open(path, "a+b", buffering=0)
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise OSError(f"{str(path)!r} is being written by another process; one run at a time.") from error
        self.positions: dict[int, int] = {}
        self.errors: dict[int, str] = {}
        self.seconds = 0.0
        for start, header in self._scan():
            self._note(header, start)
        self._file.truncate(self._end)

    def _scan(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Where each whole record begins, and its header."""
        self._end = 0
        size = os.fstat(self._file.fileno()).st_size
        while (record := self._read(self._end, size)) is not None:
            start, (header, _, length) = self._end, record
            self._end += length
            yield start, header

    def _read(self, start: int, size: int) -> tuple[dict[str, Any], bytes, int] | None:
        self._file.seek(start)
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        header_size, audio_size, checksum = _HEAD.unpack(head)
        length = _HEAD.size + header_size + audio_size
        if max(header_size, audio_size) > _MAX_BYTES or start + length > size:
            return None
        content = self._file.read(header_size + audio_size)
        if zlib.crc32(content) != checksum:
            return None
        return json.loads(content[:header_size]), content[header_size:], length

    def add(self, header: dict[str, Any], audio: bytes = b"") -> None:
        """A record: its header has an `id`, and `seconds` of the audio or an `error`."""
        content = json.dumps(header).encode()
        record = _HEAD.pack(len(content), len(audio), zlib.crc32(content + audio)) + content + audio
        written = 0
        while written < len(record):
            written += self._file.write(record[written:])
        self._note(header, self._end)
        self._end += len(record)

    def _note(self, header: dict[str, Any], start: int) -> None:
        self.positions[header["id"]] = start
        self.seconds += header.get("seconds", 0.0)
        if "error" in header:
            self.errors[header["id"]] = header["error"]

    def audio(self, row: int) -> tuple[dict[str, Any], bytes]:
        """Header and audio of a row."""
        header, audio, _ = self._read(self.positions[row], self._end)
        return header, audio

    def __contains__(self, row: int) -> bool:
        return row in self.positions

    def close(self) -> None:
        """Let others write."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

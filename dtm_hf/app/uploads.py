"""What is sent to the page: whole or not at all, and no more than there is room for."""

import asyncio
import json
import os
from pathlib import Path
from tempfile import SpooledTemporaryFile

# More than a minute of any recording that people have, and far less than what fills a disk.
MAX_UPLOAD_BYTES = 25 * 2**20
# What the page's folder may hold: uploads, what was spoken, and copies of both.
MAX_FOLDER_BYTES = 2 * 2**30
# Of the lines around a file.
_MARGIN = 2**16
_IN_MEMORY = 2**20
# Who sends more slowly holds the room of others.
_SECONDS = 600.0


class WholeRequests:
    """
    ASGI middleware: a request is handed on when all of it has come. What is cut off, or too much, leaves nothing.

    Args:
        app: the application.
        folder (`Path`): of the page.
    """

    def __init__(self, app, folder: Path):
        self.app, self.folder, self._coming = app, folder, 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        most = MAX_UPLOAD_BYTES + _MARGIN
        size = int(dict(scope["headers"]).get(b"content-length", most))
        # What stays in memory takes no room.
        taken = 0 if size <= _IN_MEMORY else min(size, most)
        refused = None if not taken else room_refused(self.folder, self._coming + taken)
        self._coming += taken
        try:
            with SpooledTemporaryFile(_IN_MEMORY, dir=self.folder) as body:
                try:
                    fits = await asyncio.wait_for(_collect(receive, body, 0 if refused else most), _SECONDS)
                except TimeoutError:
                    await _answer(send, 408, f"It has not come within {_SECONDS:g} s.")
                except _CutOffError:
                    return
                else:
                    if fits:
                        await self.app(scope, _replay(body, receive), send)
                    elif refused:
                        await _answer(send, 507, refused)
                    else:
                        await _answer(send, 413, f"A request may have {MAX_UPLOAD_BYTES >> 20} MiB.")
        finally:
            self._coming -= taken


class _CutOffError(Exception):
    """Who sent it is gone."""


async def _collect(receive, body, most: int) -> bool:
    """Whether all that came is in `body`. What is too much is read to its end, for who sends hears no answer."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _CutOffError
        content, more = message.get("body", b""), message.get("more_body", False)
        size += len(content)
        if size <= most:
            body.write(content)
    body.seek(0)
    return size <= most


async def _answer(send, status: int, message: str) -> None:
    content = json.dumps({"detail": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _replay(body, receive):
    more = True

    async def again():
        nonlocal more
        if not more:
            return await receive()
        content = body.read(2**16)
        more = bool(content)
        return {"type": "http.request", "body": content, "more_body": more}

    return again


def room_refused(folder: Path, more: int = 0) -> str | None:
    """Why so many bytes more have no room in the folder of the page; `None` where they have."""
    held = 0
    for above, _, names in os.walk(folder):
        for name in names:
            try:
                held += os.stat(os.path.join(above, name)).st_size
            except FileNotFoundError:
                # Removed meanwhile.
                continue
    if held + more <= MAX_FOLDER_BYTES:
        return None
    return "The page has no room for more files now; the old ones go when they are an hour old."


__all__ = ["MAX_FOLDER_BYTES", "MAX_UPLOAD_BYTES", "WholeRequests", "room_refused"]

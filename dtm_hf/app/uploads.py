"""What is sent to the page: no more than there is room for, and nothing is left of what was cut off."""

import asyncio
import json
import os
import time
from pathlib import Path

from starlette.formparsers import MultiPartException

# More than a minute of any recording that people have, and far less than what fills a disk.
MAX_UPLOAD_BYTES = 25 * 2**20
# What the page's folder may hold: uploads, what was spoken, and copies of both.
MAX_FOLDER_BYTES = 2 * 2**30
MAX_AGE_SECONDS = 3600
# Of the lines around a file.
_MARGIN = 2**16
# Smaller requests, which are no uploads, ask for no room.
_SMALL = 2**20
# Who sends more slowly holds the room of others.
_SECONDS = 600.0


class Bounded:
    """
    ASGI middleware: a request has a bound, whatever it carries, and so has the folder that uploads go into. Of an
    upload that is cut off, takes too long or is too much, Gradio's own reader of them removes what it has written:
    it gets the error on which it does so.

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
        room = 0 if size <= _SMALL else min(size, most)
        told = room_refused(self.folder, self._coming + room) if room else None
        if size > most or told:
            # Who is still sending hears no answer.
            await _read_out(receive)
            await _answer(send, 507 if told else 413, told or _TOO_MUCH)
            return
        self._coming += room
        try:
            await self.app(scope, _counted(receive, most), send)
        finally:
            self._coming -= room


# In words by which Gradio knows which status it has.
_TOO_MUCH = f"The request exceeds the maximum allowed size of {MAX_UPLOAD_BYTES >> 20} MiB."


def _counted(receive, most: int):
    """`receive` that raises `MultiPartException` for a body that ends before its end, or that has none in time."""
    came, ended, until = 0, False, time.monotonic() + _SECONDS

    async def counted():
        nonlocal came, ended
        if ended:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), until - time.monotonic())
        except TimeoutError as error:
            raise MultiPartException(f"It has not come within {_SECONDS:g} s.") from error
        if message["type"] == "http.disconnect":
            raise MultiPartException("It was cut off.")
        came, ended = came + len(message.get("body", b"")), not message.get("more_body", False)
        if came > most:
            if not ended:
                await _read_out(receive)
            raise MultiPartException(_TOO_MUCH)
        return message

    return counted


async def _read_out(receive) -> None:
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


async def _answer(send, status: int, message: str) -> None:
    content = json.dumps({"detail": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def room_refused(folder: Path, more: int = 0) -> str | None:
    """
    Why so many bytes more have no room in the folder of the page; `None` where they have.

    What lies in it directly is an upload on its way into a folder of its own, and Gradio knows of none that came in
    another field than its own: those that are old are removed.
    """
    held, now = 0, time.time()
    for above, _, names in os.walk(folder):
        for path in (os.path.join(above, name) for name in names):
            try:
                about = os.stat(path)
                if above == str(folder) and now - about.st_mtime > MAX_AGE_SECONDS:
                    os.unlink(path)
                    continue
                held += about.st_size
            except FileNotFoundError:
                # Removed meanwhile.
                continue
    if held + more <= MAX_FOLDER_BYTES:
        return None
    return "The page has no room for more files now; the old ones go when they are an hour old."


__all__ = ["MAX_AGE_SECONDS", "MAX_FOLDER_BYTES", "MAX_UPLOAD_BYTES", "Bounded", "room_refused"]

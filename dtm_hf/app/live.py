"""
Speech that a browser plays while it is made: samples as they come, under an address that only its page knows, and the
script that plays them. Gradio's own streams need an `ffmpeg` program.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse

from dtm_hf.serving.encoding import to_pcm

PATH = "/live"
# What is not heard by then never will be, and what does not go on by then has no end.
_SECONDS = 600.0
_MAX_STREAMS = 64
# Of all streams together: some ninety minutes at 24 kHz.
_MAX_BYTES = 256 * 2**20


class Stream:
    """One utterance on its way from who speaks to who listens; a browser may fetch it more than once."""

    def __init__(self, sampling_rate: int, grown: Callable[[], None] = lambda: None):
        self.sampling_rate, self.name, self.born = sampling_rate, secrets.token_urlsafe(16), time.monotonic()
        self.size = 0
        self._grown = grown
        self._pieces: list[bytes] = []
        self._ended = False
        self._more = threading.Condition()

    @property
    def url(self) -> str:
        """Where a browser of this server finds it."""
        return f"{PATH}/{self.name}.pcm"

    def put(self, wave: np.ndarray) -> None:
        """Samples `(T,)` that are known."""
        with self._more:
            self._pieces.append(to_pcm(wave))
            self.size += len(self._pieces[-1])
            self._more.notify_all()
        self._grown()

    def end(self) -> None:
        """No more will come."""
        with self._more:
            self._ended = True
            self._more.notify_all()

    def content(self) -> Iterator[bytes]:
        """The samples from their start, as they come."""
        position = 0
        while True:
            with self._more:
                self._more.wait_for(lambda done=position: self._ended or len(self._pieces) > done, _SECONDS)
                pieces = self._pieces[position:]
            if not pieces:
                return
            position += len(pieces)
            yield b"".join(pieces)


class Streams:
    """The utterances of the last minutes."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        self._lock = threading.Lock()

    def open(self, sampling_rate: int) -> Stream:
        """A new one; what is old, or too many or too much, is forgotten, the oldest first."""
        stream = Stream(sampling_rate, self._forget)
        with self._lock:
            self._streams[stream.name] = stream
        self._forget()
        return stream

    def _forget(self) -> None:
        now = time.monotonic()
        with self._lock:
            kept, size = [], 0
            for stream in reversed(self._streams.values()):
                size += stream.size
                # The newest stays, however long it is.
                if kept and (size > _MAX_BYTES or len(kept) == _MAX_STREAMS or now - stream.born >= _SECONDS):
                    break
                kept.append(stream)
            self._streams = {stream.name: stream for stream in reversed(kept)}

    def find(self, name: str) -> Stream | None:
        """The one of a name."""
        with self._lock:
            return self._streams.get(name)


def serve_streams(app: FastAPI, streams: Streams) -> None:
    """Adds the address of the streams to an application."""

    @app.get(PATH + "/{name}.pcm")
    def live(name: str) -> Response:
        stream = streams.find(name)
        if stream is None:
            return JSONResponse({"error": {"message": "There is no such stream."}}, 404)
        return StreamingResponse(stream.content(), media_type="audio/pcm", headers={"Cache-Control": "no-store"})


def script() -> str:
    """What a page needs in its head to play what [`player`] shows."""
    return f"<script>{(Path(__file__).with_name('live.js')).read_text(encoding='utf-8')}</script>"


def player(stream: Stream) -> str:
    """HTML of what plays a stream as soon as it stands in a page."""
    # Relative, for the page may lie behind a path of somebody's own.
    source = escape(stream.url.lstrip("/"))
    return (
        f'<div class="dtm-live" data-src="{source}" data-rate="{stream.sampling_rate}">'
        '<button type="button">Pause</button><span role="status"></span></div>'
    )

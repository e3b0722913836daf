"""Servers on loopback in a thread of this process, what speaks for them, and a speaker that waits to be let."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest

from dtm_hf.frontend.voices import Recording

SAID = "What is said."


@contextmanager
def running(app, **server):
    """The address of an ASGI application that runs for the block; arguments as of `make_server`."""
    from dtm_hf.serving.listening import make_server, open_socket, url_of

    with open_socket("127.0.0.1", 0) as opened:
        server = make_server(app, **server)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield url_of(opened)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@contextmanager
def serving(speaker, voices, max_rows=4, patience_s=120, **options):
    """`url`, `client` (httpx), and what `health` says, of a speech server that lasts for the block."""
    from dtm_hf.runtime import Batcher
    from dtm_hf.serving.server import create_app

    app = create_app(Batcher(speaker, max_rows=max_rows), voices, "tiny", **options)
    with running(app, patience_s=patience_s) as url:
        with httpx.Client(base_url=url, timeout=60) as client:
            yield SimpleNamespace(url=url, client=client, health=lambda: client.get("/health").json())


class Gated:
    """A speaker that samples as often as it is let, and says which rows and texts it was asked for."""

    def __init__(self, speaker):
        self.speaker, self.permits, self.rows = speaker, threading.Semaphore(0), []

    @property
    def texts(self):
        return [row.text for row in self.rows]

    def __getattr__(self, name):
        return getattr(self.speaker, name)

    def let(self, times=1000):
        self.permits.release(times)

    def sample(self, rows, **sampling):
        self.rows += rows
        assert self.permits.acquire(timeout=60)
        return self.speaker.sample(rows, **sampling)


# Fixtures: a folder that needs them imports them into its conftest.


@pytest.fixture(scope="session")
def voices(reference_audio):
    return {"anna": Recording(reference_audio, SAID), "ben": Recording(reference_audio, "What was said.")}


@pytest.fixture(scope="session")
def speaker(port_source):
    from dtm_hf.serving.pipeline_speaker import PipelineSpeaker

    return PipelineSpeaker(port_source)


@pytest.fixture
def gated(speaker):
    gated = Gated(speaker)
    yield gated
    gated.let()


__all__ = ["Gated", "gated", "running", "serving", "speaker", "voices"]

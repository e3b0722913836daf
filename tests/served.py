"""A server on loopback in a thread of this process, and a speaker that waits to be let."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import httpx


@contextmanager
def serving(speaker, voices, **options):
    """`url`, `client` (httpx), and what `served` says, of a server that lasts for the block."""
    from dtm_hf.runtime import Batcher
    from dtm_hf.serving.listening import make_server, open_socket, url_of
    from dtm_hf.serving.server import create_app

    app = create_app(Batcher(speaker, max_rows=4), voices, "tiny", **options)
    with open_socket("127.0.0.1", 0) as opened:
        server, url = make_server(app), url_of(opened)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                yield SimpleNamespace(url=url, client=client, health=lambda: client.get("/health").json())
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


class Gated:
    """A speaker that samples as often as it is let, and says which texts it was asked for."""

    def __init__(self, speaker):
        self.speaker, self.permits, self.texts = speaker, threading.Semaphore(0), []

    def __getattr__(self, name):
        return getattr(self.speaker, name)

    def let(self, times=1000):
        self.permits.release(times)

    def sample(self, rows, **sampling):
        self.texts += [row.text for row in rows]
        assert self.permits.acquire(timeout=60)
        return self.speaker.sample(rows, **sampling)

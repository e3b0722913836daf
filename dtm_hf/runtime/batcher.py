"""`Batcher`: requests of many clients, spoken together."""

import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtm_hf.pipelines.chunking import cross_fade
from dtm_hf.pipelines.rows import SpeechRow, unspoken_characters
from dtm_hf.runtime.contract import RowSpeaker
from dtm_hf.runtime.speaker import Speech


@dataclass(frozen=True, eq=False)
class _Request:
    """Rows of one text on their way; those with the same `key` can be sampled together."""

    rows: list[SpeechRow]
    generator: Any
    key: tuple[tuple[str, Hashable], ...]
    finish: Callable[[list[np.ndarray]], Any]
    answer: Future


class Batcher:
    """
    Speaks what any number of threads ask for, in batches: one thread runs the networks, on the rows of all requests
    that are waiting and are sampled alike. A client's speech does not depend on who else asks, but for int8 ports,
    whose activations are rounded by the batch.

    Args:
        speaker ([`Speaker`] or another [`~dtm_hf.runtime.contract.RowSpeaker`]): what speaks.
        max_rows (`int`, defaults to 8): rows that are sampled at once; a request with more goes alone.
        max_wait_s (`float`, defaults to 0.01): seconds that the first request of a batch waits for others.

    Raises:
        ValueError: for a `max_rows` below 1 or a negative `max_wait_s`.

    Example:

    ```python
    >>> with Batcher(speaker) as batcher:
    ...     answers = [batcher.submit(text, "voice.wav", "What is said in it.") for text in texts]
    ...     speeches = [answer.result() for answer in answers]
    ```
    """

    def __init__(self, speaker: RowSpeaker, max_rows: int = 8, max_wait_s: float = 0.01):
        if not isinstance(max_rows, int) or max_rows < 1:
            raise ValueError(f"`max_rows` must be a whole number of at least 1, but got {max_rows!r}.")
        if not max_wait_s >= 0:
            raise ValueError(f"`max_wait_s` must be 0 or more, but got {max_wait_s!r}.")
        self.speaker, self.max_rows, self.max_wait_s = speaker, max_rows, max_wait_s
        self._waiting: queue.Queue[_Request | None] = queue.Queue()
        self._aside: list[_Request] = []
        self._closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="dtm-hf batcher", daemon=True)
        self._thread.start()

    def submit(
        self,
        text: str,
        reference_audio: Any,
        reference_text: str,
        speed: float = 1.0,
        duration_s: float | None = None,
        seed: int = 0,
        **sampling,
    ) -> "Future[Speech]":
        """
        Ask for one text; arguments as of a call of [`Speaker`].

        Returns:
            `Future`: its `result()` is the [`Speech`], or raises what went wrong.

        Raises:
            TypeError, ValueError, FileNotFoundError: for what cannot be spoken, at once.
            RuntimeError: if the batcher is closed.
        """
        # Read and cut in the client's thread: the one that runs the networks has nothing else to do.
        generator = self.speaker.noise(seed)
        rows = self.speaker.prepare(text, reference_audio, reference_text, speed, duration_s, generator)
        rate = self.speaker.sampling_rate

        def finish(waves: list[np.ndarray]) -> Speech:
            return Speech(cross_fade(waves, rate), rate, unspoken_characters(rows)[0])

        return self._put(_Request(rows, generator, _key(sampling), finish, Future()))

    def submit_rows(self, rows: list[SpeechRow], generator: Any, **sampling) -> "Future[list[np.ndarray]]":
        """
        Ask for rows of one text that are prepared already, those of a stream for example.

        Returns:
            `Future`: its `result()` is the waveform `(T_i,)` of each row, or raises what went wrong.

        Raises:
            RuntimeError: if the batcher is closed.
        """
        return self._put(_Request(rows, generator, _key(sampling), lambda waves: waves, Future()))

    def _put(self, request: _Request) -> Future:
        with self._closing:
            if self._closed:
                raise RuntimeError("This batcher is closed.")
            self._waiting.put(request)
        return request.answer

    def close(self) -> None:
        """Speak what was asked for, then end."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def _serve(self) -> None:
        while (batch := self._next_batch()) is not None:
            batch = [request for request in batch if request.answer.set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                self._speak(batch)
            except BaseException as error:
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)

    def _next_batch(self) -> list[_Request] | None:
        """The oldest request with those that fit to it; `None` when there are no more to come."""
        first = self._aside.pop(0) if self._aside else self._waiting.get()
        if first is None:
            return None
        batch, aside, until = [first], [], time.monotonic() + self.max_wait_s

        def offer(request: _Request) -> None:
            rows = sum(len(other.rows) for other in batch) + len(request.rows)
            (batch if request.key == first.key and rows <= self.max_rows else aside).append(request)

        for request in self._aside:
            offer(request)
        while sum(len(request.rows) for request in batch) < self.max_rows:
            try:
                request = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if request is None:
                # To be found again once what was put aside is spoken.
                self._waiting.put(None)
                break
            offer(request)
        self._aside = aside
        return batch

    def _speak(self, batch: list[_Request]) -> None:
        rows = [row for request in batch for row in request.rows]
        sources = [self.speaker.noise_sources(request.rows, request.generator) for request in batch]
        generators = [source for of_request in sources for source in of_request]
        mels = iter(self.speaker.sample(rows, generators=generators, **dict(batch[0].key)))
        for request in batch:
            request.answer.set_result(request.finish([self.speaker.vocode(row, next(mels)) for row in request.rows]))


def _key(sampling: dict[str, Hashable]) -> tuple[tuple[str, Hashable], ...]:
    return tuple(sorted(sampling.items()))

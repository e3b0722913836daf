"""`Batcher`: requests of many clients, spoken together."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from dtm_hf.pipelines.chunking import cross_fade
from dtm_hf.pipelines.rows import SpeechRow, unspoken_characters
from dtm_hf.runtime.contract import RowSpeaker
from dtm_hf.runtime.speaker import Speech


@dataclass(frozen=True, eq=False)
class _Request:
    """
    Rows of one text on their way, each with what it draws its noise from; those with the same `key` can be sampled
    together. `answer` is no more than pending until all is spoken: so it can be given up between two rows.
    """

    rows: list[tuple[SpeechRow, Any]]
    key: tuple[tuple[str, Hashable], ...]
    finish: Callable[[list[np.ndarray]], Any]
    answer: Future = field(default_factory=Future)
    waves: list[np.ndarray] = field(default_factory=list)

    @property
    def next_rows(self) -> list[tuple[SpeechRow, Any]]:
        """Those that are not spoken."""
        return self.rows[len(self.waves) :]

    def end(self, tell: Callable[[], None]) -> None:
        """Tell the answer, unless it was given up."""
        if not self.answer.done() and self.answer.set_running_or_notify_cancel():
            tell()


class Batcher:
    """
    Speaks what any number of threads ask for, in batches: one thread runs the networks, on the rows of all requests
    that are waiting and are sampled alike. Who asks for more rows than a batch has waits between them for the others,
    and what is cancelled is spoken no further. A client's speech does not depend on who else asks, but for int8 ports,
    whose activations are rounded by the batch.

    Args:
        speaker ([`Speaker`] or another [`~dtm_hf.runtime.contract.RowSpeaker`]): what speaks.
        max_rows (`int`, defaults to 8): rows that are sampled at once.
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
        self._turns: list[_Request] = []
        self._closed = False
        self._changed = threading.Condition()
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

        return self._put(rows, generator, sampling, finish)

    def submit_rows(self, rows: list[SpeechRow], generator: Any, **sampling) -> "Future[list[np.ndarray]]":
        """
        Ask for rows of one text that are prepared already, those of a stream for example.

        Returns:
            `Future`: its `result()` is the waveform `(T_i,)` of each row, or raises what went wrong.

        Raises:
            RuntimeError: if the batcher is closed.
        """
        return self._put(rows, generator, sampling, lambda waves: waves)

    def _put(self, rows: list[SpeechRow], generator: Any, sampling: dict[str, Hashable], finish: Callable) -> Future:
        # All at once: what a row draws from follows from the state in which the first finds the generator.
        sources = self.speaker.noise_sources(rows, generator)
        request = _Request(list(zip(rows, sources, strict=True)), tuple(sorted(sampling.items())), finish)
        with self._changed:
            if self._closed:
                raise RuntimeError("This batcher is closed.")
            self._turns.append(request)
            self._changed.notify()
        return request.answer

    def close(self) -> None:
        """Speak what was asked for, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def _serve(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                self._speak(batch)
            except BaseException as error:
                for request, _ in batch:
                    request.end(partial(request.answer.set_exception, error))
            with self._changed:
                # Who has more to say says it when all had their turn who have come by now.
                self._turns += [request for request, _ in batch if not request.answer.done()]

    def _alike(self) -> list[_Request]:
        """The request whose turn it is, and those that are sampled as it is; none of what is given up."""
        self._turns = [request for request in self._turns if not request.answer.done()]
        return [request for request in self._turns if request.key == self._turns[0].key]

    def _next_batch(self) -> list[tuple[_Request, list[tuple[SpeechRow, Any]]]] | None:
        """Requests, each with those of its rows that are sampled now; `None` when there are no more to come."""

        def is_full() -> bool:
            return sum(len(request.next_rows) for request in self._alike()) >= self.max_rows

        with self._changed:
            self._changed.wait_for(lambda: self._alike() or self._closed)
            self._changed.wait_for(lambda: is_full() or self._closed, self.max_wait_s)
            batch, room = [], self.max_rows
            for request in self._alike():
                if rows := request.next_rows[:room]:
                    batch.append((request, rows))
                    room -= len(rows)
            served = [request for request, _ in batch]
            self._turns = [request for request in self._turns if request not in served]
            return batch if batch or not self._closed else None

    def _speak(self, batch: list[tuple[_Request, list[tuple[SpeechRow, Any]]]]) -> None:
        if not batch:
            return
        rows, sources = zip(*(row for _, rows in batch for row in rows), strict=True)
        mels = iter(self.speaker.sample(list(rows), generators=list(sources), **dict(batch[0][0].key)))
        for request, spoken in batch:
            request.waves.extend(self.speaker.vocode(row, next(mels)) for row, _ in spoken)
            if not request.next_rows:
                request.end(partial(request.answer.set_result, request.finish(request.waves)))

"""A client's request on its way through the batcher: awaited, given up when the client is, and held to a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool

from dtm_hf.pipelines.chunking import cross_fade
from dtm_hf.pipelines.streaming import Fader
from dtm_hf.runtime.batcher import Batcher
from dtm_hf.serving.limits import Refused
from dtm_hf.serving.schema import SpeechBody, refused_argument
from dtm_hf.serving.voices import ReadVoice

# What a pipeline raises for an argument that it refuses; anything else is a fault of the server.
_REFUSALS = (TypeError, ValueError)


class ClientGone(Exception):
    """Nobody is there to be answered."""


async def speak(
    batcher: Batcher, body: SpeechBody, voice: ReadVoice, timeout_s: float, hung_up: Callable[[], Awaitable[None]]
) -> np.ndarray:
    """
    The whole of a text, as samples `(T,)`.

    Args:
        batcher ([`Batcher`]): who is asked.
        body ([`SpeechBody`]): what for.
        voice ([`ReadVoice`]): in whose voice.
        timeout_s (`float`): seconds that it may take.
        hung_up (`Callable`): returns when the client has hung up.

    Raises:
        Refused: for an argument that cannot be served, or when the time is over.
        ClientGone: if the client hung up.
    """
    speaker = batcher.speaker
    generator = speaker.noise(body.seed)
    try:
        async with asyncio.timeout(timeout_s):
            rows = await run_in_threadpool(
                speaker.prepare, body.input, voice.reference, voice.text, body.speed, None, generator
            )
            # Asked for out here: what a thread asks for after the time is over would be spoken for nobody.
            waves = await _answer(batcher.submit_rows(rows, generator, **body.sampling), hung_up)
        return cross_fade(waves, speaker.sampling_rate)
    except TimeoutError:
        raise _late(timeout_s) from None
    except _REFUSALS as error:
        raise refused_argument(error) from error


async def stream(batcher: Batcher, body: SpeechBody, voice: ReadVoice, timeout_s: float) -> AsyncIterator[np.ndarray]:
    """Samples `(T_i,)` of a text as they come; `timeout_s` is what each piece may take. Raises as [`speak`]."""
    speaker, fader = batcher.speaker, Fader(batcher.speaker.sampling_rate)
    generator = speaker.noise(body.seed)
    try:
        rows = await run_in_threadpool(
            speaker.stream_rows, body.input, voice.reference, voice.text, body.speed, generator
        )
        # Lengths may be drawn of the generator that the noise is drawn of: no row is asked for before the last came.
        while (row := await run_in_threadpool(next, rows, None)) is not None:
            async with asyncio.timeout(timeout_s):
                waves = await _answer(batcher.submit_rows([row], generator, **body.sampling))
            if len(known := fader.add(waves[0])):
                yield known
    except TimeoutError:
        raise _late(timeout_s) from None
    except _REFUSALS as error:
        raise refused_argument(error) from error
    if len(rest := fader.end()):
        yield rest


async def begun(
    pieces: AsyncIterator[np.ndarray], hung_up: Callable[[], Awaitable[None]]
) -> AsyncIterator[np.ndarray]:
    """The same pieces, the first of which is there: what is refused is so before an answer has begun."""
    first = await _unless_gone(anext(pieces, None), hung_up)

    async def all_of_them():
        async with aclosing(pieces):
            if first is not None:
                yield first
            async for piece in pieces:
                yield piece

    return all_of_them()


async def _answer(asked: Future, hung_up: Callable[[], Awaitable[None]] | None = None) -> Any:
    """What was asked for. A request that nobody waits for any more is spoken no further."""
    try:
        waiting = asyncio.wrap_future(asked)
        return await (waiting if hung_up is None else _unless_gone(waiting, hung_up))
    finally:
        asked.cancel()


async def _unless_gone(awaited: Awaitable, hung_up: Callable[[], Awaitable[None]]) -> Any:
    answer, gone = asyncio.ensure_future(awaited), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientGone
    finally:
        for task in (answer, gone):
            task.cancel()


def _late(timeout_s: float) -> Refused:
    return Refused(504, f"It was not spoken within {timeout_s:g} s.", code="timeout", retry_after=5)

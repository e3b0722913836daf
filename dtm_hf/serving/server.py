"""Speech over HTTP as OpenAI's interface has it: `/v1/audio/speech`, voices by name, and `/health`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from dtm_hf.frontend.voices import Recording
from dtm_hf.runtime.batcher import Batcher
from dtm_hf.serving.asking import ClientGone, begun, speak, stream
from dtm_hf.serving.encoding import FORMATS, encode, formats_there, to_pcm
from dtm_hf.serving.limits import BearerToken, BoundedBody, Gate, Limits, Refused
from dtm_hf.serving.listening import LOOPBACK_NAMES
from dtm_hf.serving.schema import NO_OBJECT, SpeechBody, check_body, refused_field
from dtm_hf.serving.voices import read_voices

# nginx's status for a client that hung up; nobody reads it.
_CLIENT_CLOSED_REQUEST = 499


def create_app(
    batcher: Batcher,
    voices: Mapping[str, Recording],
    model: str,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: list[str] | None = None,
) -> FastAPI:
    """
    The server; run it with uvicorn.

    Args:
        batcher ([`Batcher`]): who speaks; closed when the server ends.
        voices (`dict` of [`Recording`]): by name; read here, and not again.
        model (`str`): what clients call it.
        limits ([`Limits`], *optional*): what may be asked.
        token (`str`, *optional*): what clients must know; without, anybody who reaches the server may speak.
        hosts (`list[str]`, *optional*): names that the server is called by; `["*"]` for any. By default those of
            loopback, so that no page of the web reaches a server on the machine of who reads it.

    Raises:
        ValueError: without a voice, and for one that cannot be spoken like.
    """
    if not voices:
        raise ValueError("`voices` must hold at least one recording.")
    known = read_voices(batcher.speaker, voices)
    limits, formats, names = limits or Limits(), formats_there(), sorted(voices)
    gate = Gate(limits.max_requests)

    @asynccontextmanager
    async def lifespan(_app: FastAPI):
        yield
        await run_in_threadpool(batcher.close)

    # The pages that FastAPI makes of an interface load scripts from elsewhere.
    app = FastAPI(title="dtm-hf", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(BoundedBody, max_bytes=limits.max_body_bytes, timeout_s=limits.timeout_s)
    app.add_middleware(BearerToken, token=token)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts or LOOPBACK_NAMES)
    _tell_errors(app)

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok", "model": model, "voices": names, "requests": gate.inside, "served": gate.let_in}

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "dtm-hf"}]}

    @app.get("/v1/audio/voices")
    async def list_voices() -> dict:
        return {"voices": [{"id": name, "name": name} for name in names]}

    @app.post("/v1/audio/speech", response_class=Response)
    async def create_speech(body: SpeechBody, request: Request) -> Response:
        check_body(body, model, names, formats, limits)
        voice, rate = known[body.voice_name], batcher.speaker.sampling_rate

        async def hung_up() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        if body.response_format == "pcm":
            media_type = f"audio/pcm;rate={rate};channels=1"
            pieces = _pcm(gate, stream(batcher, body, voice, limits.timeout_s))
            return StreamingResponse(await begun(pieces, hung_up), media_type=media_type)
        with gate.entered():
            audio = await speak(batcher, body, voice, limits.timeout_s, hung_up)
            content = await run_in_threadpool(encode, audio, rate, body.response_format)
        return Response(content, media_type=FORMATS[body.response_format].media_type)

    return app


async def _pcm(gate: Gate, pieces: AsyncIterator[np.ndarray]) -> AsyncIterator[bytes]:
    """A stream as bytes, which counts as a request until its last piece, or until it is given up."""
    with gate.entered():
        async for piece in pieces:
            yield to_pcm(piece)


def _tell_errors(app: FastAPI) -> None:
    """Every error is a JSON object as OpenAI's interface has it."""

    def answer(error: Refused) -> JSONResponse:
        return JSONResponse(error.content, error.status, error.headers)

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def no_such_body(_request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(refused_field(error.errors()))

    @app.exception_handler(HTTPException)
    async def no_such_thing(_request: Request, error: HTTPException) -> JSONResponse:
        # What FastAPI cannot parse: damaged UTF-8, or brackets without end.
        message = NO_OBJECT if error.status_code == 400 else str(error.detail)
        return answer(Refused(error.status_code, message))

    @app.exception_handler(ClientGone)
    async def nobody_there(_request: Request, _error: ClientGone) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def fault(_request: Request, _error: Exception) -> JSONResponse:
        # What went wrong is the affair of the log, where uvicorn writes it: it may name files of this machine.
        return answer(Refused(500, "The server failed; its log says why."))

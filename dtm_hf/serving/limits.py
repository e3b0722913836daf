"""What one client may ask of a server, and all of them together; bodies and tokens are looked at before the rest."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """
    Bounds of a server.

    Args:
        max_characters (`int`, defaults to 4096): of one text, as in OpenAI's interface.
        max_steps (`int`, defaults to 64): global steps, and head calls a step.
        max_requests (`int`, defaults to 64): that are spoken or wait at once; the next is told to come again.
        timeout_s (`float`, defaults to 120): seconds that a whole answer, or the next piece of a stream, may take.
    """

    max_characters: int = 4096
    max_steps: int = 64
    max_requests: int = 64
    timeout_s: float = 120.0

    @property
    def max_body_bytes(self) -> int:
        """A text in which each character is escaped twice over, and room for the other fields."""
        return 12 * self.max_characters + 16 * 2**10


class Refused(Exception):
    """
    A request that is answered with an error.

    Args:
        status (`int`): of HTTP.
        message (`str`): one sentence.
        param (`str`, *optional*): the field that it is about.
        code (`str`, *optional*): a word that programs look for.
        retry_after (`int`, *optional*): seconds after which it may be asked again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @property
    def content(self) -> dict:
        """As OpenAI's interface tells of errors."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Beside the content."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


class Gate:
    """Lets so many requests in at once. Belongs to one event loop."""

    def __init__(self, most: int):
        self.most, self.inside, self.let_in = most, 0, 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """
        Raises:
            Refused: when it is full.
        """
        if self.inside >= self.most:
            raise Refused(
                503, f"{self.most} requests are spoken or wait already; come again.", None, "overloaded", retry_after=1
            )
        self.inside += 1
        self.let_in += 1
        try:
            yield
        finally:
            self.inside -= 1


class BearerToken:
    """ASGI middleware: what lies under `/v1` is for those who know the token."""

    def __init__(self, app, token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and self.token is not None and scope["path"].startswith("/v1"):
            sent = dict(scope["headers"]).get(b"authorization", b"")
            # In the same time, however much of it is right.
            if not secrets.compare_digest(sent, b"Bearer " + self.token.encode()):
                message = "The API key is missing or wrong: send `Authorization: Bearer` with the server's token."
                await _answer(send, Refused(401, message, code="invalid_api_key"))
                return
        await self.app(scope, receive, send)


class BoundedBody:
    """ASGI middleware: reads the body, as much as there may be of it and in the time there is, before it is parsed."""

    def __init__(self, app, max_bytes: int, timeout_s: float):
        self.app, self.max_bytes, self.timeout_s = app, max_bytes, timeout_s

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(scope, receive), self.timeout_s)
        except TimeoutError:
            await _answer(send, Refused(408, f"The body did not come within {self.timeout_s:g} s."))
            return
        except Refused as error:
            await _answer(send, error)
            return
        if body is None:
            return
        given = False

        async def first_the_body():
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, first_the_body, send)

    async def _read(self, scope, receive) -> bytes | None:
        """The body; `None` for a client that hung up."""
        too_long = Refused(413, f"The body must be at most {self.max_bytes} bytes.", "input")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            raise too_long
        parts, length = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            if length > self.max_bytes:
                raise too_long
            if not message.get("more_body", False):
                return b"".join(parts)


async def _answer(send, error: Refused) -> None:
    content = json.dumps(error.content).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), "connection": "close"}
    headers |= error.headers
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})

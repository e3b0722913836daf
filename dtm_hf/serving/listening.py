"""A port of one's own, and a server on it until it is told to end."""

import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit

# What a browser calls a server of its own machine.
LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]


def open_socket(host: str, port: int) -> socket.socket:
    """
    A bound socket: taken before a model is loaded, so that a port that is not free is known at once.

    Args:
        host (`str`): name or address.
        port (`int`): 0 for any that is free.

    Raises:
        OSError: if there is no such host, or its port is taken or not for this user.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise OSError(f"`host` {host!r} is no name or address of this machine: {error.strerror}.") from error
    opened = socket.socket(family, kind, protocol)
    try:
        # A server that ended a moment ago still holds its port for minutes otherwise.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        # Bound beside another that does not listen yet would be found out too late.
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise OSError(
            f"`port` {port} of {host} cannot be taken ({error.strerror}); choose another, or 0 for any that is free."
        ) from error
    opened.set_inheritable(True)
    return opened


def url_of(opened: socket.socket) -> str:
    """What a browser of this machine finds it under."""
    address, port = opened.getsockname()[:2]
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def is_loopback(opened: socket.socket) -> bool:
    """Whether this machine alone reaches it."""
    return ipaddress.ip_address(opened.getsockname()[0].partition("%")[0]).is_loopback


def host_names(opened: socket.socket) -> list[str]:
    """
    What clients may call it: any name where other machines reach it; on loopback the names of that and its own
    address, for another name was made to lead here by a page of the web.
    """
    return [*LOOPBACK_NAMES, urlsplit(url_of(opened)).netloc.rpartition(":")[0]] if is_loopback(opened) else ["*"]


def make_server(app: Any, patience_s: float = 120.0) -> Any:
    """
    A `uvicorn.Server` of an ASGI application: `run(sockets=[...])` lasts until SIGINT or SIGTERM.

    Args:
        app: the application.
        patience_s (`float`, defaults to 120): seconds after which a client that takes nothing of what waits for it is
            hung up on. uvicorn waits for ever, and the request keeps its place.
    """
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Impatient(AutoHTTPProtocol):
        # asyncio calls the two where what waits has become too much, and where most of it is gone.
        def pause_writing(self) -> None:
            super().pause_writing()
            self._hanging_up = self.loop.call_later(patience_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._hanging_up.cancel()
            super().resume_writing()

    # Beyond so many connections they are refused; seconds that the last requests have when it ends.
    config = uvicorn.Config(
        app,
        http=Impatient,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=1000,
        timeout_keep_alive=5,
    )
    config.timeout_graceful_shutdown = 30
    return uvicorn.Server(config)

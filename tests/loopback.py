"""Where a process of the tests looks for the Hub."""

import os
import socket


def environment(url: str, home: os.PathLike | str) -> dict[str, str]:
    """The environment for a process that shall see the Hub at `url` and no other, with its caches under `home`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    return kept | quiet | {"HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}


def free_port() -> int:
    """A port of loopback on which nobody listens, below those that the system gives to outgoing connections."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as candidate:
            if candidate.connect_ex(("127.0.0.1", port)):
                return port
    raise OSError("no port is free")

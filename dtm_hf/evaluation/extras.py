"""Packages that only some judges need."""

from collections.abc import Iterator
from contextlib import contextmanager

EVAL_EXTRA = "dtm-hf[eval]"


@contextmanager
def needs(*packages: str) -> Iterator[None]:
    """
    Around imports: says what to install where one of them is missing.

    Raises:
        ImportError: naming the missing module and `packages`, what pip installs.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        install = " ".join(f'"{package}"' for package in packages)
        raise ImportError(f"`{error.name}` is not installed: pip install {install}", name=error.name) from error

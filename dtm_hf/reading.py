"""
Small files from outside, read within bounds, and values as a message can hold them. Imports the standard library
alone.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A configuration of megabytes is none. Vocabularies and results for cards are the largest, of some 100 kB.
MAX_CONFIG_BYTES = 4 * 2**20
_MAX_SHOWN = 80


def show(value: Any) -> str:
    """A value as a message can hold it: in one line, and not too much of it."""
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."


class Configuration(dict):
    """The content of a configuration; what is missing is told with the name of its file, whenever it is missed."""

    def __init__(self, content: dict[str, Any], source: str | os.PathLike):
        super().__init__(content)
        self._source = os.fspath(source)

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{self._source!r} is damaged: `{name}` is missing.")


@contextmanager
def naming_damage(source: str | os.PathLike) -> Iterator[None]:
    """What of a folder's files is of another kind than it should be becomes a `ValueError` that says of which."""
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{os.fspath(source)!r} is damaged: {type(error).__name__} {show(error)}.") from error


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """
    The content of a configuration.

    Raises:
        ValueError: if it is too large, too deep, not JSON, or not an object.
    """
    text = _read(path)
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{os.fspath(path)!r} is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} is not valid JSON: {show(error)}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{os.fspath(path)!r} must hold names with values, but holds a {type(content).__name__}.")
    return Configuration(content, path)


def read_yaml(path: str | os.PathLike) -> Any:
    """
    The content of a YAML file, in which nothing refers to another place of it: references can double at each level,
    and a few of them fill any memory.

    Raises:
        ValueError: if it is too large, not YAML, or refers to itself.
    """
    import yaml

    text = _read(path)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError(f"{os.fspath(path)!r} must hold no references (`*name`).")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not valid YAML: {' '.join(str(error).split())}") from error


def _read(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        content = file.read(MAX_CONFIG_BYTES + 1)
    if len(content) > MAX_CONFIG_BYTES:
        raise ValueError(f"{os.fspath(path)!r} must be a configuration of at most {MAX_CONFIG_BYTES >> 20} MiB.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)!r} is not text in UTF-8 (byte {error.start}).") from error

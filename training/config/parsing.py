"""Reads a training configuration from YAML and the command line, and refuses what cannot be."""

import reprlib
import typing
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from dtm_hf.training.config.arguments import (
    FORMATS,
    DataArguments,
    LoggingArguments,
    ModelArguments,
    OptimizationArguments,
    TrainingConfig,
)
from dtm_hf.training.config.fields import check_limits, nearest

_COMMON = {
    "model": ModelArguments,
    "data": DataArguments,
    "optimization": OptimizationArguments,
    "logging": LoggingArguments,
}
# Of values in messages, which aliases in a file make as large as they like.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200
# Sections in which a file may have the keys of any objective: once there was no section for each.
_FLAT = ("model", "images", "objective", "optimization")
# They describe the one `dataset`; `sources` has each for itself.
_SHORT_FORM = "dataset_format dataset_config dataset_revision audio_column text_column speaker_column".split()


def parse_sections(argv: list[str], objectives: dict[str, type]) -> TrainingConfig:
    """
    Read `--config FILE.yaml` and the `--field value` overrides that follow it.

    Args:
        argv (`list[str]`): the command line.
        objectives (`dict[str, type]`): the section of each objective, a dataclass of [`option`]s. Fields of one
            name in several of them are one option.

    Raises:
        ValueError: for an unknown section or key (with the nearest valid name), a wrong type or an impossible value.
    """
    from transformers import HfArgumentParser

    entries = _all_fields(objectives)
    parser = HfArgumentParser(
        _options(objectives),
        description="Train a flow head, a backbone from scratch, or a few-step student.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="YAML file with one mapping per section: " + ", ".join(_keys(objectives)))
    parser.exit_on_error = False
    path = _config_path(argv)
    if path is not None:
        parser.set_defaults(**read_yaml(path, objectives))
    try:
        parsed, rest = parser.parse_known_args(argv)
    except ArgumentError as error:
        raise ValueError(f"Command line: {error}") from error
    unknown = [text for text in rest if text.startswith("--")]
    if unknown:
        raise ValueError(f"Unknown option {unknown[0]}{nearest(unknown[0].lstrip('-').split('=')[0], entries)}.")
    values = vars(parsed)
    _check(values, entries, objectives)
    sections = _COMMON | {"objective": objectives[values["objective"]]}
    made = {name: section(**{e.name: values[e.name] for e in fields(section)}) for name, section in sections.items()}
    config = TrainingConfig(**made)
    _check_sources(config.data)
    return config


def _all_fields(objectives: Mapping[str, type]) -> dict[str, Field]:
    """The fields of all sections by name."""
    return {entry.name: entry for section in (*_COMMON.values(), *objectives.values()) for entry in fields(section)}


def _options(objectives: dict[str, type]) -> list[type]:
    """
    All fields for the parser, each once, in dataclasses that are groups of `--help`: the common sections, and what the
    same objectives have. The parser would take the limits of a field for its own settings.
    """
    sections, groups = _COMMON | objectives, {}
    for name, entry in _all_fields(objectives).items():
        owners = tuple(owner for owner, section in sections.items() if name in _types(section))
        text = entry.metadata["help"]
        if name == "objective":
            text = f"{text} {'; '.join(section.__doc__.strip().rstrip('.') for section in objectives.values())}"
        which = "default_factory" if entry.default is MISSING else "default"
        made = field(**{which: getattr(entry, which)}, metadata={"help": text})
        groups.setdefault(owners, []).append((name, entry.type, made))
    return [
        make_dataclass("Options", made, namespace={"_argument_group_name": ", ".join(owners)})
        for owners, made in groups.items()
    ]


@cache
def _types(section: type) -> Mapping[str, Any]:
    # Hints are evaluated from strings, which takes seconds for all fields of all sections again and again.
    hints = typing.get_type_hints(section)
    return MappingProxyType({entry.name: hints[entry.name] for entry in fields(section)})


def _keys(objectives: Mapping[str, type]) -> dict[str, dict[str, Any]]:
    """The keys that each section of a file may have, with their types."""
    own = {name: _types(section) for name, section in objectives.items()}
    of_any = {key: kind for types in own.values() for key, kind in types.items()}
    keys = {name: _types(section) for name, section in _COMMON.items()} | own
    return keys | {name: keys.get(name, {}) | of_any for name in _FLAT}


def _config_path(argv: list[str]) -> Path | None:
    for i, text in enumerate(argv):
        if text == "--config" and i + 1 < len(argv):
            return Path(argv[i + 1])
        if text.startswith("--config="):
            return Path(text.split("=", 1)[1])
    return None


def read_yaml(path: Path, objectives: Mapping[str, type]) -> dict[str, object]:
    """The flat fields of a configuration file, checked for section, name and type."""
    if not path.is_file():
        raise ValueError(f"`--config` must name a YAML file, but got {str(path)!r}.")
    content = _load_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of sections, but got {type(content).__name__}.")
    keys, values = _keys(objectives), {}
    for section, entries in content.items():
        if section not in keys:
            raise ValueError(f"{path}: unknown section {section!r}{nearest(section, keys)}.")
        types, entries = keys[section], {} if entries is None else entries
        if not isinstance(entries, dict):
            raise ValueError(f"{path}: section {section} must be a mapping, but got {_shown(entries)}.")
        for key, value in entries.items():
            if key not in types:
                raise ValueError(f"{path}: unknown key {section}.{key}{nearest(key, types)}.")
            checked = _checked(f"{path}: {section}.{key}", value, types[key])
            if values.setdefault(key, checked) != checked:
                raise ValueError(
                    f"{path}: {section}.{key} is {_shown(value)}, but another section says {_shown(values[key])}."
                )
    return values


def _load_yaml(path: Path) -> object:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f" line {mark.line + 1}, column {mark.column + 1}:"
        raise ValueError(f"{path}:{place} it is no YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{path}: it is no YAML: {reason}.") from error
    except OSError as error:
        raise ValueError(f"`--config` {str(path)!r} cannot be read: {error.strerror or error}.") from error
    return {} if content is None else content


def _shown(value: object) -> str:
    return _SHORT.repr(value)


def _checked(name: str, value: object, expected: object) -> object:
    is_list = typing.get_origin(expected) is list
    accepted = (expected,) if is_list else typing.get_args(expected) or (expected,)
    lists = [kind for kind in accepted if typing.get_origin(kind) is list]
    if lists and not (value is None and type(None) in accepted):
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, but got {_shown(value)}.")
        (kind,) = typing.get_args(lists[0])
        if is_dataclass(kind):
            return [_entry(f"{name}[{i}]", item, kind) for i, item in enumerate(value)]
        return [_checked(name, item, kind) for item in value]
    if float in accepted and isinstance(value, str):
        # YAML reads 1e-4, without a dot, as a string.
        try:
            value = float(value)
        except ValueError:
            pass
    if float in accepted and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) not in accepted:
        names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in accepted)
        raise ValueError(f"{name} must be of type {names}, but got {_shown(value)}.")
    return value


def _entry(name: str, value: object, kind: type):
    """A dataclass from one entry of a list."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, but got {_shown(value)}.")
    types = typing.get_type_hints(kind)
    for key in value:
        if key not in types:
            raise ValueError(f"{name}: unknown key {key!r}{nearest(key, types)}.")
    for entry in fields(kind):
        if entry.name not in value and entry.default is MISSING:
            raise ValueError(f"{name} must have a {entry.name!r}, but got {_shown(value)}.")
    return kind(**{key: _checked(f"{name}.{key}", item, types[key]) for key, item in value.items()})


def _check_sources(data: DataArguments) -> None:
    if bool(data.dataset) == bool(data.sources):
        given = f"{data.dataset!r} and {len(data.sources)} `sources`" if data.dataset else "neither"
        raise ValueError(f"`dataset` must name a folder or a Hub dataset, or `sources` list several, but got {given}.")
    defaults = DataArguments()
    for name in _SHORT_FORM:
        if data.sources and getattr(data, name) != getattr(defaults, name):
            raise ValueError(f"`{name}` belongs to `dataset`; with `sources`, give it in each of them.")
    for source in data.all_sources():
        if source.format is not None and source.format not in FORMATS:
            raise ValueError(
                f"The format of {source.dataset!r} must be one of {FORMATS}, but got {source.format!r}"
                f"{nearest(source.format, FORMATS)}."
            )
        if not 0 < source.weight < float("inf"):
            raise ValueError(f"`weight` of {source.dataset!r} must be greater than 0, but got {source.weight}.")
    if data.pair_probability > 0 and not any(source.speaker_column for source in data.all_sources()):
        raise ValueError("`pair_probability` joins clips of one speaker and needs a `speaker_column`, but got none.")


def _check(values: Mapping[str, Any], entries: Mapping[str, Field], objectives: Mapping[str, type]) -> None:
    """Refuse impossible values before anything is loaded."""
    if values["mixed_precision"] == "fp16":
        raise ValueError(
            "`mixed_precision` must be 'no' or 'bf16', but got 'fp16': small updates would be lost and large ones "
            "overflow."
        )
    if values["objective"] not in objectives:
        raise ValueError(
            f"`objective` must be one of {tuple(objectives)}, but got {values['objective']!r}"
            f"{nearest(values['objective'], objectives)}."
        )
    for name, entry in entries.items():
        check_limits(entry, values[name])
    # The spectrogram reflects 512 samples at both ends.
    if not 0.03 <= values["min_seconds"] < values["max_seconds"]:
        raise ValueError(
            f"`min_seconds` must lie in [0.03, max_seconds), but got {values['min_seconds']} of "
            f"{values['max_seconds']}."
        )

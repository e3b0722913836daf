"""
Who says what, and in which shard: decided once, before anything is spoken, from the number of each row alone. So what
becomes of a row depends neither on how many speak nor on what was interrupted.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dtm_hf.files import folder_written_aside
from dtm_hf.reading import read_json, show

MAX_SHARDS = 512
MAX_CHARACTERS = 20_000
_SETTINGS, _BAD = "settings.json", "bad.jsonl"


@dataclass(frozen=True)
class PlannedRow:
    """One text: which of the source's rows it is, what is said, by whom, and from which noise."""

    id: int
    text: str
    voice: str
    seed: int


def draw(seed: int, row: int, what: str, below: int = 2**63) -> int:
    """A number that seed and row decide, the same everywhere."""
    digest = blake2b(f"{seed}/{row}/{what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % below


def make_plan(
    folder: Path,
    settings: dict[str, Any],
    rows: Iterable[dict[str, Any]],
    voices: list[str],
    text_column: str,
    voice_column: str,
) -> None:
    """
    Write the plan of all rows, in shuffled shards, complete or not at all.

    Args:
        folder (`Path`): of the plan.
        settings (`dict`): what decides the speech; `seed` and `num_shards` among them.
        rows (iterable of `dict`): texts, and where they say so, their voices.
        voices (`list[str]`): names; a row without one gets one of them, by its number.
        text_column (`str`), voice_column (`str`): of the rows.

    Raises:
        ValueError: if no row has the text column.
    """
    columns: set[str] = set()
    seed, shards, known = settings["seed"], settings["num_shards"], frozenset(voices)
    with folder_written_aside(folder) as aside:
        with ExitStack() as stack:
            files = [stack.enter_context(open(aside / _shard(k), "w", encoding="utf-8")) for k in range(shards)]
            bad = stack.enter_context(open(aside / _BAD, "w", encoding="utf-8"))
            for number, row in enumerate(rows):
                columns |= row.keys()
                planned = _plan_row(number, row, seed, voices, known, text_column, voice_column)
                if isinstance(planned, str):
                    bad.write(json.dumps({"id": number, "error": planned}) + "\n")
                else:
                    files[draw(seed, number, "shard", shards)].write(json.dumps(asdict(planned)) + "\n")
        if text_column not in columns:
            held = f"has the columns {show(sorted(columns))}" if columns else "holds no row"
            raise ValueError(f"`--text-column` {text_column!r} is none of `--texts`, which {held}.")
        for k in range(shards):
            # Shuffled inside of the shard as well.
            lines = (aside / _shard(k)).read_text(encoding="utf-8").splitlines()
            lines.sort(key=lambda line: draw(seed, json.loads(line)["id"], "order"))
            (aside / _shard(k)).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (aside / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _plan_row(
    number: int,
    row: dict[str, Any],
    seed: int,
    voices: list[str],
    known: frozenset[str],
    text_column: str,
    voice_column: str,
) -> PlannedRow | str:
    """A [`PlannedRow`], or why there is none."""
    text, voice = row.get(text_column), row.get(voice_column)
    if not isinstance(text, str) or not text.strip():
        return f"`{text_column}` must be a text, but got {show(text)}."
    if len(text) > MAX_CHARACTERS:
        return f"`{text_column}` must be at most {MAX_CHARACTERS} characters, but got {len(text)}."
    if voice is None:
        voice = voices[draw(seed, number, "voice", len(voices))]
    if not isinstance(voice, str) or voice not in known:
        return f"`{voice_column}` must be one of the {len(voices)} voices, but got {show(voice)}."
    return PlannedRow(number, text, voice, draw(seed, number, "seed"))


def has_plan(folder: Path) -> bool:
    """Whether there is a plan; one that is there is complete."""
    return (folder / _SETTINGS).is_file()


def plan_settings(folder: Path) -> dict[str, Any]:
    """What a plan was made for."""
    return read_json(folder / _SETTINGS)


def check_plan(folder: Path, settings: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: if a plan was made for other settings.
    """
    present = plan_settings(folder)
    other = [name for name in {**present, **settings} if present.get(name) != settings.get(name)]
    if other:
        raise ValueError(
            f"`--output` {str(folder.parent.parent)!r} was begun with another `{other[0]}`: "
            f"{show(present.get(other[0]))}, and not {show(settings.get(other[0]))}. Name another folder."
        )


def planned_rows(folder: Path, shard: int) -> list[PlannedRow]:
    """The rows of a shard, in its order."""
    with open(folder / _shard(shard), encoding="utf-8") as file:
        return [PlannedRow(**json.loads(line)) for line in file]


def bad_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """`id` and `error` of the source's rows that are none."""
    with open(folder / _BAD, encoding="utf-8") as file:
        yield from map(json.loads, file)


def _shard(number: int) -> str:
    return f"shard-{number:05d}.jsonl"

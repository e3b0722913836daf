"""A table of texts in, an archive of WAVs out."""

import csv
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dtm_hf.reading import show

MAX_TABLE_BYTES = 2**20
MAX_ROWS = 500
COLUMNS = ("text", "voice", "seed", "speed")


@dataclass(frozen=True)
class TableRow:
    """What a row asks for; `None` where it says nothing."""

    text: str
    voice: str | None = None
    seed: int | None = None
    speed: float | None = None


def read_table(path: str | os.PathLike) -> list[TableRow | ValueError]:
    """
    The rows of a CSV with a header: `text`, and if it likes `voice`, `seed` and `speed`. A row that is none is the
    error that says why.

    Raises:
        ValueError: for a file that is too large, no text in UTF-8, no table, without the column `text` or a row, or
            with too many.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_TABLE_BYTES + 1)
    if len(content) > MAX_TABLE_BYTES:
        raise ValueError(f"The table must be at most {MAX_TABLE_BYTES >> 10} KiB.")
    try:
        lines = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The table must be a CSV in UTF-8, but byte {error.start} of it is no text.") from error
    if "\0" in lines:
        raise ValueError("The table must be a CSV in UTF-8, but holds bytes that are no text.")
    reader = csv.DictReader(io.StringIO(lines, newline=""), skipinitialspace=True)
    try:
        if "text" not in (reader.fieldnames or ()):
            raise ValueError(f"The table must have a column “text”, but has {show(reader.fieldnames or [])}.")
        rows = []
        for row in reader:
            if len(rows) == MAX_ROWS:
                raise ValueError(f"The table must have at most {MAX_ROWS} rows.")
            rows.append(_row(row))
    except csv.Error as error:
        raise ValueError(f"The table is no CSV: {error} (line {reader.line_num}).") from error
    if not rows:
        raise ValueError("The table must have at least one row below its header.")
    return rows


def _row(row: dict[str, str | None]) -> TableRow | ValueError:
    given = {name: (row.get(name) or "").strip() or None for name in COLUMNS}
    if given["text"] is None:
        return ValueError("“text” is empty.")
    seed = speed = None
    try:
        seed = None if given["seed"] is None else int(given["seed"])
        speed = None if given["speed"] is None else float(given["speed"])
    except ValueError:
        return ValueError(f"“seed” and “speed” must be numbers, but got {show(given['seed'] or given['speed'])}.")
    return TableRow(given["text"], given["voice"], seed, speed)


def write_archive(
    rows: list[TableRow | ValueError],
    path: Path,
    speak: Callable[[TableRow], bytes],
    words: Callable[[Exception], str],
    failures: list[str],
) -> Iterator[int]:
    """
    Writes `0001.wav`, ... and `index.csv`, which says of each row what became of it. What is in a row names no file.

    Args:
        rows (`list`): as of [`read_table`].
        path (`Path`): of the archive.
        speak (`Callable`): the WAV of a row, or a `ValueError`.
        words (`Callable`): an error as the page says it.
        failures (`list[str]`): gets a line for each row that cannot be spoken.

    Yields:
        `int`: how many rows are done.
    """
    index = io.StringIO(newline="")
    table = csv.writer(index)
    table.writerow(["file", "text", "voice", "seed", "speed", "error"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, row in enumerate(rows, start=1):
            name, error = f"{number:04d}.wav", row if isinstance(row, ValueError) else None
            if error is None:
                try:
                    archive.writestr(name, speak(row))
                except (ValueError, TypeError) as refused:
                    error = refused
            told = "" if error is None else words(error)
            if error is not None:
                failures.append(f"row {number}: {told}")
            fields = [""] * 4 if isinstance(row, ValueError) else [row.text, row.voice, row.seed, row.speed]
            table.writerow(["" if error is not None else name, *fields, told])
            yield number
        archive.writestr("index.csv", index.getvalue())

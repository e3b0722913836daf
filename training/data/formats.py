"""
How the rows of one file are read, for each format.

A reader takes a [`Shard`] and the names of the columns that are needed, and yields `(index, row)`: the number of the
row in the file, and its fields by name. It holds a few rows at a time. A row, or a field, that cannot be parsed is a
[`BadRow`] in its place; what makes the rest of the file unreadable is raised.
"""

import csv
import json
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from dtm_hf.training.data.rows import BadRow

Row = dict | BadRow


@dataclass(frozen=True)
class Shard:
    """A file, or each `parts`-th row of a file from the row `part` on."""

    name: str
    """What logs call the file: its path inside the folder or repository."""
    path: str
    """Local path or `hf://` address."""
    part: int = 0
    parts: int = 1


# Rows decoded at a time: a row group is often thousands of clips.
_TABLE_ROWS = 64
# "folder/key.field": the field is all that follows the first dot of the file's name.
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_FILE_COLUMNS = ("file_name", "audio_file", "image_file")


def open_file(path: str, mode: str = "rb", **options):
    """Open a local path or an `hf://` address; reads over the network are repeated when they fail."""
    if "://" not in path:
        return open(path, mode, **options)
    from datasets.utils.file_utils import xopen

    return xopen(path, mode, **options)


# Parquet


def parquet_columns(shard: Shard, *_files: str) -> list[str]:
    import pyarrow.parquet as pq

    with open_file(shard.path) as file:
        return pq.read_schema(file).names


def parquet_rows(shard: Shard, columns: list[str], *_files: str) -> Iterator[tuple[int, Row]]:
    # Not through `datasets`, which sends a request (to count a download) and writes a lock file for each shard.
    import pyarrow.parquet as pq

    index = 0
    with open_file(shard.path) as file:
        table = pq.ParquetFile(file)
        for batch in table.iter_batches(_TABLE_ROWS, columns=list(dict.fromkeys(columns)), use_threads=False):
            for row in batch.to_pylist():
                yield index, row
                index += 1


# WebDataset


class _Member(tarfile.TarInfo):
    """A member that raises where `tarfile` takes a broken header behind the first for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"broken archive: {error}") from error


def tar_columns(shard: Shard, *_files: str) -> list[str]:
    """The fields of the first ten rows, or of those before the archive breaks."""
    found: dict[str, None] = {}
    try:
        for _, row in islice(tar_rows(shard), 10):
            found |= dict.fromkeys(row)
    except Exception:
        if not found:
            raise
    return list(found)


def tar_rows(shard: Shard, columns: list[str] | None = None, *_files: str) -> Iterator[tuple[int, Row]]:
    # Not the reader of datasets: it infers one schema from the first five rows, and a row that does not fit, or one
    # malformed JSON, ends the shard.
    index, key, row = 0, None, {}
    with open_file(shard.path) as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as archive:
        for member in archive:
            match = _MEMBER.fullmatch(member.name)
            if not member.isfile() or match is None:
                continue
            name, field = match[1], match[2].lower()
            if name != key or field in row:
                if row:
                    yield index, row
                    index += 1
                key, row = name, {"__key__": name}
            content = archive.extractfile(member).read()
            row[field] = _parse_json(content) if field.split(".")[-1] == "json" else content
    if row:
        yield index, row


def _parse_json(content: bytes | str):
    try:
        return json.loads(content)
    except ValueError:
        return BadRow("malformed JSON")


# A folder of audio or image files with a table of their texts


def metadata_columns(shard: Shard, file_field: str, path_field: str) -> list[str]:
    """Those of the header, or of the first ten JSON lines, and `file_field` for the file that a row names."""
    rows = (row for _, row in islice(metadata_rows(shard, [], file_field, path_field), 10))
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def metadata_rows(shard: Shard, columns: list[str], file_field: str, path_field: str) -> Iterator[tuple[int, Row]]:
    """
    Lines of JSON (`*.jsonl`), or a table with a header, separated by `|` (as F5-TTS has it) or by commas. The file
    that a row names is also its field `file_field`; the field `path_field` holds paths.

    A table is read line by line: a quotation mark that is never closed costs one row and not the rest of the file.
    """
    with open_file(shard.path, "r", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = (line for line in (line.strip("\r\n") for line in file) if line)
        parse = _parse_json if shard.path.endswith(".jsonl") else _Table(next(lines))
        for index, line in enumerate(lines):
            if index % shard.parts == shard.part:
                yield index, _parse_line(line, parse, posixpath.dirname(shard.name), file_field, path_field)


def metadata_length(path: str) -> int:
    """Lines of the file: about as many as it has rows."""
    with open_file(path) as file:
        return sum(1 for _ in file)


def _parse_line(line: str, parse, folder: str, file_field: str, path_field: str) -> Row:
    try:
        line.encode()
    except UnicodeEncodeError:
        return BadRow("metadata that is not UTF-8")
    row = parse(line)
    if not isinstance(row, dict):
        return BadRow("malformed metadata")
    row = {file_field: next((row[name] for name in _FILE_COLUMNS if name in row), None)} | row
    if isinstance(row.get(path_field), str):
        # The table names files from its own folder on.
        row[path_field] = posixpath.join(folder, row[path_field])
    return row


class _Table:
    """Parses the lines below a header."""

    def __init__(self, header: str):
        self.delimiter = "|" if "|" in header else ","
        self.names = [name.strip() for name in next(csv.reader([header], delimiter=self.delimiter))]

    def __call__(self, line: str) -> dict | None:
        try:
            fields = next(csv.reader([line], delimiter=self.delimiter, strict=True))
        except csv.Error:
            # Speech that begins with a quotation mark, not a quoted field.
            fields = line.split(self.delimiter)
        if len(fields) != len(self.names):
            return None
        return dict(zip(self.names, (field.strip() for field in fields), strict=True))


# The format that F5-TTS prepares


def _arrow_table(path: str):
    from datasets import Dataset

    # Mapped into memory, not read into it.
    return Dataset.from_file(path)


def arrow_columns(shard: Shard, file_field: str, *_files: str) -> list[str]:
    return [file_field, *_arrow_table(shard.path).column_names]


def arrow_length(path: str) -> int:
    return len(_arrow_table(path))


def arrow_rows(shard: Shard, columns: list[str], file_field: str, *_files: str) -> Iterator[tuple[int, Row]]:
    table = _arrow_table(shard.path)
    for index in range(shard.part, len(table), shard.parts):
        row = table[index]
        yield index, {file_field: row.get("audio_path")} | row

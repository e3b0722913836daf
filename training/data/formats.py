"""
How the rows of one file are read, for each format.

A reader takes a [`Shard`] and the names of the columns that are needed, and yields `(index, row)`: the number of the
row in the file, and its fields by name. It holds a few rows at a time. A row, or a field, that cannot be parsed is a
[`BadRow`] in its place; what makes the rest of the file unreadable is raised.
"""

import json
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
TOO_LARGE = "row of more than 256 MiB"
# More than this no row is, of whatever media: what says that it is larger is not read.
MAX_ROW_BYTES = 2**28
_MAX_HEADER_BYTES = 2**20


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

    index, columns = 0, list(dict.fromkeys(columns))
    with open_file(shard.path) as file:
        table = pq.ParquetFile(file)
        for number in range(table.num_row_groups):
            rows, size = _declared(table.metadata.row_group(number), columns)
            if size > MAX_ROW_BYTES * rows:
                yield from ((index + i, BadRow(TOO_LARGE)) for i in range(rows))
                index += rows
                continue
            at_once = max(1, min(_TABLE_ROWS, MAX_ROW_BYTES * rows // max(size, 1)))
            for batch in table.iter_batches(at_once, row_groups=[number], columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    yield index, row
                    index += 1


def _declared(group, columns: list[str]) -> tuple[int, int]:
    """Rows of a group, and the bytes that its columns have when they are unpacked."""
    chunks = (group.column(i) for i in range(group.num_columns))
    return group.num_rows, sum(
        chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns
    )


# WebDataset


_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _Member(tarfile.TarInfo):
    """
    A member that raises where `tarfile` takes a broken header behind the first for the end of the archive, and at a
    header that is larger than any.
    """

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"broken archive: {error}") from error

    def _proc_member(self, archive):
        # Long names and the like are read whole.
        if self.type in _HEADERS and self.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"broken archive: a header of {self.size} bytes")
        return super()._proc_member(archive)


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
    index, key, row, size = 0, None, {}, 0
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
                key, row, size = name, {"__key__": name}, 0
            # What it says of itself: a sparse or a packed member may be tiny in the file.
            size += member.size
            if size > MAX_ROW_BYTES:
                row[field] = BadRow(TOO_LARGE)
                continue
            content = archive.extractfile(member).read()
            row[field] = parse_json(content) if field.split(".")[-1] == "json" else content
    if row:
        yield index, row


def parse_json(content: bytes | str):
    """What it says; a [`BadRow`] if it is malformed, or nested too deeply to be read."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return BadRow("malformed JSON")


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

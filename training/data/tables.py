"""
A table of texts beside the files that it names: `metadata.csv` or `metadata.jsonl`.

A table is read line by line: a quotation mark that is never closed costs one row and not the rest of the file.
"""

import csv
import posixpath
from collections.abc import Iterator
from itertools import chain, islice

from dtm_hf.training.data.formats import Row, Shard, open_file, parse_json
from dtm_hf.training.data.rows import BadRow

#: Columns that name a file, where the configuration names none.
FILE_COLUMNS = ("file_name", "audio_file", "image_file")
# The first that fits is taken: a comma is in any text.
_DELIMITERS = "|\t;,"
_FILE_ENDINGS = tuple(".wav .flac .mp3 .ogg .opus .m4a .aac .aif .aiff .webm .png .jpg .jpeg .webp".split())
_HELP = "Put a line like `file_name|text` on top that names the columns, or write a metadata.jsonl"


def metadata_columns(shard: Shard, file_field: str, path_field: str, text_field: str) -> list[str]:
    """Those of the header, or of the first ten JSON lines, and `file_field` for the file that a row names."""
    with _open(shard) as file:
        lines = _lines(file)
        if shard.path.endswith(".jsonl"):
            rows = (parse_json(line) for _, line in islice(lines, 10))
            names = list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))
        else:
            names = Table(shard, lines, path_field, text_field).names
    return [file_field, *names] if set(names).intersection(FILE_COLUMNS) else names


def metadata_rows(
    shard: Shard, columns: list[str], file_field: str, path_field: str, text_field: str
) -> Iterator[tuple[int, Row]]:
    """
    Lines of JSON (`*.jsonl`), or of a [`Table`]. The file that a row names is also its field `file_field`; the field
    `path_field` holds paths.

    Raises:
        ValueError: if the first line of a table does not say what its fields are; the message has the line.
    """
    with _open(shard) as file:
        lines = _lines(file)
        table = None if shard.path.endswith(".jsonl") else Table(shard, lines, path_field, text_field)
        if table is not None and table.first is not None:
            lines = chain([table.first], lines)
        for index, (number, line) in enumerate(lines):
            if index % shard.parts == shard.part:
                row = _parse_line(number, line, table)
                if isinstance(row, dict):
                    row = _with_paths(row, posixpath.dirname(shard.name), file_field, path_field)
                yield index, row


def metadata_length(path: str) -> int:
    """Lines of the file: about as many as it has rows."""
    with open_file(path) as file:
        return sum(1 for _ in file)


def _open(shard: Shard):
    return open_file(shard.path, "r", encoding="utf-8-sig", errors="surrogateescape", newline="")


def _lines(file) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their number in the file."""
    stripped = ((number, line.strip("\r\n")) for number, line in enumerate(file, 1))
    return ((number, line) for number, line in stripped if line)


def _parse_line(number: int, line: str, table: "Table | None") -> Row:
    try:
        line.encode()
    except UnicodeEncodeError:
        return BadRow("metadata that is not UTF-8", f"line {number}")
    if table is not None:
        return table(number, line)
    row = parse_json(line)
    return row if isinstance(row, dict) else BadRow("malformed metadata", f"line {number} is no JSON object")


def _with_paths(row: dict, folder: str, file_field: str, path_field: str) -> dict:
    named = next((row[name] for name in FILE_COLUMNS if name in row), None)
    row = ({} if named is None else {file_field: named}) | row
    if isinstance(row.get(path_field), str):
        # The table names files from its own folder on.
        row[path_field] = posixpath.join(folder, row[path_field])
    return row


class Table:
    """
    Parses lines of fields between `|` (as F5-TTS has it), tabs, `;` or commas, below a header that names them. Without
    a header: a file and its text, or LJSpeech's name, text and normalised text, of which the last is `text_field`.

    Between commas or `;` the text may hold more of them, unquoted.

    Args:
        shard ([`Shard`]): the file, for messages.
        lines: its numbered lines; the header is taken from them.
        path_field, text_field (`str`): columns that the configuration names.

    Raises:
        ValueError: if the first line is neither a header nor a row.
    """

    def __init__(self, shard: Shard, lines: Iterator[tuple[int, str]], path_field: str, text_field: str):
        self.text_field, self.shard = text_field, shard
        #: The first line if it is a row.
        self.first: tuple[int, str] | None = None
        number, line = next(lines, (1, ""))
        if not line:
            raise ValueError(f"{shard.name} is empty.")
        try:
            line.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{shard.name}: line {number} is not UTF-8. Save the file as UTF-8.") from None
        known = {*FILE_COLUMNS, path_field, text_field}
        headers = {delimiter: _split(line, delimiter) for delimiter in _DELIMITERS}
        named = {delimiter: len(known.intersection(names)) for delimiter, names in headers.items()}
        self.delimiter = max(_DELIMITERS, key=named.__getitem__)
        self.names = headers[self.delimiter]
        if named[self.delimiter] == 0:
            self.first = number, line
            self._guess(number, line)

    def _guess(self, number: int, line: str) -> None:
        """The columns of a table without a header."""
        shown = line if len(line) <= 80 else f"{line[:77]}..."
        problem = f"{self.shard.name}: line {number}, {shown!r}, "
        for self.delimiter in _DELIMITERS:
            fields = _split(line, self.delimiter)
            if len(fields) < 2 or not fields[0]:
                continue
            if fields[0].lower().endswith(_FILE_ENDINGS):
                self.names = ["file_name", self.text_field]
                text = line.split(self.delimiter, 1)[1]
                if len(fields) > 2 and not (self.delimiter in ",;" and _is_prose(text, self.delimiter)):
                    raise ValueError(
                        f"{problem}names a file and {len(fields) - 1} more fields, of which any may be the "
                        f"text. {_HELP}."
                    )
                return
            if self.delimiter == "|" and len(fields) <= 3 and self._path_of(fields[0]) is not None:
                self.names = ["file_name", self.text_field]
                if len(fields) == 3:
                    self.names = [
                        "file_name",
                        "raw_text",
                        "text" if self.text_field == "raw_text" else self.text_field,
                    ]
                return
        raise ValueError(
            f"{problem}is no header, which would have a column {' or '.join(map(repr, FILE_COLUMNS))} or those that "
            f"the configuration names, nor a file and its text. {_HELP}."
        )

    def _path_of(self, name: str) -> str | None:
        """The file that LJSpeech means by a name without an ending; none if it is not there."""
        places = [f"wavs/{name}.wav", f"{name}.wav"]
        if "://" in self.shard.path:
            return places[0]
        folder = posixpath.dirname(self.shard.path)
        return next((place for place in places if posixpath.isfile(posixpath.join(folder, place))), None)

    def __call__(self, number: int, line: str) -> Row:
        fields = _split(line, self.delimiter)
        if len(fields) > len(self.names) and self.delimiter in ",;" and self.text_field in self.names:
            fields = self._folded(line)
        if len(fields) != len(self.names):
            return BadRow(
                "malformed metadata",
                f"line {number} has {len(fields)} fields in the place of {len(self.names)}, {self.names}: a text with "
                f"{self.delimiter!r} in it must be in quotation marks, or the table be a metadata.jsonl",
            )
        row = dict(zip(self.names, fields, strict=True))
        if self.first is not None and not posixpath.splitext(row["file_name"])[1]:
            row["file_name"] = self._path_of(row["file_name"]) or row["file_name"]
        return row

    def _folded(self, line: str) -> list[str]:
        """The fields of a line whose text has delimiters in it, if no other field has."""
        fields, before = line.split(self.delimiter), self.names.index(self.text_field)
        end = len(fields) - (len(self.names) - 1 - before)
        text = self.delimiter.join(fields[before:end])
        return [field.strip() for field in (*fields[:before], text, *fields[end:])]


def _split(line: str, delimiter: str) -> list[str]:
    try:
        fields = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        # Speech that begins with a quotation mark, not a quoted field.
        fields = line.split(delimiter)
    return [field.strip() for field in fields]


def _is_prose(text: str, delimiter: str) -> bool:
    """Whether a blank follows each delimiter, as it does in a sentence, and not between fields."""
    return all(part[:1].isspace() for part in text.split(delimiter)[1:])

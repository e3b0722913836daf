"""
Where rows come from: a source is a list of shards, and a way to read the rows of one.

    source = open_source(SourceArguments(dataset="org/speech"), "train", {"audio": "mp3", "text": "json.text"})
    for shard in source.shards:
        try:
            for index, row in source.rows(shard):
                try:
                    audio, text = source.content(row, "audio"), source.text(row)
                except BadRow as reason:
                    ...
        except UnreadableShard as error:
            ...

`index` counts the rows of the file `shard.name`. `content` is encoded bytes as they are stored. Nothing is decoded
here, and only the files that `content` is asked for are opened. Sources are small and can be sent to another process.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.data import formats, tables
from dtm_hf.training.data.formats import Row, Shard
from dtm_hf.training.data.rows import BadRow

_READERS = {
    "parquet": (formats.parquet_columns, formats.parquet_rows),
    "webdataset": (formats.tar_columns, formats.tar_rows),
    "audiofolder": (tables.metadata_columns, tables.metadata_rows),
    "imagefolder": (tables.metadata_columns, tables.metadata_rows),
    "f5": (formats.arrow_columns, formats.arrow_rows),
}
# A table of texts beside the files.
_FOLDERS = ("audiofolder", "imagefolder")
_METADATA = ("metadata.csv", "metadata.jsonl")
# Tables of texts lie in one file; so many of their rows make a shard.
_PART_ROWS = 1000


class NoSuchSplit(ValueError):
    """A source that is there, but without the split that was asked for."""


class UnreadableShard(RuntimeError):
    """A shard that cannot be read, or not to its end."""


@dataclass(frozen=True)
class Source:
    """
    Args:
        arguments ([`SourceArguments`]): Name and weight of the data set.
        columns (`dict[str, str]`): The column of each role, as [`Maker.columns`] has them.
        format (`str`): `parquet`, `webdataset`, `audiofolder`, `imagefolder` or `f5`.
        root (`str`): Folder, or `hf://` address of the repository at the commit that is read.
        shards (`list[Shard]`): In an order that depends on the names alone.
    """

    arguments: SourceArguments
    columns: Mapping[str, str | None]
    format: str
    root: str
    shards: list[Shard]

    @property
    def fingerprint(self) -> str:
        """Differs when the shards have other names or are of another commit; a folder may be moved."""
        names = [f"{shard.name} {shard.part}/{shard.parts}" for shard in self.shards]
        if _is_remote(self.root):
            names.append(self.root)
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]

    def rows(self, shard: Shard, start: int = 0) -> Iterator[tuple[int, Row]]:
        """
        Rows of a shard from the `start`-th on, with their number in the file.

        Raises:
            UnreadableShard: when the shard, or the rest of it, cannot be read.
        """
        _, read = _READERS[self.format]
        names = [name.split(".")[0] for name in self.columns.values() if name]
        try:
            yield from islice(read(shard, names, *self._files), start, None)
        except Exception as error:
            raise UnreadableShard(f"{type(error).__name__}: {error}") from error

    def readable_rows(self) -> Iterator[Row]:
        """Rows of all shards; a shard that cannot be read is passed over: the loader of the training says so."""
        for shard in self.shards:
            with suppress(UnreadableShard):
                yield from (row for _, row in self.rows(shard))

    def content(self, row: Row, role: str) -> bytes:
        """
        What a row holds, or the file that it names: encoded audio, say.

        Raises:
            BadRow: if there is none, or the file it names is absent or outside the folder.
        """
        value = _field(row, self.columns[role])
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value:
            raise BadRow(f"no {role}")
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise BadRow(f"{role} that is neither bytes nor a path")
        try:
            path = self._file(value, role)
            if not _is_remote(path) and not Path(path).is_file():
                raise BadRow(f"{role} file that cannot be opened", value[:200])
            with formats.open_file(path) as file:
                content = file.read(formats.MAX_ROW_BYTES + 1)
        except (OSError, ValueError) as error:
            raise error if isinstance(error, BadRow) else BadRow(f"{role} file that cannot be opened") from error
        if len(content) > formats.MAX_ROW_BYTES:
            raise BadRow(formats.TOO_LARGE)
        return content

    def value(self, row: Row, role: str):
        """
        What a row holds for a role, as its format has it; none if there is nothing.

        Raises:
            BadRow: if it cannot be read.
        """
        return _field(row, self.columns[role])

    def text(self, row: Row) -> str | list[str]:
        """
        The text of a row; tokens where it has been tokenized.

        Raises:
            BadRow: if it is not UTF-8.
        """
        value = _field(row, self.columns["text"])
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise BadRow("text that is not UTF-8") from error
        if isinstance(value, list) and all(isinstance(token, str) for token in value):
            return value
        return value if isinstance(value, str) else ""

    def label(self, row: Row, role: str) -> str | None:
        """What a row says for a role, who speaks say; none where the source has no such column."""
        value = _field(row, self.columns[role]) if self.columns[role] else None
        return None if value is None else str(value)

    @property
    def _files(self) -> tuple[str, str, str]:
        """
        Of a table of files: what the field is called that has the path of a row's file, and the columns of paths and
        of texts.
        """
        role, column = next(iter(self.columns.items()))
        return role, (column or role).split(".")[0], self.columns["text"].split(".")[0]

    def _file(self, name: str, role: str) -> str:
        if _is_remote(self.root):
            path = posixpath.normpath(name)
            if path.startswith(("/", "..")) or "::" in path or "//" in name:
                raise BadRow(f"{role} file outside the folder")
            return f"{self.root}/{path}"
        root = Path(self.root).resolve()
        if self.format == "f5" and Path(name).exists():
            # Its preparation writes the paths that it was given.
            return name
        path = (root / name).resolve()
        if self.format != "f5" and not path.is_relative_to(root):
            raise BadRow(f"{role} file outside the folder")
        return str(path)


def open_source(arguments: SourceArguments, split: str, columns: Mapping[str, str | None] | None = None) -> Source:
    """
    Find the shards of a split and check that they have the columns.

    Args:
        columns (`dict[str, str]`, *optional*): The column of each role, as [`Maker.columns`] has them; those of speech
            that the arguments name by default.

    Raises:
        ValueError: if there is no such folder or data set, no such split or column, or no shard can be read.
    """
    folder = Path(arguments.dataset).expanduser()
    kind, root, shards = _local(arguments, folder, split) if folder.is_dir() else _remote(arguments, split)
    source = Source(arguments, columns or arguments.columns, kind, root, shards)
    _check_columns(source)
    return source


def _check_columns(source: Source) -> None:
    find_columns, _ = _READERS[source.format]
    found, failure = None, None
    for shard in source.shards:
        try:
            found = find_columns(shard, *source._files)
            break
        except Exception as error:
            failure = error
    name = source.arguments.dataset
    if found is None:
        raise ValueError(f"`dataset` {name!r}: none of its {len(source.shards)} shards can be read: {failure}")
    for role, column in source.columns.items():
        if column and column not in found and column.split(".")[0] not in found:
            names = f", and a file is named by {' or '.join(tables.FILE_COLUMNS)}" if source.format in _FOLDERS else ""
            raise ValueError(f"`dataset` {name!r} has no column {column!r} (`{role}_column`); it has {found}{names}.")


# Folders


def _local(arguments: SourceArguments, folder: Path, split: str) -> tuple[str, str, list[Shard]]:
    kind = arguments.format or local_format(folder)
    if kind == "parquet":
        files, wanted = sorted(folder.glob(f"{split}-*.parquet")), f"{split}-*.parquet shards"
    elif kind == "webdataset":
        files, wanted = _tars(folder, split), f"tars of the split {split!r}"
    elif kind in _FOLDERS:
        files, wanted = _metadata(folder, split), f"{' or '.join(_METADATA)} of the split {split!r}"
    else:
        # The format knows no splits.
        files = sorted((folder / "raw").glob("data-*.arrow")) or sorted(folder.glob("raw.arrow"))
        files, wanted = files if split == "train" else [], f"split {split!r}: the format of F5-TTS has `train` alone"
    if not files:
        raise NoSuchSplit(f"`dataset` {arguments.dataset!r} holds no {wanted}.")
    shards = [Shard(path.relative_to(folder).as_posix(), str(path)) for path in files]
    return kind, str(folder), _parted(kind, shards)


def local_format(folder: Path) -> str:
    """
    The format of what a folder holds; `audiofolder` where a table names files.

    Raises:
        ValueError: if it is none that is known.
    """
    if (folder / "raw.arrow").is_file() or (folder / "raw").is_dir() and (folder / "duration.json").is_file():
        return "f5"
    for kind, pattern in (("parquet", "*.parquet"), ("webdataset", "*.tar"), ("webdataset", "*/*.tar")):
        if next(folder.glob(pattern), None) is not None:
            return kind
    if any(next(folder.glob(f"{depth}{name}"), None) for name in _METADATA for depth in ("", "*/")):
        return "audiofolder"
    raise ValueError(
        f"`dataset` {str(folder)!r} must hold parquet shards, tars, a {' or '.join(_METADATA)}, or a raw.arrow, "
        "but got none of them."
    )


def _tars(folder: Path, split: str) -> list[Path]:
    """The tars whose path in the folder begins with the split; for `train` all, unless some begin with another."""
    tars = sorted(folder.rglob("*.tar"))

    def begins(path: Path, name: str) -> bool:
        return re.match(rf"{re.escape(name)}[-._/\d]", path.relative_to(folder).as_posix()) is not None

    named = [path for path in tars if begins(path, split)]
    if named or split != "train":
        return named
    return [path for path in tars if not any(begins(path, other) for other in ("validation", "test"))]


def _metadata(folder: Path, split: str) -> list[Path]:
    """The table in the folder of the split; for `train` also that of the folder itself."""
    places = [folder / split, folder] if split == "train" else [folder / split]
    found = (place / name for place in places for name in _METADATA)
    return [path for path in found if path.is_file()][:1]


def _parted(kind: str, shards: list[Shard]) -> list[Shard]:
    length = {"f5": formats.arrow_length, **dict.fromkeys(_FOLDERS, tables.metadata_length)}.get(kind)
    if length is None:
        return shards
    parted = []
    for shard in shards:
        try:
            parts = max(1, -(-length(shard.path) // _PART_ROWS))
        except Exception:
            # The reader will say what is wrong with it.
            parts = 1
        parted += [Shard(shard.name, shard.path, part, parts) for part in range(parts)]
    return parted


# The Hub


def _is_remote(path: str) -> bool:
    return "://" in path


def _remote(arguments: SourceArguments, split: str) -> tuple[str, str, list[Shard]]:
    from datasets import load_dataset_builder

    name = arguments.dataset
    try:
        builder = load_dataset_builder(name, arguments.config, revision=arguments.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"`dataset` {name!r} is no folder here, and on the Hub: {error}") from error
    kind = builder.__module__.split(".")[-1]
    if kind not in _READERS or arguments.format not in (None, kind):
        wanted = repr(arguments.format) if arguments.format else "one of parquet, webdataset, audiofolder, imagefolder"
        raise ValueError(f"`dataset` {name!r} must be {wanted}, but the Hub holds it as {kind!r}.")
    files = builder.config.data_files.get(split)
    if not files:
        raise NoSuchSplit(f"`dataset` {name!r} has no split {split!r}; it has {sorted(builder.config.data_files)}.")
    root = builder.base_path
    if kind in _FOLDERS:
        files = [path for path in files if posixpath.basename(path) in _METADATA]
        if not files:
            raise NoSuchSplit(f"`dataset` {name!r} holds no {' or '.join(_METADATA)} for the split {split!r}.")
    shards = [Shard(path.removeprefix(f"{root}/"), path) for path in sorted(files)]
    return kind, root, _parted(kind, shards)


# Columns


def _field(row: Row, column: str):
    """A column, or what a dotted path reaches inside one; none if there is nothing."""
    if isinstance(row, BadRow):
        raise row
    if column in row:
        value = row[column]
    else:
        value = row
        for part in column.split("."):
            if isinstance(value, BadRow):
                break
            value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, BadRow):
        raise value
    return value

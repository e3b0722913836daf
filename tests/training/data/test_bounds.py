"""Rows that are tiny in their file and say that they are huge, or are nested without end: each costs itself."""

import gzip
import io
import json
import os
import tarfile
import tracemalloc

import pytest
from speech_corpora import short_rows, tar_members, write_audio_files, write_parquet, write_tar

from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.data import formats
from dtm_hf.training.data.formats import TOO_LARGE
from dtm_hf.training.data.rows import BadRow
from dtm_hf.training.data.sources import open_source

ROWS = short_rows(3)
WEB = {"audio_column": "wav", "text_column": "json.text", "speaker_column": "json.speaker"}


@pytest.fixture(autouse=True)
def a_megabyte(monkeypatch):
    """In the place of 256, so that the tests themselves need no more."""
    monkeypatch.setattr(formats, "MAX_ROW_BYTES", 2**20)


def found(folder, **arguments):
    """Texts, or reasons, and that no memory was taken for what is only declared."""
    source, seen = open_source(SourceArguments(str(folder), **arguments), "train"), []
    tracemalloc.start()
    try:
        for shard in source.shards:
            for _, row in source.rows(shard):
                try:
                    source.content(row, "audio")
                    seen.append(source.text(row))
                except BadRow as reason:
                    seen.append(str(reason))
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    return seen


def sparse_header(name, size):
    """A member of the old GNU format that holds one byte and is `size` bytes long when it is read."""
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"%011o\0" % 0, b"%011o\0" % 512
    header[483:495] = b"\x80" + (size).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"\1" * 512


def test_a_sparse_member_costs_its_row(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", tar_members(ROWS)).read_bytes()
    (tmp_path / "whole.tar").unlink()
    second = whole.index(b"EN_000001.wav")
    (tmp_path / "0.tar").write_bytes(
        whole[:second] + sparse_header("EN_big.wav", 10 * 2**40) + sparse_header("EN_big.json", 8) + whole[second:]
    )
    texts = [row["text"] for row in ROWS]
    assert found(tmp_path, **WEB) == [texts[0], TOO_LARGE, *texts[1:]]


def test_a_packed_member_costs_its_row(tmp_path):
    with gzip.open(tmp_path / "0.tar", "wb", compresslevel=1) as file:
        members = tar_members(ROWS)
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in members[:2]:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            info = tarfile.TarInfo("EN_big.wav")
            info.size = 2**20 + 1
            archive.addfile(info, _Zeros())
            for name, content in members[2:]:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    texts = [row["text"] for row in ROWS]
    assert found(tmp_path, **WEB) == [texts[0], TOO_LARGE, *texts[1:]]


class _Zeros:
    def read(self, size):
        return bytes(size)


def test_a_header_that_is_larger_than_any_is_not_read(tmp_path):
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    good = write_tar(tmp_path / "0.tar", tar_members(ROWS)).read_bytes()
    (tmp_path / "0.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + good)
    with pytest.raises(ValueError, match="broken archive: a header of 4294967296 bytes"):
        open_source(SourceArguments(str(tmp_path), **WEB), "train")


@pytest.mark.parametrize("bomb", [b"[" * 200_000, b'{"a":' * 200_000], ids=["lists", "mappings"])
def test_deep_json_costs_its_row(tmp_path, bomb):
    members = tar_members(ROWS)
    members[3] = (members[3][0], bomb)
    write_tar(tmp_path / "web" / "0.tar", members)
    texts = [row["text"] for row in ROWS]
    assert members[3][0].endswith(".json") and found(tmp_path / "web", **WEB) == [texts[0], "malformed JSON", texts[2]]
    names = write_audio_files(tmp_path / "clips", ROWS)
    lines = [json.dumps({"file_name": n, "text": r["text"]}).encode() for n, r in zip(names, ROWS, strict=True)]
    lines[1] = bomb
    (tmp_path / "clips" / "metadata.jsonl").write_bytes(b"\n".join(lines))
    assert found(tmp_path / "clips", speaker_column=None) == [texts[0], "malformed metadata", texts[2]]


def test_a_packed_group_of_parquet_costs_its_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_parquet(tmp_path, ROWS)
    path = next(tmp_path.glob("*.parquet"))
    table = pq.read_table(path)
    bomb = table.slice(0, 1).to_pylist()
    bomb[0]["audio"]["bytes"] = bytes(2**20 + 1)
    with pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False) as writer:
        writer.write_table(table.slice(0, 1))
        writer.write_table(pa.Table.from_pylist(bomb, schema=table.schema))
        writer.write_table(table.slice(1))
    assert path.stat().st_size < 2**20
    texts = [row["text"] for row in ROWS]
    assert found(tmp_path) == [texts[0], TOO_LARGE, *texts[1:]]


def test_a_file_that_is_named_is_a_file_of_some_size(tmp_path):
    names = write_audio_files(tmp_path, ROWS)
    os.mkfifo(tmp_path / "wavs" / "pipe.wav")
    with open(tmp_path / "wavs" / "large.wav", "wb") as file:
        file.truncate(2**20 + 1)
    lines = [f"{name}|said" for name in ("wavs/pipe.wav", names[0])]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name|text", *lines]))
    assert found(tmp_path, speaker_column=None) == ["audio file that cannot be opened", "said"]
    (tmp_path / "metadata.csv").write_text("file_name|text\nwavs/large.wav|said")
    source = open_source(SourceArguments(str(tmp_path), speaker_column=None), "train")
    ((_, row),) = source.rows(source.shards[0])
    with pytest.raises(BadRow, match=TOO_LARGE):
        source.content(row, "audio")

"""Sources: each format gives the same rows; what is wrong with a folder is said; shards that break are noticed."""

import json
import pickle

import pytest
from speech_corpora import encoded, short_rows, tar_members, write_audio_files, write_parquet, write_tar
from tiny import voice

from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.data.rows import BadRow
from dtm_hf.training.data.sources import NoSuchSplit, UnreadableShard, open_source

ROWS = short_rows(7)
WEB = {"audio_column": "wav", "text_column": "json.text", "speaker_column": "json.speaker"}


def contents(source):
    """(audio, text, speaker) of all rows, or the reason."""
    found = []
    for shard in source.shards:
        for _, entry in source.rows(shard):
            try:
                found.append((source.content(entry, "audio"), source.text(entry), source.label(entry, "speaker")))
            except BadRow as reason:
                found.append(str(reason))
    return found


def expected(rows, speaker=True):
    return [(r["audio"]["bytes"], r["text"], r["speaker"] if speaker else None) for r in rows]


# Formats


def test_parquet(tmp_path):
    write_parquet(tmp_path, ROWS, shards=3)
    write_parquet(tmp_path, ROWS[:2], split="validation")
    source = open_source(SourceArguments(str(tmp_path)), "train")
    assert source.format == "parquet"
    assert [shard.name for shard in source.shards] == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    assert contents(source) == expected(ROWS[0::3] + ROWS[1::3] + ROWS[2::3])
    assert [index for index, _ in source.rows(source.shards[0], start=1)] == [1, 2]
    assert contents(open_source(SourceArguments(str(tmp_path)), "validation")) == expected(ROWS[:2])


def test_parquet_with_plain_bytes_and_nested_columns(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"flac": r["audio"]["bytes"], "meta": {"text": r["text"], "by": i}} for i, r in enumerate(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-0.parquet")
    columns = {"audio_column": "flac", "text_column": "meta.text", "speaker_column": "meta.by"}
    found = contents(open_source(SourceArguments(str(tmp_path), **columns), "train"))
    assert found == [(r["audio"]["bytes"], r["text"], str(i)) for i, r in enumerate(ROWS)]


def test_webdataset(tmp_path):
    write_tar(tmp_path / "EN-B000.tar", tar_members(ROWS[:4]))
    write_tar(tmp_path / "EN-B001.tar", tar_members(ROWS[4:]))
    source = open_source(SourceArguments(str(tmp_path), **WEB), "train")
    assert source.format == "webdataset" and len(source.shards) == 2
    assert contents(source) == expected(ROWS)
    assert len(pickle.loads(pickle.dumps(source)).shards) == 2


def test_splits_of_a_webdataset(tmp_path):
    for name in ("train-0.tar", "sub/more.tar", "validation/0.tar", "test_0.tar", "testimony.tar"):
        write_tar(tmp_path / name, tar_members(ROWS[:1]))

    def names(split):
        return [shard.name for shard in open_source(SourceArguments(str(tmp_path), **WEB), split).shards]

    assert names("train") == ["train-0.tar"]
    assert names("validation") == ["validation/0.tar"]
    (tmp_path / "train-0.tar").unlink()
    assert names("train") == ["sub/more.tar", "testimony.tar"]
    with pytest.raises(NoSuchSplit, match="holds no tars of the split 'dev'"):
        names("dev")


def test_a_bad_row_in_a_tar_costs_one_row(tmp_path):
    members = tar_members(ROWS)
    members[1] = (members[1][0], b"{not json")
    members[3] = (members[3][0], json.dumps({"text": "no speaker"}).encode())
    del members[6]
    members += [("README", b"no field"), ("EN_x.wav", b""), ("EN_x.json", b"[]")]
    write_tar(tmp_path / "0.tar", members)
    found = contents(open_source(SourceArguments(str(tmp_path), **WEB), "train"))
    good = expected(ROWS)
    assert found[0] == "malformed JSON" and found[1] == (*good[1][:1], "no speaker", None)
    assert found[3] == "no audio" and found[7] == "no audio" and found[2:3] + found[4:7] == good[2:3] + good[4:]


METADATA = {
    "metadata.csv": ("file_name,text,speaker", lambda n, r: f"{n},{r['text']},{r['speaker']}"),
    "metadata.jsonl": (None, lambda n, r: json.dumps({"file_name": n, "text": r["text"], "speaker": r["speaker"]})),
}


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("place", [".", "train"])
def test_audio_folder(tmp_path, name, place):
    folder = tmp_path / place
    names = write_audio_files(folder, ROWS)
    header, line = METADATA[name]
    lines = [header] if header else []
    lines += [line(*pair) for pair in zip(names, ROWS, strict=True)]
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    source = open_source(SourceArguments(str(tmp_path)), "train")
    assert source.format == "audiofolder" and contents(source) == expected(ROWS)


def test_the_table_of_f5(tmp_path):
    """`audio_file|text`: quotation marks are speech unless the whole field is quoted; none swallows what follows."""
    names = write_audio_files(tmp_path, ROWS)
    texts = ['"Yes," he said.', '"Never closed', 'A "word".', '"All ""quoted"" | here"', "plain", "too|many", "last"]
    lines = ["audio_file|text", *(f"{name}|{text}" for name, text in zip(names, texts, strict=True)), "alone", ""]
    (tmp_path / "metadata.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig") + b"\nwavs/0.wav|\xff\n")
    source = open_source(SourceArguments(str(tmp_path), speaker_column=None), "train")
    found = contents(source)
    said = ['"Yes," he said.', '"Never closed', 'A "word".', 'All "quoted" | here', "plain"]
    assert [entry[1] for entry in found[:5]] == said
    malformed = "malformed metadata"
    assert found[5:] == [malformed, (ROWS[6]["audio"]["bytes"], "last", None), malformed, "metadata that is not UTF-8"]


def test_paths_never_leave_the_folder(tmp_path):
    folder = tmp_path / "inside"
    (name,) = write_audio_files(folder, ROWS[:1])
    secret = tmp_path / "secret.wav"
    secret.write_bytes(encoded(voice(0.1)))
    (folder / "link.wav").symlink_to(secret)
    good = [name, "./wavs/../wavs/0.wav", str(folder / name)]
    outside = ["../secret.wav", str(secret), "link.wav", "wavs/../../secret.wav"]
    absent = ["wavs/1.wav", "wavs", "a\0b", "https://example.org/a.wav", ""]
    lines = [json.dumps({"file_name": name, "text": "x"}) for name in good + outside + absent]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    found = contents(open_source(SourceArguments(str(folder), speaker_column=None), "train"))
    assert [entry[0] for entry in found[:3]] == [ROWS[0]["audio"]["bytes"]] * 3
    assert found[3:7] == ["audio file outside the folder"] * 4
    assert found[7:] == ["audio file that cannot be opened"] * 4 + ["no audio"]


@pytest.mark.parametrize("tokenized", [False, True])
def test_the_format_that_f5_prepares(tmp_path, tokenized):
    from datasets.arrow_writer import ArrowWriter

    elsewhere = tmp_path / "elsewhere"
    names = write_audio_files(elsewhere, ROWS)
    folder = tmp_path / "prepared"
    folder.mkdir()
    texts = [list(r["text"]) if tokenized else r["text"] for r in ROWS]
    with ArrowWriter(path=str(folder / "raw.arrow")) as writer:
        for name, text in zip(names, texts, strict=True):
            writer.write({"audio_path": str(elsewhere / name), "text": text, "duration": 0.02})
        writer.finalize()
    (folder / "duration.json").write_text(json.dumps({"duration": [0.02] * len(ROWS)}))
    source = open_source(SourceArguments(str(folder), speaker_column=None), "train")
    assert source.format == "f5"
    assert contents(source) == [(r["audio"]["bytes"], text, None) for r, text in zip(ROWS, texts, strict=True)]
    with pytest.raises(NoSuchSplit, match="no split 'validation'.*`train` alone"):
        open_source(SourceArguments(str(folder)), "validation")


def test_a_long_table_is_several_shards(tmp_path):
    write_audio_files(tmp_path, ROWS[:1])
    lines = [json.dumps({"file_name": "wavs/0.wav", "text": str(i)}) for i in range(2500)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(SourceArguments(str(tmp_path), speaker_column=None), "train")
    assert len(source.shards) == 3
    rows = [[(index, source.text(entry)) for index, entry in source.rows(shard)] for shard in source.shards]
    assert sorted(sum(rows, [])) == [(i, str(i)) for i in range(2500)]
    assert [index for index, _ in rows[1][:3]] == [1, 4, 7]


# What is wrong


def test_a_dataset_that_is_not_there(tmp_path):
    write_parquet(tmp_path / "corpus", ROWS)
    with pytest.raises(NoSuchSplit, match=r"corpus'.* holds no validation-\*\.parquet shards"):
        open_source(SourceArguments(str(tmp_path / "corpus")), "validation")
    with pytest.raises(ValueError, match="no column 'transcript'.*`text_column`.*'text'"):
        open_source(SourceArguments(str(tmp_path / "corpus"), text_column="transcript"), "train")
    with pytest.raises(ValueError, match="no column 'json.text'"):
        open_source(SourceArguments(str(tmp_path / "corpus"), text_column="json.text"), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold parquet shards, tars, a metadata.csv"):
        open_source(SourceArguments(str(tmp_path / "empty")), "train")


def test_a_format_that_is_given(tmp_path):
    write_parquet(tmp_path, ROWS)
    write_tar(tmp_path / "0.tar", tar_members(ROWS[:2]))
    assert open_source(SourceArguments(str(tmp_path)), "train").format == "parquet"
    source = open_source(SourceArguments(str(tmp_path), format="webdataset", **WEB), "train")
    assert contents(source) == expected(ROWS[:2])


def rows_until_it_breaks(source, shard):
    count = 0
    with pytest.raises(UnreadableShard) as error:
        for _ in source.rows(shard):
            count += 1
    return count, str(error.value)


def test_parquet_that_is_broken(tmp_path):
    rows = short_rows(120)
    write_parquet(tmp_path, rows, shards=3)
    first, second, _ = sorted(tmp_path.glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-100])
    source = open_source(SourceArguments(str(tmp_path)), "train")
    assert rows_until_it_breaks(source, source.shards[0])[0] == 0
    for path in tmp_path.glob("*.parquet"):
        path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="none of its 3 shards can be read: .*ArrowInvalid|Parquet"):
        open_source(SourceArguments(str(tmp_path)), "train")


@pytest.mark.parametrize(
    # What came last may have lost a part, and is not read.
    ("place", "count"),
    [("in a member", 3), ("in a header", 2), ("before a header", 2), ("broken header", 2)],
)
def test_a_tar_that_is_broken(tmp_path, place, count):
    path = write_tar(tmp_path / "0.tar", tar_members(ROWS))
    content = bytearray(path.read_bytes())
    header = content.index(b"EN_000003.wav")
    if place == "broken header":
        content[header : header + 100] = b"\xff" * 100
    else:
        del content[header + {"in a member": 700, "in a header": 100, "before a header": 0}[place] :]
    path.write_bytes(content)
    source = open_source(SourceArguments(str(tmp_path), **WEB), "train")
    assert rows_until_it_breaks(source, source.shards[0])[0] == count


def test_arrow_that_is_broken(tmp_path):
    (tmp_path / "raw.arrow").write_bytes(b"ARROW1" + bytes(100))
    with pytest.raises(ValueError, match="none of its 1 shards can be read"):
        open_source(SourceArguments(str(tmp_path)), "train")


def test_names_that_are_patterns(tmp_path):
    folder = write_parquet(tmp_path / "speech [en] *", ROWS)
    assert contents(open_source(SourceArguments(str(folder)), "train")) == expected(ROWS)


def test_a_moved_folder_keeps_its_fingerprint(tmp_path):
    one = open_source(SourceArguments(str(write_parquet(tmp_path / "a", ROWS, shards=2))), "train")
    two = open_source(SourceArguments(str(write_parquet(tmp_path / "b", ROWS, shards=2))), "train")
    more = open_source(SourceArguments(str(write_parquet(tmp_path / "c", ROWS, shards=3))), "train")
    assert one.fingerprint == two.fingerprint != more.fingerprint

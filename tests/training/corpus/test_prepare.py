"""Preparing a corpus: every good row once, shards of even size, and the same bytes however often it is cut short."""

import io
import itertools
import json
import os
import resource
import signal
import time

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import soundfile
from processes import Forked, command, processes, wait_until
from speech_corpora import encoded, row, short_rows, tar_members, write_audio_files, write_parquet, write_tar
from tiny import voice
from typer.testing import CliRunner

from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.corpus import shuffle
from dtm_hf.training.corpus.__main__ import app
from dtm_hf.training.corpus.passes import RowChecks, SourceUnavailable, store_shard, unit_folder
from dtm_hf.training.corpus.prepare import Preparation, prepare
from dtm_hf.training.data.formats import Shard
from dtm_hf.training.data.sources import Source, UnreadableShard, open_source
from dtm_hf.training.speech.rows import build_loader

ROWS = short_rows(50)
WEB = {"audio_column": "wav", "text_column": "json.text", "speaker_column": "json.speaker"}
# The clips of `short_rows` last 20 ms.
CHECKS = RowChecks(min_seconds=0.01)


def preparation(folder, columns=None, **settings):
    source = SourceArguments(str(folder), **(columns or {}))
    return Preparation(source, **{"rows_per_shard": 8, "checks": CHECKS} | settings)


def contents(folder, split="train"):
    return [row for path in sorted(folder.glob(f"{split}-*")) for row in pq.read_table(path).to_pylist()]


def audio_of(rows):
    return [entry["audio"]["bytes"] for entry in rows]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("source"), ROWS, shards=4)


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    return out, prepare(preparation(source, num_validation=7), out, workers=1)


# What is written


def test_each_row_once_in_shards_of_even_size(prepared):
    out, manifest = prepared
    sizes = {path.name: pq.read_metadata(path).num_rows for path in out.glob("*.parquet")}
    assert sizes == manifest["shards"]
    train = [size for name, size in sizes.items() if name.startswith("train-")]
    assert sorted(train) == [7, 7, 7, 7, 7, 8] and sizes["validation-00000-of-00001.parquet"] == 7
    found = contents(out) + contents(out, "validation")
    originals = {entry["audio"]["bytes"]: entry for entry in ROWS}
    assert len(found) == 50 and {entry["audio"]["bytes"] for entry in found} == originals.keys()
    for entry in found:
        original = originals[entry["audio"]["bytes"]]
        assert (entry["text"], entry["speaker"]) == (original["text"], original["speaker"])
        assert entry["duration"] == soundfile.info(io.BytesIO(entry["audio"]["bytes"])).frames / 24000
        name, number = entry["audio"]["path"].split("/")
        assert number.endswith(".wav") and ROWS[int(name[6:11]) :: 4][int(number[:-4])] is original


def test_the_order_is_random_and_the_seeds(prepared, source, tmp_path):
    out, _ = prepared
    order = {audio: i for i, audio in enumerate(audio_of(ROWS))}
    places = [order[audio] for audio in audio_of(contents(out, "validation") + contents(out))]
    # Neither the order of the source nor shard after shard: 50 independent places correlate by 0.14, one deviation.
    shards = [place % 4 for place in places]
    assert abs(np.corrcoef(places, range(50))[0, 1]) < 0.5 and sum(a == b for a, b in itertools.pairwise(shards)) < 25
    prepare(preparation(source, num_validation=7, seed=1), tmp_path / "out", workers=1)
    assert audio_of(contents(tmp_path / "out")) != audio_of(contents(out))


def test_card_and_manifest(prepared, source):
    out, manifest = prepared
    assert set(files_of(out)) == {"README.md", "manifest.json", "skipped.jsonl", *manifest["shards"]}
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert manifest["rows"] == 50 and manifest["skipped"] == {} and manifest["broken_shards"] == []
    assert manifest["bytes"] == sum(len(audio) for audio in audio_of(ROWS))
    assert manifest["arguments"]["seed"] == 0 and manifest["arguments"]["source"]["dataset"] == str(source)
    from datasets import Audio, load_dataset

    # The header of the card tells which files are data.
    loaded = load_dataset(str(out), streaming=True)
    assert set(loaded) == {"train", "validation"} and loaded["train"].features["audio"] == Audio()
    rows = list(loaded["validation"].cast_column("audio", Audio(decode=False)))
    assert audio_of(rows) == audio_of(contents(out, "validation"))


def test_training_reads_it(prepared, tokenizer, feature_extractor):
    out, _ = prepared
    arguments = DataArguments(dataset=str(out), min_seconds=0.01, num_workers=0)
    loader = build_loader(arguments, "validation", tokenizer, feature_extractor, seed=0, endless=False)
    lengths = sorted(int(n) for batch in loader for n in batch["num_samples"])
    assert lengths == sorted(round(entry["duration"] * 24000) for entry in contents(out, "validation"))


@pytest.mark.parametrize("kind", ["webdataset", "audiofolder"])
def test_other_sources(kind, tmp_path):
    folder, columns = tmp_path / "source", {}
    if kind == "webdataset":
        columns = WEB
        write_tar(folder / "a.tar", tar_members(ROWS[:9]))
        write_tar(folder / "b.tar", tar_members(ROWS[9:20]))
    else:
        names = write_audio_files(folder, ROWS[:20])
        lines = [f"{n},{r['text']},{r['speaker']}" for n, r in zip(names, ROWS, strict=False)]
        (folder / "metadata.csv").write_text("\n".join(["file_name,text,speaker", *lines]))
    prepare(preparation(folder, columns), tmp_path / "out", workers=1)
    found = sorted((r["audio"]["bytes"], r["text"], r["speaker"]) for r in contents(tmp_path / "out"))
    assert found == sorted((r["audio"]["bytes"], r["text"], r["speaker"]) for r in ROWS[:20])


def test_the_tokens_of_f5_stay_tokens(tmp_path):
    from datasets.arrow_writer import ArrowWriter

    (folder := tmp_path / "source").mkdir()
    names = write_audio_files(folder, ROWS[:5])
    texts = [[" ", "ni3", " ", "hao3", str(i)] for i in range(5)]
    with ArrowWriter(path=str(folder / "raw.arrow")) as writer:
        for name, text in zip(names, texts, strict=True):
            writer.write({"audio_path": str(folder / name), "text": text, "duration": 0.02})
        writer.finalize()
    prepare(preparation(folder, {"speaker_column": None}), tmp_path / "out", workers=1)
    read = open_source(SourceArguments(str(tmp_path / "out")), "train")
    found = [(read.content(r, "audio"), read.text(r), read.label(r, "speaker")) for _, r in read.rows(read.shards[0])]
    assert sorted(found) == sorted((a, t, None) for a, t in zip(audio_of(ROWS[:5]), texts, strict=True))


def test_encoding_anew(tmp_path):
    stereo = np.stack([voice(1.0, pitch=110), voice(1.0, pitch=110)], axis=1)
    content = encoded(stereo, rate=16000, container="OGG", subtype=None)
    write_parquet(tmp_path / "source", [row(0, 1.0, content=content)])
    wanted = preparation(tmp_path / "source", checks=RowChecks(sampling_rate=24000))
    prepare(wanted, tmp_path / "out", workers=1)
    (found,) = contents(tmp_path / "out")
    info = soundfile.info(io.BytesIO(found["audio"]["bytes"]))
    assert (info.format, info.samplerate, info.channels, info.subtype) == ("FLAC", 24000, 1, "PCM_16")
    assert found["duration"] == info.frames / 24000 == 1.5 and found["audio"]["path"].endswith(".flac")


def test_the_size_of_a_shard_in_megabytes():
    wanted = preparation("any", rows_per_shard=None, shard_size_mb=2)
    assert list(wanted.shard_sizes(1001, 9_800_000).values()) == [200, 200, 200, 200, 201]
    assert wanted.shard_sizes(3, 10**9) == {f"train-{i:05d}-of-00003.parquet": 1 for i in range(3)}
    assert wanted.shard_sizes(10, 5) == {"train-00000-of-00001.parquet": 10}


# What is left out


def test_bad_rows_are_counted_and_listed(tmp_path):
    rows = short_rows(12)
    bad = {
        0: ({"content": b"no sound"}, "undecodable audio"),
        2: ({"content": b""}, "no audio"),
        3: ({"content": encoded(np.zeros(4800))}, "silent audio"),
        4: ({"content": encoded(np.full(4800, np.nan))}, "audio with NaN or infinity"),
        6: ({"seconds": 0.005}, "shorter than 0.01 s"),
        7: ({"seconds": 2.0}, "longer than 1.5 s"),
        9: ({"content": encoded(voice(1.0), container="MP3", subtype=None)[:2000]}, "audio cut off"),
        10: ({"seconds": 0.1, "text": " "}, "empty text"),
    }
    for i, (settings, _) in bad.items():
        rows[i] = row(i, **{"seconds": 0.1} | settings)
    write_parquet(tmp_path / "source", rows, shards=2)
    broken = tmp_path / "source/train-00002-of-00002.parquet"
    broken.write_bytes(b"PAR1 and no more")
    wanted = preparation(tmp_path / "source", checks=RowChecks(min_seconds=0.01, max_seconds=1.5))
    manifest = prepare(wanted, tmp_path / "out", workers=1)
    lines = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    listed = {2 * entry["row"] + int(entry["shard"][6:11]): entry["reason"] for entry in lines[:-1]}
    assert listed == {i: reason for i, (_, reason) in bad.items()}
    assert manifest["skipped"] == {reason: 1 for _, reason in bad.values()} and manifest["rows"] == 4
    assert manifest["broken_shards"] == [broken.name] == [lines[-1]["shard"]] and lines[-1]["row"] is None
    assert set(audio_of(contents(tmp_path / "out"))) == set(audio_of(rows[i] for i in (1, 5, 8, 11)))
    assert "1 silent audio" in (card := (tmp_path / "out/README.md").read_text()) and broken.name in card


def test_a_tar_that_breaks_off_is_kept_up_to_there(tmp_path):
    tar = write_tar(tmp_path / "source/0.tar", tar_members(ROWS[:20]))
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    manifest = prepare(preparation(tmp_path / "source", WEB), tmp_path / "out", workers=1)
    assert 5 < manifest["rows"] < 15 and manifest["broken_shards"] == ["0.tar"]
    assert set(audio_of(contents(tmp_path / "out"))) == set(audio_of(ROWS[: manifest["rows"]]))


def test_a_network_that_fails_is_no_broken_shard(tmp_path):
    class Cut(Source):
        def rows(self, shard, start=0):
            yield 0, ROWS[0]
            raise UnreadableShard("gone") from failures[-1]

    arguments, failures = SourceArguments("org/speech"), []
    source = Cut(arguments, arguments.columns, "parquet", "hf://datasets/org/speech@0", [])
    for failure in (ConnectionError("Server Disconnected"), TimeoutError(), OSError(110, "timed out"), MemoryError()):
        failures.append(failure)
        with pytest.raises(SourceUnavailable, match="0.parquet cannot be read now"):
            store_shard(source, Shard("0.parquet", "hf://"), 0, tmp_path, 0, CHECKS)
        assert list(tmp_path.iterdir()) == []
    failures.append(OSError("Unexpected end of stream"))
    store_shard(source, Shard("0.parquet", "hf://"), 0, tmp_path, 0, CHECKS)
    assert json.loads((unit_folder(tmp_path, 0) / "summary.json").read_text())["broken"] == "gone"


def test_equal_keys_lose_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "row_key", lambda seed, shard, row, group: row % 2)
    folders = [tmp_path / str(i) for i in range(3)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        shuffle.store_rows(folder, 0, i, [(j, {"row": (i, j)}, b"x" * j) for j in range(4 * (i != 1))])
    cuts = shuffle.stretches(folders, [3, 3, 2])
    found = [(*head["row"], len(audio)) for cut in cuts for head, audio in shuffle.gather(folders, *cut)]
    assert found == [(i, j, j) for parity in (0, 1) for i in (0, 2) for j in (parity, parity + 2)]


# Cut short, and going on


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Enough rows that writing them takes a while, and a tar that is a pipe: reading it waits until someone writes."""
    folder = tmp_path_factory.mktemp("large")
    rows = short_rows(600, samples=300)
    for i in range(11):
        write_tar(folder / f"{i:02d}.tar", tar_members(rows[i * 50 : (i + 1) * 50]))
    last = write_tar(folder.parent / f"{folder.name}-last.tar", tar_members(rows[550:])).read_bytes()
    reference = folder.parent / f"{folder.name}-reference"
    (folder / "11.tar").write_bytes(last)
    prepare(preparation(folder, WEB, rows_per_shard=3), reference, workers=1)
    (folder / "11.tar").unlink()
    os.mkfifo(folder / "11.tar")
    os.utime(folder / "11.tar", (0, 0))
    return folder, last, files_of(reference)


def start(folder, out, *options):
    columns = itertools.chain.from_iterable((f"--{k.replace('_', '-')}", v) for k, v in WEB.items())
    arguments = [str(folder), str(out), *columns, "--rows-per-shard", "3", "--min-seconds", "0.01", *options]
    output = out.with_suffix(".out")
    output.touch()
    return Forked(command, "dtm_hf.training.corpus", "prepare", *arguments, output=output)


def kill_the_parent(process):
    """End the parent alone; its workers end by themselves."""
    _, *workers = processes(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(3000):
        if not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
            return
        time.sleep(0.01)
    raise AssertionError("a worker outlived its parent")


def test_kill_and_go_on(large, tmp_path):
    folder, last, reference = large
    out = tmp_path / "out"
    work = out / ".prepare"

    # Killed while the pipe is waited for: the other shards are read.
    process = start(folder, out, "--workers", "2")
    wait_until(process, lambda: len(list(work.glob("0000*"))) == 11)
    with pytest.raises(ValueError, match="is being written by another process"):
        prepare(preparation(folder, WEB, rows_per_shard=3), out)
    kill_the_parent(process)
    assert [path.name for path in out.iterdir()] == [".prepare"]

    with pytest.raises(ValueError, match="holds another preparation, with `seed` 0, but got 1"):
        prepare(preparation(folder, WEB, rows_per_shard=3, seed=1), out)
    with pytest.raises(ValueError, match="holds another preparation, with `rows_per_shard` 3, but got 4"):
        prepare(preparation(folder, WEB, rows_per_shard=4), out)
    with pytest.raises(ValueError, match="holds another preparation, with `dataset`"):
        prepare(preparation(write_parquet(tmp_path / "other", ROWS[:3]), rows_per_shard=3), out)

    # Killed again while the first of 200 shards are written.
    kept = (work / "000003").stat().st_mtime_ns
    process = start(folder, out, "--workers", "2")
    with open(folder / "11.tar", "wb") as pipe:
        pipe.write(last)
    # Writing into a pipe changes its time; a source must not change.
    os.utime(folder / "11.tar", (0, 0))
    wait_until(process, lambda: any(out.glob("train-*")))
    kill_the_parent(process)
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("train-*")}
    assert 0 < len(first) < 200 and not (out / "manifest.json").exists()
    assert (work / "000003").stat().st_mtime_ns == kept

    prepare(preparation(folder, WEB, rows_per_shard=3, checks=CHECKS), out, workers=1)
    found = files_of(out)
    assert found.keys() == reference.keys() and all(found[name] == reference[name] for name in reference)
    assert {name: (out / name).stat().st_mtime_ns for name in first} == first


def test_a_full_disk(source, tmp_path):
    """A limit on the size of files stands in for it: the system refuses to write on in the same way."""
    wanted = preparation(source, rows_per_shard=50)
    out, bounds = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    # The rows of a source shard take 25 kB, the one shard to write 100 kB.
    for limit, stored in ((10_000, 0), (60_000, 4)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, bounds[1]))
        try:
            with pytest.raises(
                OSError, match="`out_dir` .* cannot be written: .*too large.* What is finished is kept"
            ):
                prepare(wanted, out, workers=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
        assert [path.name for path in out.iterdir()] == [".prepare"]
        assert len(list(out.glob(".prepare/0*"))) == stored and not list(out.glob(".prepare/.*"))
    prepare(wanted, out, workers=1)
    prepare(wanted, tmp_path / "other", workers=1)
    assert files_of(out) == files_of(tmp_path / "other")


def test_what_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="`out_dir` .*file/out' cannot be written: Not a directory"):
        prepare(preparation(source), tmp_path / "file/out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("")
    with pytest.raises(ValueError, match="`out_dir` .*full' is not empty and holds no preparation"):
        prepare(preparation(source), tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_source_that_changed_meanwhile(tmp_path):
    folder = write_parquet(tmp_path / "source", ROWS[:6], shards=2)
    wanted = preparation(folder, num_validation=10)
    with pytest.raises(ValueError, match="`num_validation` must be below the 6 rows there are, but got 10"):
        prepare(wanted, tmp_path / "out", workers=1)
    write_parquet(folder, ROWS[:8], shards=2)
    with pytest.raises(ValueError, match="the files of .* have changed since `out_dir` .* was begun"):
        prepare(wanted, tmp_path / "out", workers=1)


def test_a_finished_folder(tmp_path):
    folder = write_parquet(tmp_path / "source", ROWS[:6])
    manifest = prepare(preparation(folder), tmp_path / "out", workers=1)
    (folder / "train-00000-of-00001.parquet").unlink()
    assert prepare(preparation(folder), tmp_path / "out") == manifest
    with pytest.raises(ValueError, match="holds another preparation, with `num_validation` 0, but got 2"):
        prepare(preparation(folder, num_validation=2), tmp_path / "out")
    (tmp_path / "out/train-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match="was finished, but now lacks train-00000-of-00001.parquet"):
        prepare(preparation(folder), tmp_path / "out")


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="`rows_per_shard` must be 1 or more, but got 0"):
        preparation("any", rows_per_shard=0)
    with pytest.raises(ValueError, match="`shard_size_mb` must be positive, but got 0"):
        preparation("any", shard_size_mb=0)
    with pytest.raises(ValueError, match="`num_validation` must be 0 for the split 'validation', but got 3"):
        preparation("any", split="validation", num_validation=3)
    with pytest.raises(ValueError, match="`min_seconds` must be .* below `max_seconds`, but got 3 and 2"):
        RowChecks(min_seconds=3, max_seconds=2)
    with pytest.raises(ValueError, match="`sampling_rate` must be positive, but got 0"):
        RowChecks(sampling_rate=0)
    silent = write_parquet(tmp_path / "source", [row(i, 0, content=encoded(np.zeros(4800))) for i in range(3)])
    with pytest.raises(ValueError, match="none of its rows can be used: {'silent audio': 3}"):
        prepare(preparation(silent), tmp_path / "out", workers=1)


def test_the_command_says_what_is_wrong(tmp_path):
    result = CliRunner().invoke(app, ["prepare", str(tmp_path), str(tmp_path / "out")])
    assert result.exit_code == 1 and "Error: `dataset`" in result.output and not (tmp_path / "out").exists()
    write_parquet(tmp_path / "source", [*ROWS[:3], row(3, 0.02, text="")])
    options = ["--min-seconds", "0.01", "--workers", "1"]
    result = CliRunner().invoke(app, ["prepare", str(tmp_path / "source"), str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    assert "3 rows in 1 shards" in result.output and "left out: 1 empty text" in result.output

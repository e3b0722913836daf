"""`corpus filter`: clips in which the text is not heard are dropped and counted, and new shards are heard later."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from spoken import SAMPLING_RATE, clip, text
from typer.testing import CliRunner

from dtm_hf.training.corpus.__main__ import app
from dtm_hf.training.corpus.hearing import filter_corpus
from dtm_hf.training.corpus.rows import SCHEMA, flac_bytes, write_table

VOICES = ("michael", "heart")


def write_clips(folder, name, texts):
    """A shard as `build` writes it: the recordings of the two packaged voices, with these texts."""
    rows = []
    for voice, said in zip(VOICES, texts, strict=True):
        audio = {"bytes": flac_bytes(clip(voice)), "path": f"{voice}.flac"}
        seconds = len(clip(voice)) / SAMPLING_RATE
        rows.append({"id": voice, "audio": audio, "text": said, "speaker": voice, "duration": seconds})
    write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / name)


@pytest.fixture
def corpus(tmp_path):
    """One clip of four says something else than its text."""
    (folder := tmp_path / "corpus").mkdir()
    said = [text(voice) for voice in VOICES]
    words = sorted({word.strip(".").lower() for line in said for word in line.split()})
    (folder / "corpus.json").write_text(json.dumps({"vocabulary": words}))
    write_clips(folder, "train-00000-of-00002.parquet", said)
    write_clips(folder, "test-00000-of-00001.parquet", [said[0], said[0]])
    return folder


def test_what_is_misheard_is_dropped_and_counted(corpus, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["filter", str(corpus), str(out), "--recognizer", "pocketsphinx"])
    assert result.exit_code == 0, result.output
    card = json.loads((out / "filter.json").read_text())
    assert card["recognizer"].startswith("pocketsphinx") and card["max_wer"] == 0.2
    counts = {
        (split, voice): (c["kept"], c["dropped"]) for split, of in card["splits"].items() for voice, c in of.items()
    }
    assert counts == {
        ("train", "michael"): (1, 0),
        ("train", "heart"): (1, 0),
        ("test", "michael"): (1, 0),
        ("test", "heart"): (0, 1),
    }
    assert card["splits"]["test"]["heart"]["hours"] == 0 < card["splits"]["test"]["michael"]["hours"]
    assert "test       heart             0 kept, 1 dropped: 0.00 h" in result.output
    before = pq.read_table(corpus / "train-00000-of-00002.parquet").to_pylist()
    after = pq.read_table(out / "train-00000-of-00002.parquet").to_pylist()
    assert [{name: row[name] for name in row if name != "wer"} for row in after] == before
    assert all(row["wer"] <= 0.2 for row in after)


def test_it_goes_on_with_the_shards_that_are_new(corpus, tmp_path):
    out, seconds = tmp_path / "out", {}
    filter_corpus(corpus, out, "pocketsphinx")
    for path in out.glob("*.parquet"):
        seconds[path.name] = path.stat().st_mtime_ns
    write_clips(corpus, "train-00001-of-00002.parquet", [text(voice) for voice in VOICES])
    card = filter_corpus(corpus, out, "pocketsphinx")
    assert card["splits"]["train"]["michael"]["kept"] == 2
    assert all((out / name).stat().st_mtime_ns == time for name, time in seconds.items())
    with pytest.raises(ValueError, match="`out_dir` .* holds shards that .*0.5.* did not filter"):
        filter_corpus(corpus, out, "pocketsphinx", max_wer=0.5)
    with pytest.raises(ValueError, match="`out_dir` .* holds shards that .* did not filter"):
        filter_corpus(corpus, corpus, "pocketsphinx")


def test_datasets_read_what_it_writes(corpus, tmp_path):
    from datasets import Audio, Value, load_dataset

    filter_corpus(corpus, tmp_path / "out", "pocketsphinx")
    found = load_dataset("parquet", data_files={"train": str(tmp_path / "out" / "train-*")}, streaming=True)["train"]
    assert found.features["audio"] == Audio(sampling_rate=24_000) and found.features["wer"] == Value("float64")


def test_refusals(corpus, tmp_path):
    with pytest.raises(ValueError, match="`source` must be a folder of parquet shards, but .* has none"):
        filter_corpus(tmp_path / "nothing", tmp_path / "out", "pocketsphinx")
    with pytest.raises(ValueError, match="`max_wer` must be 0 or more, but got -1"):
        filter_corpus(corpus, tmp_path / "out", "pocketsphinx", max_wer=-1)
    result = CliRunner().invoke(app, ["filter", str(corpus), str(tmp_path / "out"), "--recognizer", "ear"])
    assert result.exit_code == 1 and "`recognizer` must be" in result.output and not (tmp_path / "out").exists()

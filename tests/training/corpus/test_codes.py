"""Coding a corpus: the codes of each recording alone, counts of what is left out, going on, refusals."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from speech_corpora import encoded, row, write_parquet
from tiny import voice
from tiny_codec import tiny_codec
from typer.testing import CliRunner

from dtm_hf.codec.mimi import codec_fingerprint, encode_recordings, load_codec
from dtm_hf.training.codes.packing import pack_codes, unpack_codes
from dtm_hf.training.corpus import codes as module
from dtm_hf.training.corpus.__main__ import app
from dtm_hf.training.corpus.codes import Tokenization, tokenize
from dtm_hf.training.data.rows import BadRow

ROWS = [row(i, 0.3 + 0.11 * i, speaker="ab"[i % 2]) for i in range(6)]
BAD = [row(0, 0.5, text=" "), row(1, 0.5, content=b"noise"), row(2, 0.1), row(3, 0, content=encoded(np.zeros(9999)))]


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    tiny_codec().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_parquet(tmp_path_factory.mktemp("source"), ROWS + BAD, shards=2)
    return write_parquet(folder, ROWS[:2], split="validation")


def run(*arguments):
    return CliRunner().invoke(app, ["tokenize", *map(str, arguments)])


def contents(folder, split="train"):
    return [row for path in sorted(folder.glob(f"{split}-*")) for row in pq.read_table(path).to_pylist()]


def test_each_recording_gets_the_codes_that_it_has_alone(source, codec, tmp_path):
    result = run(source, tmp_path, "--codec", codec, "--num-codebooks", 3)
    assert result.exit_code == 0, result.output
    assert "train: 6 rows" in result.stdout and "left out of train: 1 silent audio" in result.stderr
    network = load_codec(codec)
    rows = contents(tmp_path)
    assert [len(pq.read_table(path)) for path in sorted(tmp_path.glob("train-*-of-00002.parquet"))] == [3, 3]
    for found, i in zip(rows, (0, 2, 4, 1, 3, 5), strict=True):
        waveform = torch.from_numpy(voice(0.3 + 0.11 * i, seed=i))
        expected = encode_recordings(network, [waveform], 3)[0].numpy()
        assert np.array_equal(unpack_codes(found["codes"], 3, 16), expected)
        assert (found["text"], found["speaker"]) == (ROWS[i]["text"], "ab"[i % 2]) and "audio" not in found
        assert found["duration"] == pytest.approx(len(waveform) / 24000)
    assert len(contents(tmp_path, "validation")) == 2
    card = json.loads((tmp_path / "tokenize.json").read_text())
    assert card["codec"]["fingerprint"] == codec_fingerprint(network) and card["codec"]["num_codebooks"] == 3
    assert card["splits"]["train"]["speakers"] == {"a": 3, "b": 3}
    assert sum(card["splits"]["train"]["skipped"].values()) == 4
    from datasets import load_dataset

    assert load_dataset("parquet", data_files=str(tmp_path / "validation-*"), split="train")[0]["text"] == "clip a"


def test_recordings_may_be_kept(source, codec, tmp_path):
    assert run(source, tmp_path, "--codec", codec, "--keep-audio", "--splits", "validation").exit_code == 0
    assert [row["audio"]["bytes"] for row in contents(tmp_path, "validation")] == [
        row["audio"]["bytes"] for row in ROWS[:2]
    ]
    assert not list(tmp_path.glob("train-*"))


def test_it_goes_on_where_it_was_cut_short_and_comes_out_the_same(source, codec, tmp_path, monkeypatch):
    from dtm_hf.training.config.arguments import SourceArguments

    tokenization = Tokenization(SourceArguments(str(source)), str(codec))
    tokenize(tokenization, tmp_path / "whole", ["train"])
    coded, write = [], module.tokenize_shard

    def cut_short(*arguments):
        coded.append(arguments[2].name)
        if len(coded) == 2:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(module, "tokenize_shard", cut_short)
    with pytest.raises(KeyboardInterrupt):
        tokenize(tokenization, tmp_path / "cut", ["train"])
    assert len(list((tmp_path / "cut").glob("*.parquet"))) == 1
    monkeypatch.setattr(module, "tokenize_shard", write)
    tokenize(tokenization, tmp_path / "cut", ["train"])
    whole, cut = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "cut"))
    assert whole == cut


def test_what_cannot_be_coded_is_refused(source, codec, tmp_path):
    for arguments, told in (
        (["--num-codebooks", 5], "`num_codebooks` must lie in [1, 4] for this codec, but got 5"),
        (["--splits", "dev"], "holds no dev-*.parquet shards"),
        (["--audio-column", "sound"], "no column 'sound'"),
        (["--batch-seconds", 0], "`batch_seconds` must be positive"),
    ):
        result = run(source, tmp_path / "out", "--codec", codec, *arguments)
        assert result.exit_code == 1 and told in result.stderr, result.stderr
        assert not (tmp_path / "out").exists()
    assert run(source, tmp_path / "out", "--codec", codec, "--splits", "validation").exit_code == 0
    result = run(source, tmp_path / "out", "--codec", codec, "--num-codebooks", 2)
    assert result.exit_code == 1 and "holds codes with `num_codebooks` None, but got 2" in result.stderr
    result = run(source, source, "--codec", codec)
    assert result.exit_code == 1 and "is not empty and holds no codes" in result.stderr


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "no codes"),
        ("codes", "no codes"),
        ({"bytes": b"", "num_codebooks": 2}, "no codes"),
        ({"bytes": b"123", "num_codebooks": 2}, "no table"),
        ({"bytes": b"1234", "num_codebooks": 0}, "no table"),
        (pack_codes(np.array([[1, 2]])), "fewer than 2 codebooks"),
        (pack_codes(np.array([[1, 2], [3, 16]])), "codes that the codebook lacks"),
        ({"bytes": np.array([1, -1], "<i2").tobytes(), "num_codebooks": 2}, "codes that the codebook lacks"),
        ([[1, 2], [3]], "no table"),
        ([[1, 2], [3, "x"]], "no numbers"),
        ([[1, 2], [3, 0.5]], "no numbers"),
        ([[1, 2], [3, 2**70]], "no numbers"),
        ([[], []], "no codes"),
    ],
)
def test_columns_that_hold_no_codes_are_bad_rows(value, told):
    with pytest.raises(BadRow, match=told):
        unpack_codes(value, 2, 16)


def test_packed_codes_and_lists_are_read():
    codes = np.array([[1, 2, 15], [0, 3, 4], [5, 6, 7]])
    for value in (pack_codes(codes), codes.tolist()):
        assert np.array_equal(unpack_codes(value, 2, 16), codes[:2])
    with pytest.raises(ValueError, match="but got 0 to 32768"):
        pack_codes(np.array([[0, 2**15]]))

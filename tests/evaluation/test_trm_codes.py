"""`benchmarks/trm_codes.py`: its table has each arm, over seeds, and its figures are what they say."""

import importlib
import json
import re
from pathlib import Path

import pytest
import tiny_trm
import torch
from speech_corpora import row, write_parquet
from tiny_codec import tiny_codec

from dtm_hf.codec.mimi import decode_codes, encode_recordings


@pytest.fixture(scope="module")
def folders(tmp_path_factory, vocab_file):
    """A corpus of three sentences of two words, a codec, and two pipelines of other weights."""
    folder = tmp_path_factory.mktemp("codes")
    rows = [row(i, 1.3 + 0.1 * i, "yes no" if i % 2 else "no yes", "bob") for i in range(3)]
    write_parquet(folder / "corpus", rows, split="test")
    (folder / "corpus/corpus.json").write_text(json.dumps({"vocabulary": ["no", "yes"]}))
    tiny_codec().save_pretrained(folder / "codec")
    for seed in range(2):
        pipe = tiny_trm.pipeline(vocab_file)
        torch.manual_seed(seed)
        torch.nn.init.normal_(pipe.model.head.condition.weight)
        pipe.save_pretrained(folder / f"trm-{seed}")
    return folder


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("trm_codes")


def test_the_table_has_every_arm_and_the_differences(script, folders, capsys, tmp_path):
    argv = [folders / "corpus", folders / "codec", folders / "trm-0", folders / "trm-1", "--cycles", 1, 2]
    script.main([str(word) for word in [*argv, "--picture", tmp_path / "curve.png"]])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    names = [line.split("|")[1].strip() for line in lines]
    arms = ["1 feedback", "1 independent", "2 feedback", "2 independent"]
    differences = ["1 feedback less 1 independent", "2 feedback less 2 independent", "2 feedback less 1 feedback"]
    codecs = ["codec, 3 books", "codec, 3 books less recordings", "codec, 4 books", "codec, 4 books less recordings"]
    assert names == ["", "---", "recordings", *codecs, *arms, *differences]
    # The recordings have a distance of nothing to themselves.
    assert lines[names.index(codecs[1])].split("|")[5].replace("+", "") == lines[names.index(codecs[0])].split("|")[5]
    assert "0.000 [0.000, 0.000]" in lines[names.index("recordings")]
    # Both draw all codes after the one cycle that there is, and the likeliest.
    assert re.findall(r"[+-]\d\.\d{3}", lines[names.index(differences[0])]) == ["+0.000"] * 6
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_two_recipes_are_paired(script, folders, capsys):
    argv = [folders / "corpus", folders / "codec", folders / "trm-0", "--cycles", 2]
    table = {}
    for name, more in (("1", ["--against", folders / "trm-1"]), ("0", ["--against", folders / "trm-0"])):
        script.main([str(word) for word in [*argv, *more]])
        rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| 2 ")]
        table[name] = {row[1].strip(): float(row[5].split()[0]) for row in rows}
    assert table["0"]["2 feedback less against"] == 0
    found = table["1"]
    assert found["2 feedback"] != found["2 feedback, against"]
    difference = found["2 feedback"] - found["2 feedback, against"]
    assert found["2 feedback less against"] == pytest.approx(difference, abs=0.002)
    with pytest.raises(SystemExit):
        script.main([str(word) for word in [*argv, "--against", folders / "trm-1", folders / "trm-0"]])
    assert "--against: 2 TRMs cannot be paired with 1" in capsys.readouterr().err


def test_codes_that_are_the_recordings_own_are_all_right(script, folders, vocab_file):
    pipe = tiny_trm.pipeline(vocab_file)
    judges = script.Judges(script.load_set(str(folders / "corpus"), 2, "test"), None)
    recordings = [torch.from_numpy(item.recording) for item in judges.items]
    codes = [encode_recordings(pipe.codec, [recording])[0] for recording in recordings]
    own = iter(codes)
    pipe.sample = lambda rows, *_, **__: [next(own)[:3]]
    figures = script.spoken([pipe], judges, codes, 1, "feedback", 0)
    for column in ("all", "first"):
        above, below = figures.of(column)
        assert above.shape == (2, 1) and (above == below).all()
    resynthesis = script.Figures()
    judges.judge(resynthesis, [decode_codes(pipe.codec, [item[:3]])[0].numpy() for item in codes])
    assert figures.pairs["mel distance"] == resynthesis.pairs["mel distance"]

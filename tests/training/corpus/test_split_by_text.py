"""`prepare --split-by-text`: recordings of one sentence are in one split, and no row is lost."""

import json

import pyarrow.parquet as pq
import pytest
from speech_corpora import short_rows, write_parquet
from typer.testing import CliRunner

from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.corpus.__main__ import app
from dtm_hf.training.corpus.passes import RowChecks
from dtm_hf.training.corpus.prepare import Preparation, prepare
from dtm_hf.training.corpus.sentences import normalize, split_of

# Each sentence twice, in two spellings.
TEXTS = [f"Sentence number {i // 2}{'.' if i % 2 else '!'}" for i in range(120)]
ROWS = [row | {"text": text} for row, text in zip(short_rows(120), TEXTS, strict=True)]


def texts_of(folder):
    return {
        split: [text for path in sorted(folder.glob(f"{split}-*")) for text in pq.read_table(path)["text"].to_pylist()]
        for split in ("train", "validation", "test")
    }


def test_each_row_goes_where_its_text_belongs(tmp_path):
    source = write_parquet(tmp_path / "source", ROWS, shards=3)
    arguments = ["prepare", str(source), str(tmp_path / "out"), "--split-by-text", "--min-seconds", "0.01"]
    result = CliRunner().invoke(app, [*arguments, "--rows-per-shard", "20", "--workers", "1"])
    assert result.exit_code == 0, result.output
    found = texts_of(tmp_path / "out")
    assert sorted(text for texts in found.values() for text in texts) == sorted(TEXTS)
    for split, texts in found.items():
        assert texts and {split_of(text) for text in texts} == {split}
        assert texts != sorted(texts, key=TEXTS.index)
    assert not {normalize(text) for text in found["train"]} & {normalize(text) for text in found["test"]}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["shards"] == {
        path.name: pq.read_metadata(path).num_rows for path in (tmp_path / "out").glob("*.parquet")
    }
    assert max(manifest["shards"].values()) <= 20 and manifest["arguments"]["split_by_text"] is True
    assert all(f"split: {split}" in (tmp_path / "out" / "README.md").read_text() for split in found)


def test_the_same_rows_otherwise_are_another_preparation(tmp_path):
    source = SourceArguments(str(write_parquet(tmp_path / "source", ROWS[:20], shards=1)))
    checks = RowChecks(min_seconds=0.01)
    plain = prepare(Preparation(source, checks=checks), tmp_path / "out", workers=1)
    # As the manifests of before the option, which never named it.
    assert "split_by_text" not in plain["arguments"]
    with pytest.raises(ValueError, match="holds another preparation, with `split_by_text` None, but got True"):
        prepare(Preparation(source, split_by_text=True, checks=checks), tmp_path / "out", workers=1)


@pytest.mark.parametrize("settings", [{"num_validation": 3}, {"split": "test"}])
def test_other_ways_to_split_are_refused_beside_it(settings):
    with pytest.raises(ValueError, match="`split_by_text` makes the splits of the source's `split` 'train'"):
        Preparation(SourceArguments("any"), split_by_text=True, **settings)

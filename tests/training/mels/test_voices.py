"""`python -m dtm_hf.training.speakers`: a table of the voices of a data set."""

import numpy as np
import pytest
import torch
from speech_corpora import row, write_parquet
from typer.testing import CliRunner

from dtm_hf import SpeakerTable
from dtm_hf.training.mels.voices import app


@pytest.fixture
def corpus(tmp_path):
    rows = [row(i, 0.5, speaker="ab"[i % 2]) for i in range(6)]
    rows.append(row(7, 0.5, speaker="c", content=b"no sound"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_parquet(folder, rows)
    return folder


class Encoder:
    # Resemblyzer itself, whose import takes half a minute, is tried in tests/evaluation/test_metrics_voice.py.
    count = 0

    def __call__(self, waveform):
        assert len(waveform) == 8000
        type(self).count += 1
        return np.array([1.0, self.count, 0.0], dtype=np.float32)


def test_each_voice_has_the_mean_of_its_first_recordings(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("dtm_hf.training.mels.voices.VoiceEncoder", Encoder)
    result = CliRunner().invoke(app, [str(corpus), str(tmp_path / "out"), "--recordings", "2"])
    assert result.exit_code == 0, result.stderr
    assert "2 speakers" in result.stdout and "undecodable" in result.stderr
    table = SpeakerTable.from_pretrained(tmp_path / "out")
    assert table.encoder == "resemblyzer" and list(table.vectors) == ["a", "b"]
    # a, b, a, b, and then enough.
    expected = torch.tensor([1.0, 2.0, 0.0])
    torch.testing.assert_close(table.vectors["a"], expected / expected.norm())
    assert table.vectors["b"][1] > table.vectors["a"][1]


def test_what_cannot_be_embedded_is_refused(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("dtm_hf.training.mels.voices.VoiceEncoder", lambda: lambda waveform: None)
    for arguments, named in (
        ([str(corpus), str(tmp_path / "out")], "voices"),
        ([str(tmp_path / "absent"), str(tmp_path / "out")], "absent"),
        ([str(corpus), str(corpus)], "corpus"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1 and named in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()

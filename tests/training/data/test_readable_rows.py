"""Looks at all rows of a split, before training and for samples: one bad row costs one row."""

import json

import pytest
from speech_corpora import row, write_audio_files

from dtm_hf.training.codes.survey import find_speakers as speakers_of_codes
from dtm_hf.training.config.arguments import DataArguments, ModelArguments, TrainingConfig
from dtm_hf.training.mels.rows import find_speakers
from dtm_hf.training.speech.prompts import validation_rows


@pytest.fixture
def data(tmp_path):
    """Two clips, and between their lines one that is no JSON."""
    rows = [row(0, 0.5, "Yes.", speaker="ann"), row(1, 0.5, "No.", speaker="ben")]
    names = write_audio_files(tmp_path, rows)
    lines = [
        json.dumps({"file_name": name, "text": one["text"], "speaker": one["speaker"]})
        for name, one in zip(names, rows, strict=True)
    ]
    (tmp_path / "metadata.jsonl").write_text(f"{lines[0]}\nno JSON\n{lines[1]}\n")
    return DataArguments(dataset=str(tmp_path), validation_split="train", frames_per_batch=400)


def test_a_malformed_line_costs_itself(data):
    assert find_speakers(data) == ["ann", "ben"]
    assert [(found.speaker, found.text) for found in validation_rows(data)] == [("ann", "Yes."), ("ben", "No.")]


def test_a_malformed_line_costs_the_voices_of_codes_itself(data):
    config = TrainingConfig(ModelArguments(), data, None, None, None)
    assert speakers_of_codes(config) == ["ann", "ben"]

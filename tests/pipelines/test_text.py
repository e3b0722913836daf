"""Text on its way into a pipeline; tests/test_real_input.py has what becomes of it."""

import logging

import pytest
import torch

SAID = "some words."


@pytest.fixture
def speak(tiny_pipeline, reference_audio):
    def speak(text, said=SAID, **kwargs):
        kwargs = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "mel"} | kwargs
        return tiny_pipeline(text, reference_audio, said, generator=torch.Generator().manual_seed(0), **kwargs)

    return speak


def test_what_cannot_be_spoken_is_logged_once_and_told(speak, caplog):
    with caplog.at_level(logging.WARNING, logger="dtm_hf"):
        output = speak(["two # three # four", "nothing else", "and # or \u2603"])
    (record,) = caplog.records
    assert record.name.startswith("dtm_hf.") and "`text`" in record.message and "['#', '\u2603']" in record.message
    assert output.unspoken == [["#"], [], ["#", "\u2603"]]
    assert len(output.to_tuple()) == 3


def test_text_without_unknown_characters_is_not_warned_of(speak, caplog):
    with caplog.at_level(logging.WARNING, logger="dtm_hf"):
        assert speak("two, three; four", said="some\twords").unspoken == [[]]
    assert not caplog.records


def test_a_prompts_text_is_measured_as_it_is_spoken(speak):
    assert torch.equal(speak("yes", "\u2019tis said").audios[0], speak("yes", "'tis said # \u2603").audios[0])


def test_seconds_that_one_chunk_cannot_hold_are_shared_or_refused(speak, tiny_pipeline, reference_audio):
    (mel,) = speak("many words are said in this text, one by one, " * 5, duration_s=100.0).audios
    assert len(mel) == pytest.approx(100 * 93.75, rel=0.02)
    rows = tiny_pipeline.prepare("many words are said here " * 20, reference_audio, SAID, duration_s=100.0)
    assert max(row.num_frames for row in rows) <= 22.1 * 93.75
    with pytest.raises(ValueError, match="`text` 'word' would last 100.0 s, and the model speaks at most 86.1 s"):
        speak("word", duration_s=100.0)


def test_the_longest_chunk_is_what_the_backbone_was_trained_on(tiny_pipeline, make_backbone, reference_audio):
    text = "This is a sentence. " * 12
    counts = []
    for seconds in (None, 22.0, 5.0):
        parts = tiny_pipeline.components | {"backbone": make_backbone(max_seconds=seconds), "head": None}
        rows = type(tiny_pipeline)(**parts).prepare(text, reference_audio, SAID)
        counts.append(len(rows))
        assert max(row.num_frames for row in rows) <= (seconds or 22.0) * 93.75 + 1
    assert counts[0] == counts[1] == 2 and counts[2] >= 8

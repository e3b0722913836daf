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

"""The predictor's sum, what it refuses, and its files."""

import json

import pytest

from dtm_hf import DurationPredictor

FIGURES = {
    "base_seconds": 0.2,
    "word_seconds": 0.05,
    "character_seconds": {"a": 0.1, "b": 0.02, "é": 0.3},
    "other_character_seconds": 0.01,
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("a", 0.2 + 0.05 + 0.1),
        ("aab", 0.2 + 0.05 + 0.22),
        ("AaB", 0.2 + 0.05 + 0.22),
        ("  ab \n a ", 0.2 + 2 * 0.05 + 0.22),
        ("aé", 0.2 + 0.05 + 0.4),
        # Neither a word nor a mark that was in no recording is free.
        ("a, xy.", 0.2 + 2 * 0.05 + 0.1 + 4 * 0.01),
    ],
)
def test_words_and_characters_add_up(text, seconds):
    assert DurationPredictor(**FIGURES)(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"base_seconds": -0.1}, "`base_seconds`.*-0.1"),
        ({"word_seconds": float("nan")}, "`word_seconds`.*nan"),
        ({"character_seconds": {"q": -1.0}}, r"`character_seconds\['q'\]`.*-1.0"),
        ({"character_seconds": {"q": "long"}}, r"`character_seconds\['q'\]`.*'long'"),
        ({"other_character_seconds": 0}, "`other_character_seconds` must be above 0"),
    ],
)
def test_figures_that_cannot_be_are_refused(changed, named):
    with pytest.raises(ValueError, match=named):
        DurationPredictor(**FIGURES | changed)


def test_its_file_is_plain_and_comes_back(tmp_path):
    predictor = DurationPredictor(**FIGURES, training_data="three recordings")
    predictor.save_pretrained(tmp_path / "it")
    stored = json.loads((tmp_path / "it" / "duration_config.json").read_text())
    assert stored["character_seconds"] == FIGURES["character_seconds"]
    loaded = DurationPredictor.from_pretrained(tmp_path / "it")
    assert loaded("Abé") == predictor("Abé") and loaded.config.training_data == "three recordings"
    assert DurationPredictor.from_pretrained(tmp_path, subfolder="it")("b") == predictor("b")
    with pytest.raises(OSError, match="duration_config.json"):
        DurationPredictor.from_pretrained(tmp_path)

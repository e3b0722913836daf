"""The predictor's sum, what it refuses, and its files."""

import json

import pytest

from dtm_hf import DurationPredictor

FIGURES = {
    "base_seconds": 0.2,
    "word_seconds": 0.05,
    "character_seconds": {"a": 0.1, "b": 0.02, "é": 0.3, "g": 0.0},
    "other_byte_seconds": 0.01,
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("a", 0.2 + 0.05 + 0.1),
        ("aab", 0.2 + 0.05 + 0.22),
        ("AaB", 0.2 + 0.05 + 0.22),
        ("  ab \n a ", 0.2 + 2 * 0.05 + 0.22),
        ("aé", 0.2 + 0.05 + 0.4),
        ("g", 0.2 + 0.05),
        # Neither a letter nor a mark that was in no recording is free; a Chinese character has three bytes.
        ("a, xy.", 0.2 + 2 * 0.05 + 0.1 + 4 * 0.01),
        ("你好", 0.2 + 0.05 + 6 * 0.01),
        ("", 0.2),
    ],
)
def test_words_and_characters_add_up(text, seconds):
    assert DurationPredictor(**FIGURES)(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"base_seconds": -0.1}, ValueError, "`base_seconds`.*-0.1"),
        ({"base_seconds": 0.0}, ValueError, "`base_seconds` must be above 0"),
        ({"word_seconds": float("nan")}, ValueError, "`word_seconds`.*nan"),
        ({"word_seconds": True}, ValueError, "`word_seconds`.*True"),
        ({"other_byte_seconds": -1}, ValueError, "`other_byte_seconds`.*-1"),
        ({"character_seconds": None}, TypeError, "`character_seconds`.*None"),
        ({"character_seconds": {"q": -1.0}}, ValueError, r"`character_seconds\['q'\]`.*-1.0"),
        ({"character_seconds": {"q": "long"}}, ValueError, r"`character_seconds\['q'\]`.*'long'"),
        ({"character_seconds": {"th": 0.1}}, ValueError, "`character_seconds`.*'th'"),
        ({"character_seconds": {"A": 0.1}}, ValueError, "`character_seconds`.*'A'"),
        ({"character_seconds": {" ": 0.1}}, ValueError, "`character_seconds`.*' '"),
    ],
)
def test_figures_that_cannot_be_are_refused(changed, error, named):
    with pytest.raises(error, match=named):
        DurationPredictor(**FIGURES | changed)


def test_its_file_is_plain_and_comes_back(tmp_path):
    predictor = DurationPredictor(**FIGURES, training_data="three recordings")
    predictor.save_pretrained(tmp_path / "it")
    stored = json.loads((tmp_path / "it" / "duration_config.json").read_text())
    assert stored["character_seconds"] == FIGURES["character_seconds"]
    loaded = DurationPredictor.from_pretrained(tmp_path / "it")
    assert loaded("Abé") == predictor("Abé") and loaded.config.training_data == "three recordings"
    assert DurationPredictor.from_pretrained(tmp_path, subfolder="it")("b") == predictor("b")
    assert DurationPredictor.from_pretrained(tmp_path / "it", word_seconds=1.0)("g") == pytest.approx(1.2)
    _, unused = DurationPredictor.from_pretrained(tmp_path / "it", return_unused_kwargs=True, subfoler="x")
    assert unused["subfoler"] == "x"
    with pytest.raises(OSError, match="duration_config.json"):
        DurationPredictor.from_pretrained(tmp_path)

"""Text as it is written to text as it is said."""

import logging
import sys

import pytest

from dtm_hf import DTMPipeline, F5Tokenizer, TextNormalizer


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("The train leaves at 7:15.", "The train leaves at seven fifteen."),
        ("Room 312, please.", "Room three hundred and twelve, please."),
        ("It costs $5.00 in 1984.", "It costs five dollars in nineteen eighty four."),
        ("1,234 books and 1,000,000 stars", "one thousand two hundred and thirty four books and one million stars"),
        ("It's 100%!", "It's one hundred percent!"),
        # The grammars read none of the whole.
        ("+5 and 7\nat 9.", "+5 and seven at nine."),
    ],
)
def test_numbers_in_english(written, said):
    pytest.importorskip("wetext")
    assert TextNormalizer()(written) == said


def test_other_languages():
    pytest.importorskip("wetext")
    assert TextNormalizer("zh")("今天是2024年1月1日。") == "今天是二零二四年一月一日。"
    with pytest.raises(ValueError, match="`language` must be one of .*'xx'"):
        TextNormalizer("xx")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Call 555-1234.", "Call five five five, one two three four."),
        ("Call +1 (800) 555-1234!", "Call one, eight zero zero, five five five, one two three four!"),
        ("GOOD MORNING, EVERYONE.", "Good morning, everyone."),
        ("The TRAIN to NASA leaves.", "The train to NASA leaves."),
        ('plain text; isn\'t it? "Yes"', 'plain text; isn\'t it? "Yes"'),
    ],
)
def test_what_needs_no_grammar(written, said):
    assert TextNormalizer()(written) == said


def test_without_the_library_digits_are_left_and_warned_of(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wetext", None)
    with caplog.at_level(logging.WARNING, logger="dtm_hf"):
        assert TextNormalizer()("at 7:15 € sharp") == "at 7:15 € sharp"
        assert TextNormalizer()("a €") == "a €"
    (record,) = caplog.records
    assert "dtm-hf[normalize]" in record.message


def test_goes_with_a_pipeline(tiny_pipeline, reference_audio, tmp_path):
    parts = tiny_pipeline.components | {"text_normalizer": TextNormalizer()}
    DTMPipeline(**parts).save_pretrained(tmp_path)
    assert "said in words by TextNormalizer, language en" in (tmp_path / "README.md").read_text()
    loaded = DTMPipeline.from_pretrained(tmp_path)
    (row,) = loaded.prepare("Call 555-1234.", reference_audio, "some words")
    assert row.text == "Call five five five, one two three four."
    # Without one, as in F5-TTS, digits go to the tokenizer, whose vocabulary here has none.
    (row,) = tiny_pipeline.prepare("Call 555-1234.", reference_audio, "some words")
    assert row.text == "Call -."


def test_a_vocabulary_of_words(vocab_file, tiny_pipeline, reference_audio, tmp_path, caplog):
    tokenizer = F5Tokenizer(vocab_file, words=["Yes", "isn't", "it"])
    assert tokenizer.unknown_words("Yes, it ISN'T! No; no 7") == ["No", "no", "7"]
    DTMPipeline(**tiny_pipeline.components | {"tokenizer": tokenizer}).save_pretrained(tmp_path)
    assert "3, and no others: isn't, it, yes" in (tmp_path / "README.md").read_text()
    loaded = DTMPipeline.from_pretrained(tmp_path)
    assert loaded.tokenizer.words == {"yes", "isn't", "it"}
    with caplog.at_level(logging.WARNING, logger="dtm_hf"):
        loaded.prepare(["yes it is", "it was"], reference_audio, "some words")
        loaded.prepare("yes", reference_audio, "some words")
    (record,) = caplog.records
    assert "['is', 'was']" in record.message and "It knows 3" in record.message
    assert F5Tokenizer(vocab_file).unknown_words("anything") == []

"""Errors of words and characters, and a recogniser that hears the words of a small vocabulary."""

import pytest
from spoken import clip, item, noisy, silence, spoken, text

from dtm_hf.evaluation.metrics.normalization import NORMALIZATIONS, comparable, marks_dropped
from dtm_hf.evaluation.metrics.words import CharacterErrorRate, Ears, WordErrorRate
from dtm_hf.evaluation.recognizers import VocabularyRecognizer
from dtm_hf.evaluation.recognizers.vocabulary import vocabulary_of


@pytest.fixture(scope="module")
def recognizer():
    return VocabularyRecognizer(vocabulary_of(" ".join(map(text, ("heart", "michael")))))


class Echo:
    name, normalization = "echo 1.0", "words"

    def __init__(self, text):
        self.text = text
        self.calls = 0

    def transcribe(self, waveform, sampling_rate):
        self.calls += 1
        return self.text

    def unheard(self, text):
        return [word for word in text.split() if word == "blorptz"]


def errors(heard, text, language="en", normalization=None, metric=WordErrorRate):
    return metric(Ears(Echo(heard), normalization))(spoken(silence(0.1)), item(text=text, language=language))


@pytest.mark.parametrize(
    ("heard", "figures"),
    [
        ("meet me at seven", (0, 4)),
        ("Meet me, at SEVEN!", (0, 4)),
        ("meet me at six", (1, 4)),
        ("meet at seven", (1, 4)),
        ("meet me me at seven", (1, 4)),
        ("", (4, 4)),
        ("a b c d e f", (6, 4)),
    ],
)
def test_errors_are_substitutions_deletions_and_insertions(heard, figures):
    assert errors(heard, "Meet me at seven.") == figures


def test_chinese_is_counted_in_characters_without_punctuation():
    assert errors("我打破了一个盘子", "我打破了一个盘子。", "zh") == (0, 8)
    assert errors("我打破 一个杯子！", "我，打破了一个盘子。", "zh-CN") == (2, 8)


def test_marks_are_dropped_as_in_the_published_tables():
    assert marks_dropped("Don't — “twenty-one”, ¥5!", "en") == ["dont", "twentyone", "5"]
    assert marks_dropped("《你》好　OK？", "zh") == ["你", "好", "O", "K"]


def test_a_text_without_words_has_no_figure():
    assert errors("something", "...") is None


def test_real_speech_is_heard_and_silence_is_not(recognizer):
    metric = WordErrorRate(recognizer)
    for voice in ("michael", "heart"):
        judged = item(voice)
        wrong, words = metric(spoken(judged.recording), judged)
        assert wrong / words <= 0.2
        wrong, words = metric(spoken(silence()), judged)
        assert wrong / words >= 1
        wrong, words = metric(spoken(noisy(judged.recording, 10.0)), judged)
        assert wrong / words >= 0.8
    other = metric(spoken(clip("michael")), item("heart"))
    assert other[0] / other[1] >= 0.8


def test_characters_are_counted_without_blanks():
    assert errors("meat me at seven", "Meet me at seven.", metric=CharacterErrorRate) == (1, 13)
    assert errors("meetme at seven", "Meet me at seven.", metric=CharacterErrorRate) == (0, 13)
    assert errors("我打破了一个杯子", "我打破了一个盘子。", "zh", metric=CharacterErrorRate) == (1, 8)


@pytest.mark.parametrize(
    ("text", "heard", "errors_and_words"),
    [
        ("Meet me at 7:15 p.m.", "meet me at seven fifteen PM", (0, 8)),
        ("Meet me at 7:15.", "Meet me at 7.50.", (2, 6)),
        ("Call 555-1234.", "call five five five one two three four", (0, 8)),
        ("One. Two. Three.", "1, 2, 3", (0, 3)),
        ("In 1984 it cost $20.", "in nineteen eighty four it cost twenty dollars", (0, 10)),
        ("It’s nine O’Clock.", "it is 9 o'clock", (0, 4)),
        ("Is any one there?", "Is anyone there?", (0, 4)),
        ("Is anyone there?", "is any one there", (0, 3)),
        ("Everybody came every day.", "every body came everyday", (0, 4)),
        ("Her favourite colour.", "her favorite color", (0, 3)),
        ("Mr. Smith can't.", "mister smith cannot", (0, 4)),
        ("Is any one there?", "is any where", (2, 4)),
    ],
)
def test_english_is_compared_however_it_is_written(text, heard, errors_and_words):
    assert errors(heard, text, normalization="english") == errors_and_words


def test_published_tables_count_compounds_as_they_are_written():
    assert errors("any one", "anyone", normalization="f5-tts") == (2, 1)
    assert errors("any one", "anyone", normalization="words") == (0, 1)
    with pytest.raises(ValueError, match=f"`normalization` must be one of {', '.join(NORMALIZATIONS)}.*'loud'"):
        comparable("a", "a", "loud")


def test_one_recogniser_listens_once_for_all_metrics():
    echo = Echo("meet me")
    ears = Ears(echo)
    words, characters, said = WordErrorRate(ears), CharacterErrorRate(ears), spoken(silence(0.1))
    assert (words(said, item(text="meet him")), characters(said, item(text="meet him"))) == ((1, 2), (3, 7))
    assert echo.calls == 1
    echo.text = "meet him"
    assert words(spoken(silence(0.1)), item(text="meet him")) == (0, 2) and echo.calls == 2
    assert ears.name == "echo 1.0; texts compared as words"


def test_a_sentence_with_a_word_that_cannot_be_heard_has_no_figure():
    assert errors("meet me", "meet blorptz") is None
    assert errors("meet me", "meet blorptz", metric=CharacterErrorRate) is None

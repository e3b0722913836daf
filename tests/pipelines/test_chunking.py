"""Durations of chunks, and how they are joined, against the rules of `f5_tts.infer.utils_infer` worked out by hand."""

import numpy as np
import pytest

from dtm_hf.pipelines.chunking import (
    chunk_text,
    cross_fade,
    finish_reference_text,
    longest_chunk,
    share_seconds,
    target_frames,
)


def test_neighbours_overlap_in_a_linear_fade_of_150_ms():
    rate = 1000
    joined = cross_fade([np.ones(400), np.full(500, 3.0), np.ones(300)], rate)
    assert len(joined) == 400 + 500 + 300 - 2 * 150
    np.testing.assert_array_equal(joined[:250], 1.0)
    np.testing.assert_allclose(joined[250:400], np.linspace(1, 3, 150))
    np.testing.assert_array_equal(joined[400:600], 3.0)
    np.testing.assert_allclose(joined[600:750], np.linspace(3, 1, 150))
    np.testing.assert_array_equal(joined[750:], 1.0)


def test_a_short_neighbour_shortens_the_fade():
    assert len(cross_fade([np.ones(400), np.ones(20)], 1000)) == 400
    assert len(cross_fade([np.ones(400), np.ones(0)], 1000)) == 400


def test_a_wanted_duration_is_that_of_the_joined_speech():
    chunks = ["a" * 30, "b" * 10]
    seconds = share_seconds(4.0, chunks)
    assert seconds[0] == pytest.approx(3 * seconds[1])
    waves = [np.ones(round(second * 24000)) for second in seconds]
    assert len(cross_fade(waves, 24000)) == pytest.approx(4.0 * 24000, abs=2)


def test_the_pace_is_that_of_the_recording_in_bytes():
    # 200 frames for 20 bytes: 10 frames a byte.
    assert target_frames("x" * 30, "y" * 20, 200, speed=1.0) == 300
    assert target_frames("x" * 30, "y" * 20, 200, speed=2.0) == 150
    assert target_frames("é" * 15, "y" * 20, 200, speed=1.0) == 300
    # Under ten bytes F5-TTS takes a speed of 0.3 whatever was asked for.
    assert target_frames("x" * 9, "y" * 20, 200, speed=1.0) == int(90 / 0.3)


def test_a_predictor_takes_the_place_of_bytes():
    # One second for each x: three times the prompt, and no rule of its own for few bytes.
    assert target_frames("xxx yyyyy", "xyyy", 200, 1.0, measure=lambda text: text.count("x")) == 600
    assert target_frames("xxx yyyyy", "xyyy", 200, 2.0, measure=lambda text: text.count("x")) == 300
    seconds = share_seconds(4.0, ["x" * 30, "x" * 10 + "y" * 90], measure=lambda text: text.count("x"))
    assert seconds == pytest.approx([4.15 * 0.75, 4.15 * 0.25])


def test_a_chunk_and_its_prompt_fit_into_22_seconds():
    # 5 bytes a second beside a prompt of 12 s.
    assert longest_chunk("y" * 60, 12.0, speed=1.0) == 50
    text = " ".join(["a clause of some twenty bytes,"] * 9)
    chunks = chunk_text(text, 70)
    assert len(chunks) > 1 and all(len(chunk) <= 70 for chunk in chunks)
    assert " ".join(chunks) == text


def test_chunks_are_as_long_as_the_measure_says():
    # A prompt of 2 s that measures 1: 10 fit beside it, whatever their bytes.
    longest = longest_chunk("x" + "y" * 50, 2.0, 1.0, measure=lambda text: text.count("x"))
    assert longest == pytest.approx(10)
    chunks = chunk_text("xxxx, yyyyyyyy, xxxx, xxxx, y.", longest, measure=lambda text: text.count("x"))
    assert chunks == ["xxxx, yyyyyyyy, xxxx,", "xxxx, y."]


def test_a_clause_without_punctuation_is_cut_at_words_into_equal_parts():
    text = "word " * 600
    chunks = chunk_text(text, 100)
    assert " ".join(chunks) == text.strip() and all(set(chunk.split()) == {"word"} for chunk in chunks)
    assert max(map(len, chunks)) <= 100 and min(map(len, chunks)) >= 90
    # Its neighbours are cut as ever; a short last word is not left alone.
    assert chunk_text("one, two. " + "three " * 10 + "four", 35) == [
        "one, two.",
        "three three three three three",
        "three three three three three four",
    ]
    assert chunk_text("one two three four", 14) == ["one two", "three four"]


def test_a_clause_that_is_a_little_longer_stays_whole():
    assert chunk_text("one two three four", 15) == ["one two three four"]
    assert chunk_text("one two. three four five", 16) == ["one two.", "three four five"]


def test_a_script_without_blanks_is_cut_at_characters():
    text = "长" * 100
    assert "".join(chunk_text(text, 60)) == text and {len(chunk) for chunk in chunk_text(text, 60)} == {20}
    # A word is not cut, however little a chunk may hold.
    assert chunk_text("unbelievable things", 3) == ["unbelievable", "things"]


def test_a_chunk_gets_a_third_beside_a_prompt_that_leaves_less():
    assert longest_chunk("y" * 60, 12.0, speed=1.0, max_seconds=15.0) == 5 * 5
    assert longest_chunk("y" * 60, 12.0, speed=1.0, max_seconds=18.0) == 5 * 6


@pytest.mark.parametrize(
    ("given", "finished"),
    [
        ("Hi", "Hi. "),
        ("Hi.", "Hi. "),
        ("Hi. ", "Hi. "),
        ("你。", "你。"),
        ('"Hi."', "Hi. "),
        ('"Hi" and "bye"', '"Hi" and "bye". '),
    ],
)
def test_the_end_of_a_prompts_text(given, finished):
    assert finish_reference_text(given) == finished

"""Speech in chunks: where a text is cut, that chunks are together the whole, and what a stream says."""

import weakref

import numpy as np
import pytest
import torch

from dtm_hf import F5Backbone
from dtm_hf.pipelines import speech
from dtm_hf.pipelines.chunking import cross_fade, num_bytes
from dtm_hf.pipelines.streaming import fade_together, stream_chunks

SAID = "What is said."


def test_a_text_is_cut_into_sentences_and_the_first_is_short():
    text = "Good morning, dear listeners, to the news. It rains. A long sentence, with a clause, and more. 好。完。"
    assert stream_chunks(text, 30, 15, num_bytes) == [
        "Good morning,",
        "dear listeners, to the news.",
        "It rains.",
        "A long sentence,",
        "with a clause, and more.",
        "好。",
        "完。",
    ]
    joined = "".join(stream_chunks(text, 30, 15, num_bytes))
    assert joined.replace(" ", "") == text.replace(" ", "")


def test_a_first_sentence_without_a_mark_stays_whole():
    assert stream_chunks("One two three four five. Six.", 100, 5, num_bytes) == ["One two three four five.", "Six."]


@pytest.mark.parametrize("lengths", [[5000], [9000, 8000, 7000], [100, 9000, 50, 20, 4000], [3600, 3600], [0, 10, 0]])
def test_chunks_are_together_what_the_cross_fade_makes(lengths):
    generator = np.random.default_rng(0)
    waves = [generator.standard_normal(length).astype(np.float32) for length in lengths]
    chunks = list(fade_together(iter(waves), 24000))
    np.testing.assert_allclose(np.concatenate(chunks), cross_fade(waves, 24000), atol=1e-6)
    assert all(len(chunk) and chunk.dtype == np.float32 for chunk in chunks)


def test_a_chunk_comes_before_the_next_is_made():
    made = []

    def waves():
        for i in range(3):
            made.append(i)
            yield np.ones(9000, dtype=np.float32)

    stream = fade_together(waves(), 24000)
    next(stream)
    assert made == [0]


def test_a_stream_is_its_sentences_cross_faded(tiny_pipeline, reference_audio):
    text, sampling = "Good morning. Hello there.", {"num_inference_steps": 2}
    chunks = list(
        tiny_pipeline.stream(text, reference_audio, SAID, generator=torch.Generator().manual_seed(0), **sampling)
    )
    generator = torch.Generator().manual_seed(0)
    alone = [
        tiny_pipeline(part, reference_audio, SAID, generator=generator, **sampling).audios[0]
        for part in ("Good morning.", "Hello there.")
    ]
    assert len(chunks) >= 2
    np.testing.assert_allclose(np.concatenate(chunks), cross_fade(alone, 24000), atol=1e-5)


def test_a_stream_holds_one_sentence_at_a_time(tiny_pipeline, reference_audio, monkeypatch):
    made = {"embeds": [], "noise": [], "mel": [], "wave": []}

    def watched(owner, name, kind, parts=lambda result: result):
        run = getattr(owner, name)

        def watch(*args, **kwargs):
            result = run(*args, **kwargs)
            made[kind] += map(weakref.ref, parts(result))
            return result

        monkeypatch.setattr(owner, name, watch)

    watched(F5Backbone, "encode_text", "embeds", lambda embeds: [embeds.cond])
    watched(speech, "draw_noise", "noise", lambda noise: [noise])
    watched(tiny_pipeline, "sample", "mel")
    watched(tiny_pipeline, "decode", "wave")
    stream = tiny_pipeline.stream("Good morning. " * 8, reference_audio, SAID, num_inference_steps=1, num_head_steps=0)
    next(stream)
    assert {kind: len(each) for kind, each in made.items()} == dict.fromkeys(made, 1)
    for _ in stream:
        alive = {kind: sum(one() is not None for one in each) for kind, each in made.items()}
        # Of the sentence before, the end waits to be cross-faded.
        assert max(alive.values()) <= 2, alive
    assert {kind: len(each) for kind, each in made.items()} == dict.fromkeys(made, 8)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"text": ["a", "b"]}, TypeError), ({"text": " "}, ValueError), ({"reference_text": ""}, ValueError)],
)
def test_what_cannot_be_streamed_is_refused_before_the_first_chunk(tiny_pipeline, reference_audio, arguments, error):
    with pytest.raises(error):
        tiny_pipeline.stream(
            **{"text": "Hello.", "reference_audio": reference_audio, "reference_text": SAID} | arguments
        )

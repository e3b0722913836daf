"""What a batcher speaks with: a pipeline and a port answer as they do when they are called."""

import numpy as np
import pytest
import torch

from dtm_hf.runtime import Batcher, Speaker

SAID = "What is said."
TEXTS = ["Hello there.", "A long line, which is cut, " * 40, "Yes."]
SAMPLING = {"num_inference_steps": 1, "num_head_steps": 0}


@pytest.fixture(scope="module", params=["pipeline", "port"])
def either(request, port):
    """A speaker, and what it says and streams when it is called by itself."""
    if request.param == "port":
        speaker = Speaker.from_pretrained(port, threads=1)

        def call(text, audio, seed):
            return speaker(text, audio, SAID, seed=seed, **SAMPLING).audio

        def stream(text, audio, seed):
            return speaker.stream(text, audio, SAID, seed=seed, **SAMPLING)

        return speaker, call, stream
    speaker = request.getfixturevalue("speaker")

    def call(text, audio, seed):
        generator = torch.Generator().manual_seed(seed)
        return speaker.pipeline(text, audio, SAID, generator=generator, **SAMPLING).audios[0]

    def stream(text, audio, seed):
        generator = torch.Generator().manual_seed(seed)
        return speaker.pipeline.stream(text, audio, SAID, generator=generator, **SAMPLING)

    return speaker, call, stream


def test_requests_in_a_batch_are_what_calls_say(either, reference_audio):
    speaker, call, _ = either
    with Batcher(speaker, max_rows=8, max_wait_s=1.0) as batcher:
        asked = [batcher.submit(text, reference_audio, SAID, seed=i, **SAMPLING) for i, text in enumerate(TEXTS)]
        for i, (text, answer) in enumerate(zip(TEXTS, asked, strict=True)):
            audio, alone = answer.result(60).audio, call(text, reference_audio, i)
            np.testing.assert_allclose(audio, alone, atol=1e-3 * np.abs(alone).max())


def test_rows_one_by_one_are_what_a_stream_says(either, reference_audio):
    from dtm_hf.pipelines.streaming import fade_together

    speaker, _, stream = either
    generator, text = speaker.noise(3), "Good morning. Hello, all of you. Yes."
    rows = speaker.stream_rows(text, reference_audio, SAID, 1.0, generator)
    with Batcher(speaker) as batcher:
        waves = (batcher.submit_rows([row], generator, **SAMPLING).result(60)[0] for row in rows)
        heard = np.concatenate(list(fade_together(waves, speaker.sampling_rate)))
    alone = np.concatenate(list(stream(text, reference_audio, 3)))
    np.testing.assert_allclose(heard, alone, atol=1e-3 * np.abs(alone).max())


def test_a_stream_of_nothing_is_refused_at_once(either, reference_audio):
    with pytest.raises(ValueError, match="`text`"):
        either[0].stream_rows(" ", reference_audio, SAID)

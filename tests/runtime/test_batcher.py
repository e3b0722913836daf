"""`Batcher`: many clients, one thread that speaks; each is told what it would have been told alone."""

import threading

import numpy as np
import pytest

from dtm_hf.runtime import Batcher, Speaker

SAID = "What is said."
TEXTS = ["Hello there.", "Hi.", "Good morning to you all.", "Yes.", "No, thank you."]


@pytest.fixture(scope="module")
def speaker(port):
    return Speaker.from_pretrained(port, threads=1)


@pytest.fixture
def sizes(speaker, monkeypatch):
    """Rows of each batch that was sampled."""
    found, sample = [], speaker.sample

    def counted(rows, *args, **kwargs):
        found.append(len(rows))
        return sample(rows, *args, **kwargs)

    monkeypatch.setattr(speaker, "sample", counted)
    return found


def test_each_client_hears_what_it_would_hear_alone(speaker, sizes, reference_audio):
    with Batcher(speaker, max_wait_s=2.0, max_rows=len(TEXTS)) as batcher:
        answers = [batcher.submit(text, reference_audio, SAID, seed=i) for i, text in enumerate(TEXTS)]
        spoken = [answer.result(60).audio for answer in answers]
    assert sizes == [len(TEXTS)]
    for i, (text, audio) in enumerate(zip(TEXTS, spoken, strict=True)):
        alone = speaker(text, reference_audio, SAID, seed=i).audio
        assert audio.shape == alone.shape
        assert np.abs(audio - alone).max() < 1e-3 * np.abs(alone).max()


def test_requests_that_are_sampled_otherwise_do_not_share_a_batch(speaker, sizes, reference_audio):
    with Batcher(speaker, max_wait_s=0.5) as batcher:
        steps = (1, 2, 1, 2, 1)
        answers = [
            batcher.submit(text, reference_audio, SAID, num_inference_steps=n, num_head_steps=0)
            for text, n in zip(TEXTS, steps, strict=True)
        ]
        spoken = [answer.result(60).audio for answer in answers]
    assert sorted(sizes) == [2, 3]
    expected = speaker(TEXTS[1], reference_audio, SAID, num_inference_steps=2, num_head_steps=0).audio
    np.testing.assert_allclose(spoken[1], expected, atol=1e-3 * np.abs(expected).max())


def test_many_threads_may_ask_at_once(speaker, sizes, reference_audio):
    heard = {}
    with Batcher(speaker, max_rows=3) as batcher:

        def client(i):
            text = TEXTS[i % len(TEXTS)]
            heard[i] = batcher.submit(text, reference_audio, SAID, num_inference_steps=1, seed=i).result(60).audio

        threads = [threading.Thread(target=client, args=(i,)) for i in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(heard) == list(range(10)) and sum(sizes) == 10 and max(sizes) <= 3


def test_a_bad_request_is_refused_and_harms_no_other(speaker, reference_audio):
    with Batcher(speaker) as batcher:
        with pytest.raises(ValueError, match="`text`"):
            batcher.submit(" ", reference_audio, SAID)
        wrong = batcher.submit("Hi.", reference_audio, SAID, num_head_steps=3)
        good = batcher.submit("Hi.", reference_audio, SAID)
        with pytest.raises(ValueError, match="`num_head_steps`"):
            wrong.result(60)
        assert len(good.result(60).audio)


def test_a_closed_batcher_takes_nothing_more_and_speaks_what_it_has(speaker, reference_audio):
    batcher = Batcher(speaker, max_wait_s=0.0)
    answers = [batcher.submit(text, reference_audio, SAID, num_inference_steps=1) for text in TEXTS]
    batcher.close()
    batcher.close()
    assert all(len(answer.result(0).audio) for answer in answers)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("Hi.", reference_audio, SAID)


LONG = "Good morning to you all, and a good evening. " * 12


def test_others_are_spoken_between_the_rows_of_a_long_text(speaker, reference_audio, monkeypatch):
    order, sample, begun = [], speaker.sample, threading.Event()

    def noted(rows, *args, **kwargs):
        order.append([row.text for row in rows])
        assert begun.wait(60)
        return sample(rows, *args, **kwargs)

    monkeypatch.setattr(speaker, "sample", noted)
    fast = {"num_inference_steps": 1, "num_head_steps": 0}
    with Batcher(speaker, max_rows=1, max_wait_s=0.0) as batcher:
        long = batcher.submit(LONG, reference_audio, SAID, seed=3, **fast)
        short = [batcher.submit(text, reference_audio, SAID, **fast) for text in TEXTS[:2]]
        begun.set()
        assert all(len(answer.result(60).audio) for answer in short)
        spoken = long.result(60).audio
    texts = [text for (text,) in order]
    assert len(texts) >= 5 and texts[1:3] == TEXTS[:2]
    # And a long text is what it is alone.
    monkeypatch.undo()
    np.testing.assert_array_equal(spoken, speaker(LONG, reference_audio, SAID, seed=3, **fast).audio)


def test_what_is_given_up_is_spoken_no_further(speaker, reference_audio, monkeypatch):
    rows, sample, asked, permits = [], speaker.sample, threading.Semaphore(0), threading.Semaphore(0)

    def noted(batch, *args, **kwargs):
        rows.extend(row.text for row in batch)
        asked.release()
        assert permits.acquire(timeout=60)
        return sample(batch, *args, **kwargs)

    monkeypatch.setattr(speaker, "sample", noted)
    fast = {"num_inference_steps": 1, "num_head_steps": 0}
    with Batcher(speaker, max_rows=1, max_wait_s=0.0) as batcher:
        long = batcher.submit(LONG, reference_audio, SAID, **fast)
        assert asked.acquire(timeout=60)
        assert long.cancel()
        permits.release(100)
        assert len(batcher.submit("Hi.", reference_audio, SAID, **fast).result(60).audio)
    assert len(rows) == 2 and rows[1] == "Hi."


@pytest.mark.parametrize("settings", [{"max_rows": 0}, {"max_rows": 1.5}, {"max_wait_s": -1}])
def test_settings_that_make_no_sense_are_refused(speaker, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Batcher(speaker, **settings)

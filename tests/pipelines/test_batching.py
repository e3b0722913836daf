"""Rows in batches: what a row becomes depends neither on its neighbours nor on how many run at once."""

import numpy as np
import pytest
import torch

from dtm_hf.pipelines.batching import default_batch_frames, split_batches

SAID = "some words."
LONG = " ".join(["this is one of the sentences that make a long text."] * 6)
TEXTS = ["yes, that was said", "no", LONG, "and so on"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def speak(tiny_pipeline, reference_audio):
    def speak(texts, generators, **kwargs):
        sampling = {"num_inference_steps": 2, "output_type": "mel"} | kwargs
        # A slow prompt text leaves little room for text in 22 seconds.
        return tiny_pipeline(texts, reference_audio, "one", generator=generators, **sampling).audios

    return speak


@pytest.fixture
def batch_sizes(tiny_pipeline):
    sizes = []
    handle = tiny_pipeline.backbone.register_forward_hook(
        lambda _module, inputs, _output: sizes.append(len(inputs[0]))
    )
    yield sizes
    handle.remove()


@pytest.mark.parametrize("frames", [None, 1])
def test_a_row_alone_is_what_it_is_to_the_bit(speak, frames):
    together = speak(TEXTS, [generator(i) for i in range(len(TEXTS))], max_batch_frames=frames)
    for i, text in enumerate(TEXTS):
        assert torch.equal(together[i], speak(text, generator(i), max_batch_frames=frames)[0])


@pytest.mark.parametrize("kind", ["the call's", "each its own", "one for each"])
def test_batches_of_any_size_differ_by_rounding_alone(speak, kind, batch_sizes):
    def spoken(frames):
        generators = {
            "the call's": generator(),
            "each its own": [generator(i) for i in range(len(TEXTS))],
            "one for each": [generator()] * len(TEXTS),
        }
        return speak(TEXTS, generators[kind], max_batch_frames=frames, guidance_scale=1.0)

    one_by_one = spoken(1)
    assert set(batch_sizes) == {1}
    for frames in (4000, 10**9):
        del batch_sizes[:]
        for alone, other in zip(one_by_one, spoken(frames), strict=True):
            assert (alone - other).abs().max() <= 1e-4
        assert max(batch_sizes) > 1


def test_chunks_and_texts_have_noise_of_their_own(speak, tiny_pipeline, reference_audio):
    same = speak(["no", "no"], generator())
    assert (same[0] - same[1]).abs().max() > 1e-2
    rows = tiny_pipeline.prepare(LONG, reference_audio, "one")
    noise = tiny_pipeline.prepare_latents(rows, generator())
    assert len(rows) > 2 and not torch.equal(noise[0, :50], noise[1, :50])
    # The first draws what F5-TTS draws.
    assert torch.equal(noise[0, : rows[0].num_frames], torch.randn(rows[0].num_frames, 100, generator=generator()))


def test_given_latents_are_those_of_each_row(speak, tiny_pipeline, reference_audio):
    rows = tiny_pipeline.prepare(TEXTS, reference_audio, "one")
    noise = tiny_pipeline.prepare_latents(rows, generator())
    drawn = speak(TEXTS, generator(), num_head_steps=0, max_batch_frames=1)
    given = speak(TEXTS, None, num_head_steps=0, max_batch_frames=1, latents=noise)
    assert all(torch.equal(one, other) for one, other in zip(drawn, given, strict=True))


def test_an_interruption_holds_for_all_batches(speak, batch_sizes):
    def interrupt(pipe, step, timestep, tensors):
        pipe._interrupt = True
        return tensors

    speak(TEXTS, generator(), max_batch_frames=1, callback_on_step_end=interrupt)
    assert len(batch_sizes) == 1


def test_batches_hold_what_they_may(tiny_pipeline, reference_audio):
    rows = tiny_pipeline.prepare(TEXTS, reference_audio, "one")
    lengths = [row.num_frames for row in rows]
    for frames in (1, 2500, 5000, 10**9):
        batches = split_batches(rows, frames)
        assert [index for batch in batches for index in batch] == list(range(len(rows)))
        assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= frames for b in batches)
    assert len(split_batches(rows, 10**9)) == 1
    for wrong in (0, 2.5, "many"):
        with pytest.raises(ValueError, match="`max_batch_frames` must be a whole number of frames"):
            split_batches(rows, wrong)


def test_a_cpu_takes_rows_one_by_one(backbone):
    assert default_batch_frames(backbone, torch.device("cpu")) == 1


def test_chunks_are_vocoded_one_by_one_as_in_a_batch(tiny_pipeline, reference_audio):
    rows = tiny_pipeline.prepare(["yes", "that was said", "no"], reference_audio, SAID)
    mels = [torch.full((row.num_frames - row.reference.num_frames, 100), -5.0) for row in rows]
    audios = tiny_pipeline.decode(rows, mels)
    alone = [tiny_pipeline.decode([row], [mel])[0] for row, mel in zip(rows, mels, strict=True)]
    assert all(np.array_equal(a, b) for a, b in zip(audios, alone, strict=True))

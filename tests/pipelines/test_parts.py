"""A call is prepare, sample, decode: by themselves, a few rows at a time, and with rows of other calls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import SAMPLING_RATE, voice

SAID = "some words."
LONG = " ".join(["this is one of the sentences that make a long text."] * 6)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_three_parts_are_the_call(tiny_pipeline, reference_audio):
    texts, sampling = ["yes, that was said", "no"], {"num_inference_steps": 2, "guidance_scale": 2.0}
    rows = tiny_pipeline.prepare(texts, reference_audio, SAID, speed=1.1)
    mels = tiny_pipeline.sample(rows, generator=[generator(0), generator(1)], **sampling)
    audios = tiny_pipeline.decode(rows, mels)
    generators = [generator(0), generator(1)]
    expected = tiny_pipeline(texts, reference_audio, SAID, speed=1.1, generator=generators, **sampling).audios
    assert all(np.array_equal(one, other) for one, other in zip(audios, expected, strict=True))


def test_rows_of_a_long_text_can_be_sampled_one_by_one(tiny_pipeline, reference_audio):
    # A slow prompt text leaves little room for text in 22 seconds.
    rows = tiny_pipeline.prepare([LONG, "no"], reference_audio, "one")
    assert len(rows) > 3 and [row.text_index for row in rows] == [0] * (len(rows) - 1) + [1]
    noise = tiny_pipeline.prepare_latents(rows, generator(0))
    sampling = {"num_inference_steps": 1, "num_head_steps": 0}
    together = tiny_pipeline.sample(rows, latents=noise, **sampling)
    for i, row in enumerate(rows[:2]):
        (alone,) = tiny_pipeline.sample([row], latents=noise[i : i + 1, : row.num_frames], **sampling)
        assert (alone - together[i]).abs().max() <= 1e-4
    joined = tiny_pipeline.decode(rows, together, output_type="mel")
    assert torch.equal(joined[0], torch.cat(together[:-1])) and torch.equal(joined[1], together[-1])
    # Of a call of several texts, a part takes the generators of all.
    (mel,) = tiny_pipeline.sample(rows[:1], generator=[generator(0), generator(1)], **sampling)
    assert len(mel) == len(together[0])
    with pytest.raises(ValueError, match="`generator` must have one entry for each of 2 texts, but got 1"):
        tiny_pipeline.sample(rows[-1:], generator=[generator(0)])


def test_rows_of_several_calls_can_share_a_batch(tiny_pipeline, reference_audio):
    calls = [
        tiny_pipeline.prepare("yes, that was said", reference_audio, SAID),
        tiny_pipeline.prepare("a text that is longer", (voice(0.9, pitch=210, seed=3), SAMPLING_RATE), "other words"),
    ]
    rows = [replace(row, text_index=i) for i, call in enumerate(calls) for row in call]
    together = tiny_pipeline.sample(rows, generator=[generator(0), generator(1)])
    for i, call in enumerate(calls):
        (alone,) = tiny_pipeline.sample(call, generator=generator(i))
        assert (together[i] - alone).abs().max() <= 1e-4


def test_each_part_refuses_what_is_its_own(tiny_pipeline, reference_audio):
    with pytest.raises(ValueError, match="`text` must be text, but got .* half a surrogate pair at position 2"):
        tiny_pipeline.prepare("ab\ud800", reference_audio, SAID)
    with pytest.raises(ValueError, match="`reference_text` must be text"):
        tiny_pipeline.prepare("ab", reference_audio, "c\udfff")
    rows = tiny_pipeline.prepare("yes", reference_audio, SAID)
    with pytest.raises(ValueError, match="`guidance_end` must lie in"):
        tiny_pipeline.sample(rows, guidance_end=2.0)
    with pytest.raises(ValueError, match="`output_type` must be one of"):
        tiny_pipeline.decode(rows, [], output_type="wav")

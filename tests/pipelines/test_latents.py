"""The continuous mode of TRM: latents of the codec, drawn by the flow head that F5-TTS has, in the same pipeline."""

import numpy as np
import pytest
import tiny_trm
import torch
from tiny_codec import tiny_codec
from tiny_trm import MASK, SPEAKERS, TEXT

from dtm_hf import DTMHead, DTMScheduler, TRMPipeline
from dtm_hf.codec.mimi import decode_codes, decode_latents, latents_of_codes
from dtm_hf.hub import fill_card
from dtm_hf.pipelines.guidance import ClassifierFreeGuidance
from dtm_hf.pipelines.latent_sampler import generate_latents
from dtm_hf.pipelines.sampler import SamplingState
from dtm_hf.ports.recipes import recipe_of

WIDTH = 64


@pytest.fixture(scope="module")
def pipe(vocab_file):
    return tiny_trm.pipeline(vocab_file, latent_dim=WIDTH)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_latents_of_codes_sound_as_the_codes_do_and_a_batch_is_its_items():
    codec = tiny_codec()
    codes = [torch.randint(16, (3, frames), generator=seeded(frames)) for frames in (9, 4)]
    latents = [latents_of_codes(codec, item[None])[0] for item in codes]
    assert latents[0].shape == (WIDTH, 9)
    for one, other in zip(decode_latents(codec, latents[:1]), decode_codes(codec, codes[:1]), strict=True):
        assert torch.equal(one, other)
    together = decode_latents(codec, latents)
    for item, sound in zip(latents, together, strict=True):
        (alone,) = decode_latents(codec, [item])
        torch.testing.assert_close(alone, sound, atol=1e-5 * float(alone.abs().max()), rtol=0)
    for wrong in (latents[0][:3], codes[0], latents[0] * float("nan")):
        with pytest.raises(ValueError, match="`latents` must be"):
            decode_latents(codec, [wrong])


def flow(calls=2, **changes):
    scheduler = DTMScheduler(num_inference_steps=1, num_head_steps=calls, **changes)
    scheduler.set_timesteps(1, calls)
    return scheduler


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_a_head_that_has_learnt_nothing_gives_the_mean(calls):
    """The second identity of DTM's residual form, on latents."""
    network, noise = tiny_trm.model(latent_dim=WIDTH), torch.randn(2, WIDTH, 9, generator=seeded())
    network.latent_mean.fill_(2.0)
    network.latent_std.fill_(3.0)
    given = (TEXT, SPEAKERS, MASK, noise)
    found = generate_latents(network, tiny_trm.flow_head(WIDTH, moved=False), flow(calls), 2, *given)
    with torch.no_grad():
        mean = 3 * network.mean_latents(network(TEXT, SPEAKERS, MASK, num_cycles=2).answer) + 2
    torch.testing.assert_close(found.transpose(1, 2)[MASK], mean[MASK], atol=1e-4, rtol=1e-4)
    bypassed = generate_latents(network, tiny_trm.flow_head(WIDTH), flow(0), 2, *given)
    torch.testing.assert_close(bypassed.transpose(1, 2)[MASK], mean[MASK], atol=1e-4, rtol=1e-4)
    drawn = generate_latents(network, tiny_trm.flow_head(WIDTH), flow(calls), 2, *given)
    assert (drawn - found)[0].abs().max() > 0.1


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_row_is_what_it_is_alone(scale):
    network, noise = tiny_trm.model(latent_dim=WIDTH), torch.randn(2, WIDTH, 9, generator=seeded())

    def draw(rows, length, frames):
        state = SamplingState(ClassifierFreeGuidance(scale), 2)
        given = (TEXT[rows, :length], SPEAKERS[rows], MASK[rows, :frames], noise[rows, :, :frames])
        return generate_latents(network, tiny_trm.flow_head(WIDTH), flow(), 2, *given, state=state)

    together, alone = draw([0, 1], 6, 9), draw([1], 3, 5)
    torch.testing.assert_close(together[1, :, :5], alone[0], atol=1e-4, rtol=1e-4)
    if scale == 1.0:
        # Guidance is heard.
        scale = 3.0
        assert (draw([1], 3, 5) - alone).abs().max() > 1e-2


def test_it_speaks_draws_and_takes_the_mean(pipe):
    assert type(pipe.head) is DTMHead

    def latents(**options):
        given = {"generator": seeded(), "output_type": "latent"} | options
        return pipe("yes, that was said", **given).audios[0]

    base = latents()
    assert base.shape == (WIDTH, pipe.prepare("yes, that was said")[0].num_frames) and base.dtype == torch.float32
    sound = pipe("yes, that was said", generator=seeded()).audios[0]
    np.testing.assert_allclose(decode_latents(pipe.codec, [base])[0].numpy(), sound, atol=1e-5)
    others = [
        latents(voice="bob"),
        latents(generator=seeded(1)),
        latents(num_inference_steps=5),
        latents(num_head_steps=4),
        latents(temperature=0.1),
        latents(guidance_scale=3.0),
    ]
    assert not any(torch.equal(base, other) for other in others)
    assert torch.equal(base, latents())
    # The mean, and a temperature of 0, are the same whatever is drawn.
    for options in ({"num_head_steps": 0}, {"temperature": 0}):
        assert torch.equal(latents(**options), latents(generator=seeded(1), **options))


def test_batches_callbacks_recordings_and_streams(pipe, reference_audio):
    texts, seen = ["yes, that was said", "no"], []

    def note(pipeline, i, t, tensors):
        seen.append((i, tensors["codes"].shape[1]))
        return tensors

    options = {"output_type": "latent", "callback_on_step_end": note}
    together = pipe(texts, generator=[seeded(0), seeded(1)], max_batch_frames=1000, **options).audios
    assert seen == [(0, 3), (1, 3)]
    for i, text in enumerate(texts):
        alone = pipe(text, generator=seeded(i), **options).audios[0]
        torch.testing.assert_close(together[i], alone, atol=1e-4, rtol=1e-4)
    said = {"reference_audio": reference_audio, "reference_text": "some words."}
    rows = pipe.prepare("yes", **said)
    (found,) = pipe.sample(rows, temperature=0)
    known = rows[0].known_frames
    assert known > 0 and torch.equal(found[:, :known], latents_of_codes(pipe.codec, rows[0].prompt.codes[None])[0])
    spoken = pipe("yes", temperature=0, **said).audios[0]
    streamed = np.concatenate(list(pipe.stream("yes", temperature=0, piece_frames=5, **said)))
    np.testing.assert_allclose(streamed, spoken, atol=1e-4 * np.abs(spoken).max())


def test_what_is_saved_says_the_same(pipe, tmp_path):
    pipe.model.latent_std.fill_(0.5)
    pipe.save_pretrained(tmp_path)
    again = TRMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.head) is DTMHead
    for module in (again.model, again.head, again.codec):
        for parameter in module.parameters():
            # What is read from a file begins at any address, and by that some processors add in another order.
            parameter.data = parameter.data.clone()
    one, other = (p("yes", generator=seeded(), output_type="latent").audios[0] for p in (pipe, again))
    assert torch.equal(one, other)
    assert "latents, of 64 numbers a frame, drawn by a `DTMHead`" in str(fill_card(pipe, "org/trm"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"output_type": "codes"}, "`output_type` must be one of"),
        ({"decoding": "masked"}, "`decoding` must be left out for a model of latents"),
        ({"halt_threshold": 0.5}, "`halt_threshold` must be left out for a model of latents"),
        ({"num_head_steps": 3}, "`num_head_steps` must be even"),
        ({"num_head_steps": -1}, "`num_head_steps` must be an integer of at least 0"),
    ],
)
def test_what_latents_have_none_of_is_refused(pipe, options, told):
    with pytest.raises(ValueError, match=told):
        pipe("yes", **options)


def test_parts_that_do_not_fit_are_refused(pipe, vocab_file):
    coded = tiny_trm.pipeline(vocab_file)
    with pytest.raises(ValueError, match="`num_head_steps` must be left out for a model of codes"):
        coded("yes", num_head_steps=2)
    for base, changes, told in (
        (coded, {"head": tiny_trm.flow_head(WIDTH)}, "`head` must be given for a `model` with a `latent_dim` and for"),
        (pipe, {"head": None}, "but got none with 64"),
        (
            pipe,
            {"head": tiny_trm.flow_head(32)},
            "`head` must read answers of 32 and draw latents of 64",
        ),
        (
            pipe,
            {"model": tiny_trm.model(vocab_size=60, codebook_size=16, latent_dim=32)},
            "`codec` must have latents of the 32 of `model`, but has 64",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            TRMPipeline(**dict(base.components) | changes)
    with pytest.raises(ValueError, match="`model` cannot be exported: it speaks in latents"):
        recipe_of("model", pipe.model)
    with pytest.raises(ValueError, match="`latent_dim` must be from 1 to 1024, or None, but got 0"):
        tiny_trm.model(latent_dim=0)

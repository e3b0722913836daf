"""The loop of SpeechT5 against transformers' own `generate_speech`."""

import pytest
import torch
from tiny_speecht5 import kept_units, tiny_speecht5, tokens

from dtm_hf.ports.comparison import difference
from dtm_hf.ports.tolerance import BARS
from dtm_hf.speecht5.generation import EagerSteps, drawn_masks, generate, scaled_masks
from dtm_hf.speecht5.reference import SpeechT5Reference

STEPS = 150


@pytest.fixture(scope="module")
def model():
    return tiny_speecht5()


@pytest.fixture(scope="module")
def speaker():
    return torch.randn(2, 16, generator=torch.Generator().manual_seed(3))


def given_masks(model, kept, rows=1):
    """Masks for the loop from those for the reference."""
    return lambda position: scaled_masks(kept[position], model.config)[None].expand(rows, -1, -1)


def assert_same(found, expected):
    figures = difference(found.numpy(), expected.numpy())
    assert figures.within(BARS["fp32"]), figures


def test_the_loop_says_what_transformers_says(model, speaker):
    ids, mask = tokens(15)
    kept = kept_units(STEPS)
    # A bar that no probability reaches: the longest there may be, past the growth of the cache.
    expected = SpeechT5Reference(model).generate_speech(ids, speaker[:1], mask, masks=kept, threshold=2.0)
    (found,) = generate(EagerSteps(model), ids, mask, speaker[:1], given_masks(model, kept), threshold=2.0)
    assert len(found) == 300
    assert_same(found, expected)


def test_compiled_it_says_the_same(speaker, monkeypatch):
    # All of `torch.compile` but the C++, which takes a minute and is PyTorch's: `benchmarks/speecht5.py` measures it.
    compiles = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compiles(module, backend="aot_eager", fullgraph=True))
    # Longer than one cache is: the second is of another shape, and compiled for any.
    model = tiny_speecht5(decoder_layers=1)
    ids, mask = tokens(14)
    masks = given_masks(model, kept_units(140))
    (expected,) = generate(EagerSteps(model), ids, mask, speaker[:1], masks, threshold=2.0)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    (found,) = generate(EagerSteps(model, compiled=True), ids, mask, speaker[:1], masks, threshold=2.0)
    # One for the first frame, which lies in memory as no other does, one for the first cache and one for what it grows
    # to; and none a step.
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] - before <= 3
    assert len(found) == 280
    assert_same(found, expected)


def test_the_place_where_it_stops_is_theirs(model, speaker):
    ids, mask = tokens(15)
    kept = kept_units(STEPS)
    reference = SpeechT5Reference(model)
    steps = EagerSteps(model)
    sums = []
    step = steps.step

    def watched(**tensors):
        output = step(**tensors)
        sums.append(float(output["stop_logits"].sigmoid().sum()))
        return output

    steps.step = watched
    generate(steps, ids, mask, speaker[:1], given_masks(model, kept), threshold=2.0)
    # Between the sums of the tenth step and of those before, and above each of the two probabilities.
    first = max(range(20, STEPS), key=lambda i: sums[i] - max(sums[:i]))
    threshold = (sums[first] + max(sums[:first])) / 2
    for ratio in (0.0, 2 * (first + 5) / 15):
        options = {"threshold": threshold, "minlenratio": ratio}
        expected = reference.generate_speech(ids, speaker[:1], mask, masks=kept, **options)
        (found,) = generate(
            EagerSteps(model), ids, mask, speaker[:1], given_masks(model, kept), threshold, min_ratio=ratio
        )
        assert_same(found, expected)
        assert len(found) == 2 * (first + 1) if ratio == 0 else len(found) > 2 * (first + 1)


def test_text_longer_than_the_positions_is_refused_before_anything_runs(model, speaker):
    ids, mask = tokens(121)
    masks = given_masks(model, kept_units(10))
    with pytest.raises(ValueError, match="`input_ids` must have at most 120 tokens.* but got 121"):
        generate(EagerSteps(model), ids, mask, speaker[:1], masks)
    reference = SpeechT5Reference(model)
    for run in (reference.forward_encoder, lambda ids, mask: reference.generate_speech(ids, speaker[:1], mask)):
        with pytest.raises(ValueError, match="at most 120 tokens"):
            run(ids, mask)
    assert SpeechT5Reference(model).forward_encoder(ids[:, :120], mask[:, :120]).shape == (1, 120, 48)


def test_it_ends_where_there_are_no_more_positions(speaker):
    model = tiny_speecht5(max_speech_positions=20)
    ids, mask = tokens(5)
    for ratios in ({"min_ratio": 30.0, "max_ratio": 30.0}, {"threshold": 2.0}):
        (found,) = generate(EagerSteps(model), ids, mask, speaker[:1], given_masks(model, kept_units(20)), **ratios)
        assert len(found) == 40


def test_a_share_that_is_kept_is_scaled_as_in_transformers(speaker):
    # Of a quarter, a quarter is kept, and divided by three quarters.
    model = tiny_speecht5(speech_decoder_prenet_dropout=0.25)
    ids, mask = tokens(4)
    kept = kept_units(40) * kept_units(40, seed=1)
    expected = SpeechT5Reference(model).generate_speech(ids, speaker[:1], mask, masks=kept, threshold=2.0)
    (found,) = generate(EagerSteps(model), ids, mask, speaker[:1], given_masks(model, kept), threshold=2.0)
    assert_same(found, expected)
    draw = drawn_masks([torch.Generator().manual_seed(0)], model.config, torch.device("cpu"), torch.float32)
    drawn = torch.stack([draw(position) for position in range(200)])
    assert drawn.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (drawn > 0).float().mean() == pytest.approx(0.25, abs=0.01)


def test_a_row_is_in_a_batch_what_it_is_alone(model, speaker):
    ids, mask = tokens(9, 5)
    steps = EagerSteps(model)

    def speak(rows):
        generators = [torch.Generator().manual_seed(10 + row) for row in rows]
        masks = drawn_masks(generators, model.config, steps.device, steps.dtype)
        width = max(int(mask[row].sum()) for row in rows)
        return generate(steps, ids[rows, :width], mask[rows, :width], speaker[rows], masks, threshold=2.0)

    both = speak([0, 1])
    assert [len(mel) for mel in both] == [180, 100]
    for row, together in enumerate(both):
        (alone,) = speak([row])
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


def test_the_seed_fixes_the_dropout(model, speaker):
    ids, mask = tokens(4)
    steps = EagerSteps(model)

    def speak(seed):
        masks = drawn_masks([torch.Generator().manual_seed(seed)], model.config, steps.device, steps.dtype)
        return generate(steps, ids, mask, speaker[:1], masks, threshold=2.0)[0]

    torch.testing.assert_close(speak(1), speak(1), rtol=0, atol=0)
    assert (speak(1) - speak(2)).abs().max() > 1e-3


def test_without_masks_the_reference_is_not_equal_to_itself(model, speaker):
    ids, mask = tokens(4)
    reference = SpeechT5Reference(model)
    one, other = (reference.generate_speech(ids, speaker[:1], mask, threshold=2.0) for _ in range(2))
    assert (one - other).abs().max() > 1e-3

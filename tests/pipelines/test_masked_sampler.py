"""Drawing codes, and the loop in which they are decided."""

import pytest
import torch
from tiny_trm import MASK, SIZES, SPEAKERS, TEXT, model

from dtm_hf.pipelines.guidance import ClassifierFreeGuidance
from dtm_hf.pipelines.masked_sampler import generate_codes
from dtm_hf.pipelines.sampler import SamplingState
from dtm_hf.scheduling.scheduling_masking import MaskingScheduler
from dtm_hf.trm.decoding import logits_warpers

NO_CODE = SIZES["codebook_size"]


def uniform(seed):
    generators = [torch.Generator().manual_seed(seed + row) for row in range(2)]
    return lambda shape: torch.stack([torch.rand(shape[1:], generator=g) for g in generators[: shape[0]]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"independent": True},
        {"state": SamplingState(ClassifierFreeGuidance(2.0), 2)},
        {"state": SamplingState(ClassifierFreeGuidance(2.0, stop=0.5), 2)},
        {"draw": uniform(0)},
    ],
    ids=["masked", "independent", "guided", "guided at first", "drawn"],
)
def test_all_valid_codes_are_decided_and_a_row_is_what_it_is_alone(options):
    network, scheduler = model(), MaskingScheduler(num_inference_steps=2)
    warpers = logits_warpers(0.8, 5)
    together = generate_codes(network, scheduler, TEXT, SPEAKERS, MASK, warpers, **options)
    valid = MASK[:, None].expand_as(together)
    assert (together[valid] < NO_CODE).all()
    assert (together[~valid] == NO_CODE).all()
    if "draw" in options:
        # The second row's generator draws for its own frames alone only if it is alone.
        return
    alone = generate_codes(network, scheduler, TEXT[1:, :3], SPEAKERS[1:], MASK[1:, :5], warpers, **options)
    assert torch.equal(together[1, :, :5], alone[0])


def test_seeds_decide():
    network, scheduler = model(), MaskingScheduler(num_inference_steps=2)

    def speak(seed):
        return generate_codes(network, scheduler, TEXT, SPEAKERS, MASK, logits_warpers(), uniform(seed))

    assert torch.equal(speak(0), speak(0))
    assert not torch.equal(speak(0), speak(1))


def test_later_cycles_see_what_is_decided_and_independent_ones_do_not():
    network, scheduler = model(), MaskingScheduler(num_inference_steps=2)
    seen = {}
    for independent in (False, True):
        inputs = []
        handle = network.code_embeds[0].register_forward_pre_hook(lambda _, given, kept=inputs: kept.append(given[0]))
        generate_codes(network, scheduler, TEXT, SPEAKERS, MASK, logits_warpers(0), independent=independent)
        handle.remove()
        seen[independent] = [bool((codes != NO_CODE).any()) for codes in inputs]
    assert seen == {False: [False, True], True: [False, False]}


def test_a_prompt_stays_and_a_callback_may_change_codes():
    network, scheduler = model(), MaskingScheduler(num_inference_steps=2)
    prompt = torch.full((2, 3, 9), NO_CODE)
    prompt[:, :, :2] = 4
    steps = []

    def note(i, codes):
        steps.append(i)
        return codes

    codes = generate_codes(
        network, scheduler, TEXT, SPEAKERS, MASK, logits_warpers(0), prompt=prompt, on_cycle_end=note
    )
    assert (codes[:, :, :2] == 4).all()
    assert steps == [0, 1]


def test_guidance_changes_codes_as_long_as_it_lasts():
    network, scheduler = model(), MaskingScheduler(num_inference_steps=2)

    def speak(**guidance):
        state = SamplingState(ClassifierFreeGuidance(**guidance), 2)
        return generate_codes(network, scheduler, TEXT, SPEAKERS, MASK, logits_warpers(0), state=state)

    plain = speak(scale=1.0)
    assert torch.equal(plain, speak(scale=4.0, stop=0.0))
    assert not torch.equal(plain, speak(scale=4.0))


@pytest.mark.parametrize("independent", [False, True])
def test_an_interrupted_call_has_codes_everywhere(independent):
    network, scheduler = model(), MaskingScheduler(num_inference_steps=3)
    state, passed = SamplingState(ClassifierFreeGuidance(1.0), 3), []

    def stop(i, codes):
        passed.append(i)
        state.interrupt = i == 1
        return codes

    codes = generate_codes(
        network,
        scheduler,
        TEXT,
        SPEAKERS,
        MASK,
        logits_warpers(0),
        state=state,
        independent=independent,
        on_cycle_end=stop,
    )
    assert passed == [0, 1]
    assert (codes[MASK[:, None].expand_as(codes)] < NO_CODE).all()

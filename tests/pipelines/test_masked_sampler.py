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


def _halting_at(network, cycles):
    """The network, whose halt head says yes to row i in cycle `cycles[i]` alone; and the list of cycles that ran."""
    ran, cycle = [], network.cycle

    def told(*given):
        output = cycle(*given)
        # Rows are told by their texts, which differ in length.
        rows = [0 if int(mask.sum()) == 6 else 1 for mask in given[4]]
        output.halt_logits = torch.tensor([9.0 if cycles[row] == len(ran) else -9.0 for row in rows])
        ran.append(rows)
        return output

    network.cycle = told
    return network, ran


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
def test_rows_halt_by_themselves_and_stay_what_they_are_alone(independent, drawn):
    scheduler, warpers = MaskingScheduler(num_inference_steps=6), logits_warpers(0.8, 5)

    def speak(rows, cycles=(1, 3), **more):
        network, ran = _halting_at(model(), cycles)
        lengths, frames = (6, 3), (9, 5)
        given = (
            TEXT[rows, : max(lengths[r] for r in rows)],
            SPEAKERS[rows],
            MASK[rows, : max(frames[r] for r in rows)],
        )
        sources = [torch.Generator().manual_seed(r) for r in rows]

        def draw(shape):
            numbers = torch.zeros(shape)
            for i, row in enumerate(rows):
                part = torch.rand(*shape[1:-1], frames[row], generator=sources[i])
                numbers[i, ..., : frames[row]] = part
            return numbers

        codes = generate_codes(
            network, scheduler, *given, warpers, draw if drawn else None, independent=independent, **more
        )
        return [codes[i, :, : frames[row]] for i, row in enumerate(rows)], len(ran)

    together, cycles = speak([0, 1], halt_threshold=0.5)
    assert cycles == 4
    for row, wanted in ((0, 2), (1, 4)):
        (alone,), own = speak([row], halt_threshold=0.5)
        assert own == wanted
        assert torch.equal(alone, together[row]) and (alone < NO_CODE).all()
    # Nothing halts by default, nor where the head is never sure enough.
    whole, cycles = speak([0, 1])
    assert cycles == 6
    # The tiny network's likeliest codes are the same in each cycle.
    assert not drawn or independent or not torch.equal(whole[0], together[0])
    assert speak([0, 1], halt_threshold=0.9999)[1] == 6
    assert torch.equal(speak([0, 1], (9, 9), halt_threshold=0.5)[0][0], whole[0])

"""Which codes are decided when."""

import math

import pytest
import torch

from dtm_hf.scheduling.scheduling_masking import MaskingScheduler

MASK_CODE = 99


def walk(scheduler, confidence, attention_mask=None, noise=None):
    """Samples after each step; a network that answers 10 x step + place."""
    sample = torch.full(confidence.shape, MASK_CODE)
    samples = []
    for t in scheduler.timesteps:
        answer = torch.arange(confidence[0].numel()).reshape(confidence.shape[1:]).expand_as(sample) + 1000 * int(t)
        sample = scheduler.step(answer, confidence, t, sample, MASK_CODE, attention_mask, noise).prev_sample
        samples.append(sample)
    return samples


@pytest.fixture
def confidence():
    return torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("order", ["coarse_to_fine", "all"])
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_shares_follow_the_cosine_and_nothing_decided_changes(confidence, order, steps):
    scheduler = MaskingScheduler(num_inference_steps=steps, order=order)
    samples = walk(scheduler, confidence)
    decided = [int((sample[0] != MASK_CODE).sum()) for sample in samples]
    wanted = [40 * (1 - math.cos(math.pi / 2 * (i + 1) / steps)) for i in range(steps)]
    assert decided[-1] == 40
    assert decided == pytest.approx(wanted, abs=2)
    for before, after in zip(samples, samples[1:], strict=False):
        assert torch.equal(after[before != MASK_CODE], before[before != MASK_CODE])
        # What is new comes from this step's answer.
        new = (before == MASK_CODE) & (after != MASK_CODE)
        assert new.any()
        assert (after[new] // 1000 != before[before != MASK_CODE].max() // 1000).all()


@pytest.mark.parametrize(("steps", "silent"), [(1, 0), (2, 1), (3, 1), (4, 2), (8, 4)])
def test_a_silent_share_decides_nothing_and_the_rest_goes_by_the_cosine(confidence, steps, silent):
    samples = walk(MaskingScheduler(num_inference_steps=steps, silent_share=0.5), confidence)
    assert all((sample == MASK_CODE).all() for sample in samples[:silent])
    rest = walk(MaskingScheduler(num_inference_steps=steps - silent), confidence)
    for sample, other in zip(samples[silent:], rest, strict=True):
        assert torch.equal(sample != MASK_CODE, other != MASK_CODE)


def test_no_book_begins_before_the_one_above_it_is_complete(confidence):
    for sample in walk(MaskingScheduler(num_inference_steps=6), confidence):
        shares = (sample != MASK_CODE).float().mean(dim=2)
        for above, below in zip(shares.T, shares.T[1:], strict=False):
            assert ((above == 1) | (below == 0)).all()


@pytest.mark.parametrize("order", ["coarse_to_fine", "all"])
def test_the_surest_come_first(confidence, order):
    first = walk(MaskingScheduler(num_inference_steps=6, order=order), confidence)[0]
    row = confidence[0, :1] if order == "coarse_to_fine" else confidence[0]
    decided = (first[0] != MASK_CODE)[: len(row)]
    assert 0 < decided.sum() < row.numel()
    assert row[decided].min() > row[~decided].max()


def test_noise_changes_the_order_by_its_temperature(confidence):
    scheduler = MaskingScheduler(num_inference_steps=3)
    noise = torch.rand(confidence.shape, generator=torch.Generator().manual_seed(1))
    plain, noisy = walk(scheduler, confidence)[0], walk(scheduler, confidence, noise=noise)[0]
    assert not torch.equal(plain != MASK_CODE, noisy != MASK_CODE)
    cold = MaskingScheduler(num_inference_steps=3, temperature=0.0)
    assert torch.equal(walk(cold, confidence, noise=noise)[0], plain)


@pytest.mark.parametrize("order", ["coarse_to_fine", "all"])
def test_a_row_does_not_depend_on_its_padding(confidence, order):
    mask = torch.arange(10)[None] < torch.tensor([10, 6])[:, None]
    scheduler = MaskingScheduler(num_inference_steps=3, order=order)
    together = walk(scheduler, confidence, mask)
    alone = walk(scheduler, confidence[1:, :, :6])
    for one, other in zip(together, alone, strict=True):
        assert (one[1, :, 6:] == MASK_CODE).all()
        assert torch.equal(one[1, :, :6] == MASK_CODE, other[0] == MASK_CODE)
    assert not (together[-1][mask[:, None].expand(2, 4, 10)] == MASK_CODE).any()


def test_known_codes_stay(confidence):
    sample = torch.full(confidence.shape, MASK_CODE)
    sample[:, :, :3] = 7
    scheduler = MaskingScheduler(num_inference_steps=1)
    after = scheduler.step(torch.zeros_like(sample), confidence, 0, sample, MASK_CODE).prev_sample
    assert (after[:, :, :3] == 7).all()
    assert (after[:, :, 3:] == 0).all()


def test_it_saves_and_loads(tmp_path):
    MaskingScheduler(num_inference_steps=5, order="all", silent_share=0.25).save_pretrained(tmp_path)
    again = MaskingScheduler.from_pretrained(tmp_path)
    assert (len(again), again.config.order, again.config.silent_share) == (5, "all", 0.25)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"num_inference_steps": 0}, "`num_inference_steps` must be an integer of at least 1, but got 0"),
        ({"order": "fine"}, "`order` must be one of"),
        ({"temperature": -1.0}, "`temperature` must be at least 0, but got -1.0"),
        ({"silent_share": 1.0}, r"`silent_share` must lie in \[0, 1\), but got 1.0"),
    ],
)
def test_impossible_schedules_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        MaskingScheduler(**arguments)
    with pytest.raises(ValueError, match="`timestep` must be one of `timesteps`, but got 3"):
        MaskingScheduler().step(*[torch.zeros(1, 1, 1)] * 2, 3, torch.zeros(1, 1, 1), MASK_CODE)

"""The loss of TRM: what is hidden, what counts, and that eight utterances are learnt by heart."""

import math

import pytest
import torch
from tiny_trm import MASK, SIZES, SPEAKERS, TEXT, model

from dtm_hf.training.objectives.trm import NO_TARGET, CodeBatch, TRMObjective, codebook_weights


def batch(size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(SIZES["codebook_size"], (2, 3, 9), generator=generator)
    return CodeBatch(TEXT[:size], SPEAKERS[:size], codes[:size], MASK[:size])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_weights_are_those_of_the_document():
    weights = codebook_weights(32)
    raw = torch.tensor([2.0, *(1.5 - 0.5 * i / 7 for i in range(1, 8)), *[1.0] * 24])
    assert float(raw.mean()) == pytest.approx(1.0781, abs=1e-4)
    torch.testing.assert_close(weights, raw / raw.mean())
    assert float(codebook_weights(5).mean()) == pytest.approx(1.0)


def test_what_is_shown_follows_the_decoding():
    objective, numbers = TRMObjective(num_cycles=4), set()
    for seed in range(40):
        rounds = objective.draw_shown(batch(), seeded(seed))
        numbers.add(len(rounds))
        assert not rounds[0].any()
        for before, shown in zip(rounds, rounds[1:], strict=False):
            assert (before <= shown).all()
        for i, shown in enumerate(rounds):
            for row, frames in enumerate((9, 5)):
                assert not shown[row, :, frames:].any()
                books = shown[row].sum(dim=1).tolist()
                # Books are complete, then one in part, then none.
                assert all(above == frames or below == 0 for above, below in zip(books, books[1:], strict=False))
                wanted = 3 * frames * (1 - math.cos(math.pi / 2 * i / len(rounds)))
                assert sum(books) == pytest.approx(wanted, abs=1)
    assert numbers == {1, 2, 3, 4}
    assert not torch.stack(TRMObjective(feedback=False, num_supervisions=2).draw_shown(batch())).any()


def test_silent_cycles_are_trained_as_they_are_decoded():
    objective = TRMObjective(num_cycles=4, any_number=False, silent_share=0.5)
    shown = [int(each[0].sum()) for each in objective.draw_shown(batch(), seeded())]
    assert shown[:3] == [0, 0, 0] and shown[3] == math.ceil(3 * 9 * (1 - math.cos(math.pi / 4)))


def test_the_loss_is_the_weighted_mean_over_hidden_codes_of_valid_frames():
    network, objective = model(dropout=0.0), TRMObjective(num_cycles=1, text_drop_prob=0.0, halt_weight=0.0)
    with torch.no_grad():
        output = objective.loss(network, batch(), seeded())
        answer = network(TEXT, SPEAKERS, MASK, num_cycles=1).answer
        total = weight = 0.0
        for k, book in enumerate(codebook_weights(3)):
            log_probs = network.logits(answer, k).log_softmax(-1)
            total -= book * log_probs.gather(-1, batch().codes[:, k][..., None])[..., 0][MASK].sum()
            weight += book * MASK.sum()
    torch.testing.assert_close(output.loss, total / weight)


def test_padding_and_shown_codes_do_not_matter():
    network, objective = model(dropout=0.0), TRMObjective()
    one, other = batch(), batch()
    other.codes = other.codes.masked_fill(~MASK[:, None], 0)
    with torch.no_grad():
        losses = [objective.loss(network, given, seeded()).loss for given in (one, other)]
    assert torch.equal(*losses)


def test_code_0_is_a_code_and_a_book_without_targets_gives_no_nan():
    network, objective = model(dropout=0.0), TRMObjective()
    zeros = batch()
    zeros.codes = torch.zeros_like(zeros.codes)
    with torch.no_grad():
        assert objective.loss(network, zeros, seeded()).loss > 0.1
        rows, *_ = objective._cross_entropy(network, torch.zeros(2, 9, 32), torch.full((2, 3, 9), NO_TARGET))
    assert torch.isfinite(rows).all()


def test_cycles_go_on_from_each_other_with_the_codes_shown_by_then():
    network, objective = model(dropout=0.0), TRMObjective(num_cycles=2, text_drop_prob=0.0, halt_weight=0.0)
    seed = next(seed for seed in range(20) if len(objective.draw_shown(batch(), _after_drops(seed))) == 2)
    output = objective.loss(network, batch(), seeded(seed))
    with torch.no_grad():
        state, losses = None, []
        for shown in objective.draw_shown(batch(), _after_drops(seed)):
            codes = batch().codes.masked_fill(~shown, network.config.mask_code)
            step = network(TEXT, SPEAKERS, MASK, codes, 1, state)
            state = (step.answer, step.latent)
            targets = batch().codes.masked_fill(~MASK[:, None] | shown, NO_TARGET)
            rows, weight, _ = objective._cross_entropy(network, step.answer, targets)
            losses.append((rows * weight).sum() / weight.sum())
    torch.testing.assert_close(output.loss.detach(), sum(losses) / 2)
    output.loss.backward()
    assert network.head.condition.weight.grad.abs().max() > 0


def test_the_halt_head_learns_whether_the_open_codes_are_right():
    network = model(dropout=0.0)
    given = {"num_cycles": 1, "text_drop_prob": 0.0}
    with torch.no_grad():
        answer = network(TEXT, SPEAKERS, MASK, num_cycles=1)
        likeliest = torch.stack([network.logits(answer.answer, k).argmax(-1) for k in range(3)], dim=1)
        wrong = (likeliest + 1) % SIZES["codebook_size"]
        # The first row is right in all but one of 27 codes, the second in none.
        codes = torch.stack([likeliest[0], wrong[1]])
        codes[0, 0, 0] = wrong[0, 0, 0]
        right = CodeBatch(TEXT, SPEAKERS, codes, MASK)
        plain = TRMObjective(**given, halt_weight=0.0).loss(network, right, seeded())
        for accuracy, over in ((1.0, [0.0, 0.0]), (0.9, [1.0, 0.0])):
            output = TRMObjective(**given, halt_weight=0.5, halt_accuracy=accuracy).loss(network, right, seeded())
            wanted = torch.nn.functional.binary_cross_entropy_with_logits(
                answer.halt_logits, torch.tensor(over), reduction="none"
            )
            torch.testing.assert_close(output.row_losses, plain.row_losses + 0.5 * wanted)
            torch.testing.assert_close(output.figures["halt_loss"], wanted.mean())
            assert float(output.figures["halt_share"]) == sum(over) / 2
    assert "halt_loss" not in plain.figures


def test_an_untrained_halt_head_has_no_gradient():
    for weight in (0.0, 0.5):
        network = model()
        TRMObjective(halt_weight=weight).loss(network, batch(), seeded()).loss.backward()
        assert (network.halt_proj.weight.grad is not None) == (weight > 0)


def test_a_prompt_is_shown_from_the_first_cycle_on_and_no_target():
    objective, seen = TRMObjective(prompt_prob=1.0, text_drop_prob=0.0, num_cycles=1), []
    network = model(dropout=0.0)
    network.code_embeds[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        found = [objective.loss(network, batch(), seeded(seed)) for seed in range(8)]
    shown = torch.stack([(codes != network.config.mask_code).sum(dim=1) for codes in seen])
    assert (shown <= torch.tensor([4, 2])).all() and (shown > 0).any(dim=0).all()
    # The beginning of the recording, as it is.
    for codes, number in zip(seen, shown, strict=True):
        for row in range(2):
            assert torch.equal(codes[row, : number[row]], batch().codes[row, 0, : number[row]])
    assert all(output.loss.isfinite() for output in found)


def test_the_number_of_cycles_may_be_fixed():
    assert {len(TRMObjective(num_cycles=4, any_number=False).draw_shown(batch(), seeded(s))) for s in range(9)} == {4}


def _after_drops(seed):
    """A generator of which the loss has drawn the rows without text."""
    generator = seeded(seed)
    torch.rand(2, generator=generator)
    return generator


def by_heart(size):
    """A batch of so many utterances of other texts, lengths and codes; two voices."""
    generator = seeded()
    lengths, frames = torch.tensor([10, 4, 7, 9, 6, 10, 5, 8]), torch.tensor([9, 5, 7, 9, 6, 8, 5, 9])
    text = torch.randint(2, SIZES["vocab_size"], (8, 10), generator=generator)
    codes = torch.randint(SIZES["codebook_size"], (8, 3, 9), generator=generator)
    rows = text.masked_fill(torch.arange(10) >= lengths[:, None], 0), torch.arange(8) % 2, codes
    return CodeBatch(*(part[:size] for part in (*rows, torch.arange(9) < frames[:, None])))


@pytest.mark.parametrize(("form", "size", "steps"), [("recursive", 8, 270), ("document", 2, 230)])
def test_utterances_are_learnt_by_heart_and_said_from_their_text(form, size, steps):
    """From nothing but text and voice all codes come back, in the cycles of the decoding."""
    from dtm_hf.pipelines.masked_sampler import generate_codes
    from dtm_hf.scheduling.scheduling_masking import MaskingScheduler
    from dtm_hf.trm.decoding import logits_warpers

    network, given = model(dropout=0.0, update=form).train(), by_heart(size)
    objective = TRMObjective(text_drop_prob=0.0, num_cycles=2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    generator = seeded()
    for _ in range(steps):
        loss = objective.loss(network, given, generator).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval()

    def say(number, **options):
        scheduler, said = MaskingScheduler(num_inference_steps=number), (given.text_ids, given.speaker_ids)
        codes = generate_codes(network, scheduler, *said, given.audio_mask, logits_warpers(0), **options)
        return (codes == given.codes)[given.audio_mask[:, None].expand_as(codes)].float().mean()

    assert say(2) > 0.99
    # By then the halt head says so long before the last of eight cycles, and nothing is lost by it.
    passed = []

    def note(i, codes):
        passed.append(i)
        return codes

    assert say(8, on_cycle_end=note, halt_threshold=0.5) > 0.99
    assert len(passed) < 4

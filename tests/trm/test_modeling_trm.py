"""The network: batches equal their items, both forms, heads, gradients, reload, bad input."""

import pytest
import torch
from tiny_trm import MASK, SIZES, SPEAKERS, TEXT, model
from transformers import AutoModel

from dtm_hf.trm.configuration_trm import TRMConfig
from dtm_hf.trm.modeling_trm import TRMModel
from dtm_hf.trm.recursion import rotary, shared_places


def codes(seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(13, (2, 3, 9), generator=generator)
    return drawn.masked_fill(~MASK[:, None], 12)


FORMS = [
    {"update": "recursive"},
    {"update": "document", "align_text": False},
    {"share_output_heads": True},
    {"text_dim": 48},
]


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_is_its_items(form):
    network = model(**form)
    with torch.no_grad():
        together = network(TEXT, SPEAKERS, MASK, codes())
        assert together.answer[MASK].std() > 0.1
        for row, (length, frames) in enumerate(((6, 9), (3, 5))):
            alone = network(
                TEXT[row : row + 1, :length],
                SPEAKERS[row : row + 1],
                MASK[row : row + 1, :frames],
                codes()[row : row + 1, :, :frames],
            )
            torch.testing.assert_close(together.answer[row, :frames], alone.answer[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(together.halt_logits[row], alone.halt_logits[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_everything_given_is_used(form):
    network = model(**form)
    with torch.no_grad():
        base = network(TEXT, SPEAKERS, MASK, codes()).answer[0]
        others = [
            network(TEXT.roll(1, 1).masked_fill(TEXT == 0, 0), SPEAKERS, MASK, codes()),
            network(TEXT, 1 - SPEAKERS, MASK, codes()),
            network(TEXT, SPEAKERS, MASK, codes(1)),
            network(TEXT, SPEAKERS, MASK),
            network(TEXT, SPEAKERS, MASK, codes(), num_cycles=1),
        ]
        for other in others:
            assert (other.answer[0] - base).abs().max() > 1e-3


def test_frames_are_told_apart_without_codes():
    with torch.no_grad():
        answer = model()(TEXT[:1], SPEAKERS[:1], MASK[:1]).answer[0]
    assert torch.cdist(answer, answer)[~torch.eye(9, dtype=torch.bool)].min() > 1e-2


def test_rotary_positions_see_distances_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator)
    query, key = rotary(query.expand(1, 1, 12, 8)), rotary(key.expand(1, 1, 12, 8))
    products = (query @ key.transpose(-1, -2))[0, 0]
    for distance in (-3, 0, 4):
        torch.testing.assert_close(products.diagonal(distance).std(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert products[0].std() > 0.1


def test_a_frame_finds_its_place_in_the_text():
    """Of characters that are all alike a frame looks most at the one where it stands, whatever the lengths."""
    # MASK is of 9 and 5 frames, of 6 and 3 characters.
    frames, characters = shared_places(MASK, TEXT != 0)
    torch.testing.assert_close(frames[0], (torch.arange(9) + 0.5) * 6 / 9)
    torch.testing.assert_close(frames[1, :5], (torch.arange(5) + 0.5) * 3 / 5)
    same = torch.ones(2, 1, 9, 32)
    query, key = rotary(same, frames), rotary(same[:, :, :6], characters)
    nearest = characters.gather(1, (query @ key.transpose(-1, -2))[:, 0].argmax(dim=-1))
    # No character is nearer than half of one.
    assert ((nearest - frames)[MASK].abs() < 0.5 + 1e-4).all()


@pytest.mark.parametrize("share", [False, True])
def test_codebooks_differ_by_more_than_a_constant(share):
    network = model(share_output_heads=share)
    answer = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (network.logits(answer, k) for k in (0, 1))
    difference = first - second
    # What is the same at all frames would be a bias, and no codebook of its own.
    assert (difference - difference.mean(dim=1, keepdim=True)).abs().max() > 1e-2
    assert len(network.head.projections) == (1 if share else 3)


def test_the_gradient_flows_through_the_last_cycle_alone():
    """In TRM's own form; in the document's through all, so that more cycles give another gradient of the start."""
    network = model(update="document")
    network(TEXT, SPEAKERS, MASK, codes(), num_cycles=2).answer.square().mean().backward()
    assert network.latent_init.grad.abs().max() > 0
    network = model()
    context, text_mask = network.encode_text(TEXT, SPEAKERS), TEXT != 0
    with torch.no_grad():
        first = network.cycle(*network.begin(MASK), codes(), context, text_mask, MASK)
    network.cycle(first.answer, first.latent, codes(), context, text_mask, MASK).answer[..., 0].sum().backward()
    expected = network.update.blocks[0].down.weight.grad.clone()
    network.zero_grad()
    network(TEXT, SPEAKERS, MASK, codes(), num_cycles=2).answer[..., 0].sum().backward()
    torch.testing.assert_close(network.update.blocks[0].down.weight.grad, expected)


@pytest.mark.parametrize("update", ["recursive", "document"])
def test_reload_gives_the_same_bits(update, tmp_path):
    network = model(update=update)
    network.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(again, TRMModel)
    assert again.config.speakers == ["ann", "bob"]
    with torch.no_grad():
        assert torch.equal(again(TEXT, SPEAKERS, MASK).answer, network(TEXT, SPEAKERS, MASK).answer)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        network = model(dropout=0.0).train()
        if checkpointing:
            network.gradient_checkpointing_enable()
        network(TEXT, SPEAKERS, MASK, codes()).answer.square().mean().backward()
        gradients.append(network.update.blocks[0].gate.weight.grad)
    torch.testing.assert_close(*gradients)


def test_what_is_right_is_the_default():
    """Feedback, eight books, separate heads and TRM's own recursion, which begins where it was drawn once."""
    config = TRMConfig()
    assert (config.feedback, config.num_codebooks, config.update) == (True, 8, "recursive")
    assert not config.share_output_heads and config.latent_dim is None
    assert {"answer_init", "latent_init"} <= dict(model().named_buffers()).keys()
    assert {"answer_init", "latent_init"} <= dict(model(update="document").named_parameters()).keys()


def test_sizes_of_the_document():
    """22 M parameters with separate heads and 6 M with shared ones, by its own formulas 21.7 and 5.4."""
    sizes = {"num_codebooks": 32, "speakers": [str(i) for i in range(11)], "update": "document"}
    counts = [
        sum(
            p.numel()
            for name, p in TRMModel(TRMConfig(**sizes, share_output_heads=share)).named_parameters()
            if "code_embeds" not in name
        )
        for share in (False, True)
    ]
    assert counts[0] == pytest.approx(21.7e6, rel=0.1)
    assert counts[1] == pytest.approx(5.4e6, rel=0.3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"speakers": []}, r"`speakers` must be names, one at least, but got \[\]"),
        ({"speakers": ["a", "a"]}, "`speakers` must be distinct"),
        ({"num_codebooks": 33}, r"`num_codebooks` must lie in \[1, 32\], but got 33"),
        ({"update": "other"}, "`update` must be one of"),
        ({"audio_dim": 30}, "`audio_dim` must be a multiple of twice `num_heads`, 4, but got 30"),
        ({"latent_dim": 1025}, "`latent_dim` must be from 1 to 1024, or None, but got 1025"),
        ({"h_cycles": 0}, "`h_cycles` must be from 1 to 1000, but got 0"),
    ],
)
def test_impossible_configurations_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        TRMConfig(**SIZES | changes)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"text_ids": torch.ones(2, 17, dtype=torch.long)}, "at most 16 characters, but got 17"),
        ({"text_ids": torch.zeros(2, 3, dtype=torch.long)}, "a character in each row"),
        ({"audio_mask": torch.ones(2, 25, dtype=torch.bool)}, "at most 24 frames, but got 25"),
        ({"codes": torch.full((2, 3, 9), -1)}, r"`codes` must lie in \[0, 12\], but got -1 to -1"),
        ({"codes": torch.full((2, 3, 9), 13)}, "but got 13 to 13"),
        (
            {"codes": torch.zeros(2, 4, 9, dtype=torch.long)},
            r"`codes` must have shape \(2, 3, 9\), but got \(2, 4, 9\)",
        ),
        ({"num_cycles": 0}, "`num_cycles` must be at least 1, but got 0"),
    ],
)
def test_bad_inputs_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        model()(**{"text_ids": TEXT, "speaker_ids": SPEAKERS, "audio_mask": MASK} | arguments)

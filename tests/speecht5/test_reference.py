"""`SpeechT5Reference`: parts of transformers' model, which together are the whole."""

import pytest
import torch
from tiny_speecht5 import kept_units, tiny_speecht5, tokens
from transformers import SpeechT5ForTextToSpeech

from dtm_hf import SpeechT5Reference


@pytest.fixture(scope="module")
def reference():
    return SpeechT5Reference(tiny_speecht5())


def test_the_parts_are_all_that_there_is(reference):
    found = {id(p) for part in reference.components.values() for p in part.parameters()}
    assert found == {id(p) for p in reference.model.parameters()}


def test_encoder_and_decoder_are_the_whole(reference):
    ids, mask = tokens(9, 6)
    frames, speaker = torch.randn(2, 12, 80), torch.randn(2, 16)
    kept = kept_units(12)
    states = reference.forward_encoder(ids, mask)
    parts = reference.forward_decoder(frames, states, speaker, mask, masks=kept)
    whole = reference.forward(ids, frames, speaker, mask, masks=kept)
    torch.testing.assert_close(parts.after, whole.after, rtol=0, atol=0)
    # transformers' own forward, with its own dropout: the same but for that.
    own = reference.model(ids, mask, decoder_input_values=frames, speaker_embeddings=speaker).spectrogram
    assert own.shape == whole.after.shape == (2, 24, 80) and whole.stop_logits.shape == (2, 24)
    assert 1e-4 < (own - whole.after).abs().mean() < 0.5 * whole.after.std()


def test_teacher_forced_it_says_what_it_says_step_by_step(reference):
    ids, mask = tokens(6)
    speaker, kept = torch.randn(1, 16), kept_units(60)
    said = reference.generate_speech(ids, speaker, mask, masks=kept, threshold=2.0)
    first = reference.forward(ids, torch.zeros(1, 1, 80), speaker, mask, masks=kept)
    frames = torch.zeros(1, 60, 80)
    # Fed back is the last frame of each step, before the post-net.
    for step in range(59):
        now = reference.forward(ids, frames[:, : step + 1], speaker, mask, masks=kept)
        frames[:, step + 1] = now.before[:, -1]
    torch.testing.assert_close(first.before, now.before[:, :2], rtol=0, atol=1e-5)
    whole = reference.forward(ids, frames, speaker, mask, masks=kept)
    torch.testing.assert_close(whole.after[0], said, rtol=0, atol=1e-4)


def test_a_checkpoint_is_loaded_as_transformers_saves_it(reference, tmp_path):
    reference.model.save_pretrained(tmp_path)
    again = SpeechT5Reference.from_pretrained(tmp_path)
    assert type(again.model) is SpeechT5ForTextToSpeech and not again.model.training
    ids, mask = tokens(5)
    torch.testing.assert_close(again.forward_encoder(ids, mask), reference.forward_encoder(ids, mask))

"""
SpeechT5 for `ttnn`, as far as it can be tried without: its parameters, the encoder's file, and the arithmetic with
torch's operations in the place of ttnn's.
"""

from types import SimpleNamespace

import pytest
import torch
from tiny_speecht5 import kept_units, tiny_speecht5, tokens
from torch.nn import functional as F
from transformers.exporters.auto import EXPORT_BACKENDS

from dtm_hf.ports.comparison import difference
from dtm_hf.ports.tolerance import BARS
from dtm_hf.ports.ttnn_backend import TTNNConfig, TTNNExporter, register
from dtm_hf.ports.ttnn_speecht5 import TtSpeechT5EncoderParameters, encode
from dtm_hf.ports.ttnn_speecht5_decoder import (
    TtSpeechT5DecoderParameters,
    TtSpeechT5PostnetParameters,
    cross_cache,
    decode_step,
    refine,
)
from dtm_hf.speecht5.generation import scaled_masks
from dtm_hf.speecht5.reference import SpeechT5Reference

TORCH = SimpleNamespace(
    add=torch.add,
    multiply=torch.multiply,
    matmul=torch.matmul,
    concat=torch.cat,
    permute=torch.permute,
    relu=torch.relu,
    tanh=torch.tanh,
    reshape=torch.reshape,
    softmax=torch.softmax,
    gelu=F.gelu,
    embedding=F.embedding,
    linear=lambda x, weight, bias: x @ weight + bias,
    layer_norm=lambda x, weight, bias, epsilon: F.layer_norm(x, x.shape[-1:], weight[0], bias[0], epsilon),
)


@pytest.fixture(scope="module")
def model():
    # Texts longer than the furthest relative position that has a vector of its own.
    return tiny_speecht5(encoder_max_relative_position=4)


def test_what_is_computed_is_the_encoder(model, tmp_path):
    ids, mask = tokens(13, 7)
    program, metadata = TTNNExporter().export_program(model, {"input_ids": ids, "attention_mask": mask}, TTNNConfig())
    TTNNExporter.save_program(program, tmp_path / "model.safetensors")
    program = TTNNExporter.load_program(tmp_path / "model.safetensors")
    parameters = TtSpeechT5EncoderParameters.of(program.state, lambda tensor: tensor)
    assert len(parameters.layers) == 2 and metadata is not None
    found = encode(TORCH, parameters, ids, mask, lambda tensor: tensor, program.num_heads, program.epsilon)
    expected = SpeechT5Reference(model).forward_encoder(ids, mask)
    valid = mask == 1
    figures = difference(found[valid].detach().numpy(), expected[valid].numpy())
    assert figures.within(BARS["fp32"]), figures


def test_what_is_decoded_is_the_decoder_step_by_step(model):
    ids, mask = tokens(13, 7)
    generator = torch.Generator().manual_seed(0)
    frames, speaker = torch.randn(2, 6, 80, generator=generator), torch.randn(2, 16, generator=generator)
    kept, config, same = kept_units(6), model.config, lambda tensor: tensor
    expected = SpeechT5Reference(model).forward(ids, frames, speaker, mask, masks=kept)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    parameters = TtSpeechT5DecoderParameters.of(state, same)
    states = SpeechT5Reference(model).forward_encoder(ids, mask)
    heads, epsilon = config.decoder_attention_heads, config.layer_norm_eps
    words, cache, steps, stops = cross_cache(TORCH, parameters, states, heads), None, [], []
    for position in range(6):
        masks = [scaled_masks(part, config)[None].expand(2, -1) for part in kept[position]]
        said, stop, cache = decode_step(
            TORCH, parameters, frames[:, position], position, masks, speaker, cache, words, mask, same, heads, epsilon
        )
        steps.append(said.unflatten(-1, (2, 80)))
        stops.append(stop)
    before = torch.cat(steps, dim=1)
    after = refine(TORCH, TtSpeechT5PostnetParameters.of(state, same), before, same)
    pairs = ((before, expected.before), (torch.cat(stops, dim=1), expected.stop_logits), (after, expected.after))
    for found, wanted in pairs:
        figures = difference(found.detach().numpy(), wanted.detach().numpy())
        assert figures.within(BARS["fp32"]), figures


def test_it_is_registered_where_ttnn_is(monkeypatch):
    assert not register() and "ttnn" not in EXPORT_BACKENDS
    monkeypatch.setattr("dtm_hf.ports.ttnn_backend.find_spec", lambda name: object())
    monkeypatch.setattr("transformers.exporters.auto.EXPORT_BACKENDS", {})
    assert register()


def test_without_ttnn_it_says_so(model):
    with pytest.raises(ImportError, match="ttnn"):
        TtSpeechT5EncoderParameters.from_torch(model.state_dict(), None, None)
    with pytest.raises(ImportError, match="ttnn"):
        TtSpeechT5DecoderParameters.from_torch(model.state_dict(), None, None)

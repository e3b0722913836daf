"""Networks on their graphs, run by torch, against the components that the graphs are made of."""

import numpy as np
import pytest
import torch

from dtm_hf import VocosVocoder
from dtm_hf.ports.graphs_f5 import backbone_graphs
from dtm_hf.ports.graphs_head import head_graphs
from dtm_hf.ports.graphs_vocoder import vocos_graphs
from dtm_hf.runtime.networks import Backbone, Head, Vocos

IDS = torch.tensor([[1, 2, 3, 4, 5], [5, 6, 0, -1, -1]])
LENGTHS = [23, 14]

BACKBONES = {
    "v1": {},
    "v0": {"text_mask_padding": False, "pe_attn_head": 1},
    "spread evenly": {"text_embedding_average_upsampling": True},
    "no text blocks": {"conv_layers": 0},
    "normalised queries": {"qk_norm": "rms_norm"},
    "student": {"step_counts": [2, 4]},
    "student of one": {"step_counts": [4]},
    "aligned": {"text_alignment": "durations"},
    "aligned student": {"text_alignment": "durations", "step_counts": [2, 4]},
}


def by_name(graphs):
    return {graph.name: graph for graph in graphs}


@pytest.mark.parametrize("settings", BACKBONES.values(), ids=BACKBONES)
@pytest.mark.parametrize("branch", ["cond", "null", "both"])
def test_a_backbone_on_its_graphs_is_the_backbone(make_backbone, settings, branch):
    backbone = make_backbone(**settings)
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(LENGTHS[0])[None] < torch.tensor(LENGTHS)[:, None]
    x_t, cond = (torch.randn(2, LENGTHS[0], 100, generator=generator) * mask[..., None] for _ in range(2))
    durations = None
    if "text_alignment" in settings:
        durations = torch.tensor([[4, 5, 6, 4, 4], [3, 9, 2, 0, 0]])
    with torch.no_grad():
        embeds = backbone.encode_text(IDS, mask, LENGTHS[0], durations=durations)
        expected = backbone(x_t, 0.3, cond, None, mask, branch, text_embeds=embeds, num_steps=4)

    ported = Backbone(backbone.config, by_name(backbone_graphs(backbone)))
    ids = [row[row >= 0].numpy() for row in IDS]
    times = None if durations is None else [row[: len(i)].numpy() for row, i in zip(durations, ids, strict=True)]
    text = ported.encode_text(ids, LENGTHS, LENGTHS[0], durations=times)
    np.testing.assert_allclose(text.cond, embeds.cond, atol=1e-5)
    np.testing.assert_allclose(text.null, embeds.null, atol=1e-5)
    output = ported(x_t.numpy(), 0.3, cond.numpy(), text, mask.numpy(), branch, 4)
    valid = mask if branch != "both" else torch.cat([mask, mask])
    np.testing.assert_allclose(output.velocity[valid], expected.velocity[valid], atol=1e-5)
    np.testing.assert_allclose(output.features[valid], expected.features[valid], atol=1e-5)
    assert output.residual is None


HEADS = {
    "mlp": {"architecture": "mlp"},
    "conv": {"architecture": "conv"},
    "direct": {"prediction": "direct"},
    "guidance baked in": {"guidance_scale": 2.0},
    "any guidance baked in": {"guidance_scale": 2.0, "guidance_scale_range": [1.0, 3.0]},
}


@pytest.mark.parametrize("settings", HEADS.values(), ids=HEADS)
def test_a_head_on_its_graphs_is_the_head(make_head, settings):
    head = make_head(**settings)
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(LENGTHS[0])[None] < torch.tensor(LENGTHS)[:, None]
    features = torch.randn(2, LENGTHS[0], 64, generator=generator)
    y, velocity = (torch.randn(2, LENGTHS[0], 100, generator=generator) for _ in range(2))
    timesteps, flow_times = torch.tensor([0.1, 0.4]), torch.tensor([0.0, 0.5, 0.999])
    scale = 2.5 if "guidance_scale_range" in settings else None
    ported = Head(head.config.to_dict(), by_name(head_graphs(head)))
    modulations = ported.prepare_schedule(timesteps.numpy(), flow_times.numpy(), scale)
    with torch.no_grad():
        expected = head.prepare_schedule(timesteps, flow_times, scale)
        np.testing.assert_allclose(modulations, expected, atol=1e-5)
        states = head.prepare(features)
        np.testing.assert_allclose(ported.prepare(features.numpy()), states, atol=1e-5)
        for j, s in enumerate(flow_times.tolist()):
            answer = head(
                None, y, s, timestep=0.4, velocity=velocity, attention_mask=mask, prepared_states=states,
                modulation=expected[1, j],
            ).velocity  # fmt: skip
            g = ported(states.numpy(), y.numpy(), s, velocity.numpy(), modulations[1, j], mask.numpy())
            np.testing.assert_allclose(g[mask], answer[mask], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("padding", ["center", "same"])
def test_vocos_on_its_graph_is_vocos(padding):
    torch.manual_seed(0)
    vocoder = VocosVocoder(dim=32, intermediate_dim=64, num_layers=2, padding=padding).eval()
    mel = torch.randn(1, 30, 100)
    with torch.no_grad():
        expected = vocoder(mel)[0].numpy()
    heard = Vocos(vocoder.config, by_name(vocos_graphs(vocoder)))(mel[0].numpy())
    assert heard.shape == expected.shape
    np.testing.assert_allclose(heard, expected, atol=1e-5 * np.abs(expected).max())

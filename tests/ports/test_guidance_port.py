"""A port of a pipeline whose head says what guidance adds: in `DTMPipeline`, without torch, and before the gate."""

import json
import shutil

import numpy as np
import pytest
import torch
from sabotage import failed

from dtm_hf import DTMPipeline
from dtm_hf.ports.export import FORMATS, export_component
from dtm_hf.ports.graphs_f5 import backbone_graphs
from dtm_hf.ports.graphs_head import head_graphs
from dtm_hf.ports.parity import check_parity
from dtm_hf.ports.ported import PortedHead
from dtm_hf.ports.recipes import recipe_of
from dtm_hf.runtime import Speaker
from dtm_hf.runtime.networks import Backbone, Head

TEXTS, SAID = ["Hello there, good morning.", "Hi."], "What is said."
# The head runs in the second step; in two more; at the end of a scale; never; not at all, with both branches.
SETTINGS = [
    {},
    {"num_inference_steps": 8, "guidance_scale": 4.0},
    {"guidance_scale": 1.0},
    {"num_inference_steps": 1},
    {"num_head_steps": 0, "guidance_scale": 2.5},
]


@pytest.fixture(scope="module")
def ported(guidance_port):
    pipeline = DTMPipeline.from_pretrained(guidance_port)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def speak(pipeline, reference_audio, **settings):
    # Two lengths, so that one is padded.
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    return pipeline(
        TEXTS, reference_audio, SAID, generator=generators, output_type="mel", max_batch_frames=10_000, **settings
    ).audios


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_stands_where_its_source_stood(ported, guidance_pipeline, reference_audio, settings):
    expected = speak(guidance_pipeline, reference_audio, **settings)
    for one, other in zip(speak(ported, reference_audio, **settings), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_says_the_same_without_torch(guidance_port, guidance_pipeline, reference_audio, settings):
    speaker = Speaker(guidance_port, threads=1)
    rows = [speaker.prepare(text, reference_audio, SAID)[0] for text in TEXTS]
    mels = speaker.sample(rows, generators=[speaker.noise(seed) for seed in (0, 1)], **settings)
    for mel, expected in zip(mels, speak(guidance_pipeline, reference_audio, **settings), strict=True):
        np.testing.assert_allclose(mel, expected, atol=1e-3)


def test_a_padded_batch_without_torch_is_its_rows(guidance_port, reference_audio):
    speaker = Speaker(guidance_port, threads=1)
    rows = [speaker.prepare(text, reference_audio, SAID)[0] for text in TEXTS]

    def noises():
        return [speaker.noise(seed) for seed in range(2)]

    together = speaker.sample(rows, generators=noises())
    for row, source, mel in zip(rows, noises(), together, strict=True):
        np.testing.assert_allclose(speaker.sample([row], generators=[source])[0], mel, atol=1e-3)


def test_a_scale_that_is_not_baked_in_is_refused_without_torch(guidance_port, reference_audio):
    with pytest.raises(ValueError, match=r"`guidance_scale` must lie in \[1.0, 4.0\]"):
        Speaker(guidance_port, threads=1)(TEXTS[0], reference_audio, SAID, guidance_scale=5.0)


@pytest.mark.parametrize("broken", [None, "residual", "prepared_states"])
def test_the_gate(guidance_port, guidance_pipeline, reference_audio, broken):
    ported = DTMPipeline.from_pretrained(guidance_port)
    if broken == "residual":
        backbone = ported.backbone.graphs["backbone"]
        ported.backbone.graphs["backbone"] = lambda **arrays: (
            (outputs := backbone(**arrays)) | {"residual": np.roll(outputs["residual"], 1, axis=-1)}
        )
    elif broken is not None:
        head = ported.head.graphs["head"]
        ported.head.graphs["head"] = lambda **arrays: head(**arrays | {broken: np.zeros_like(arrays[broken])})
    report = check_parity(guidance_pipeline, ported, reference_audio, SAID, time_passes=0, batches=((0,), (0, 1)))
    expected = {None: set(), "residual": {"backbone/backbone", "speech"}}.get(broken, {"head/head", "speech"})
    assert failed(report) >= expected and report["passed"] == (not expected)


def test_a_head_as_torch_export_writes_it(ported, guidance_pipeline, reference_audio, tmp_path):
    head = guidance_pipeline.head
    export_component(head, recipe_of("head", head), tmp_path / "head", FORMATS["torch_export"], "fp32")
    mixed = DTMPipeline(**ported.components | {"head": PortedHead.from_pretrained(tmp_path / "head")})
    mixed.set_progress_bar_config(disable=True)
    expected = speak(guidance_pipeline, reference_audio)
    for one, other in zip(speak(mixed, reference_audio), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


@pytest.mark.parametrize("architecture", ["transformer", "conv"])
def test_its_networks_on_their_graphs(backbone, make_guidance_head, architecture):
    head = make_guidance_head(architecture, random_weights=True)
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(23)[None] < torch.tensor([[23], [14]])
    x_t, cond, y = (torch.randn(2, 23, 100, generator=generator) * mask[..., None] for _ in range(3))
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1]])
    with torch.no_grad():
        embeds = backbone.encode_text(ids, mask, 23)
        expected = backbone(x_t, 0.1, cond, None, mask, text_embeds=embeds, residual_layers=1)
        answer = head(
            expected.joined(x_t), y, 0.0, timestep=0.1, velocity=expected.velocity, attention_mask=mask,
            guidance_scale=2.0,
        ).velocity  # fmt: skip
    ported = Backbone(backbone.config, {graph.name: graph for graph in backbone_graphs(backbone, 1)})
    text = ported.encode_text([row[row >= 0].numpy() for row in ids], [23, 14], 23)
    output = ported(x_t.numpy(), 0.1, cond.numpy(), text, mask.numpy(), residual_layers=1)
    np.testing.assert_allclose(output.residual[mask], expected.residual[mask], atol=1e-5)
    runs = Head(head.config.to_dict(), {graph.name: graph for graph in head_graphs(head)})
    modulation = runs.prepare_schedule(np.float32([0.1]), np.float32([0.0]), 2.0)[0, 0]
    states = runs.prepare(output.joined(x_t.numpy()))
    g = runs(states, y.numpy(), 0.0, output.velocity, modulation, mask.numpy())
    np.testing.assert_allclose(g[mask], answer[mask], rtol=1e-4, atol=1e-3)


# What does not belong together


def test_a_head_beside_a_port_that_does_not_give_what_it_reads_is_refused(guidance_port, tmp_path):
    copy = shutil.copytree(guidance_port, tmp_path / "port")
    path = copy / "backbone" / "port.json"
    manifest = json.loads(path.read_text())
    assert manifest.pop("residual_layers") == 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="reads the residual stream before the last 1 blocks"):
        Speaker(copy)
    with pytest.raises(ValueError, match="reads the residual stream before the last 1 blocks"):
        DTMPipeline.from_pretrained(copy)


def test_a_port_gives_the_residual_stream_that_was_asked_for_and_no_other(ported):
    with pytest.raises(ValueError, match="`residual_layers` must be 0 or 1, with which this port was exported"):
        ported.backbone(torch.zeros(1, 4, 100), 0.0, torch.zeros(1, 4, 100), torch.tensor([[1]]), residual_layers=2)

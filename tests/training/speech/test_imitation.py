"""A student of the first steps alone: what it is taught, and that it is its teacher after them."""

import pytest
import torch
from tiny import randomise

from dtm_hf import DTMPipeline, DTMScheduler
from dtm_hf.backbone.student import Student, StudentConfig
from dtm_hf.ports.export import export_pipeline
from dtm_hf.training.objectives.adapters import F5_LAYERS, AdapterNetworks
from dtm_hf.training.objectives.arguments import TDMSpeechArguments
from dtm_hf.training.objectives.losses import masked_mean
from dtm_hf.training.speech.tdm import TDMSpeechObjective

SAMPLER = {"num_inference_steps": 4, "time_grid": "sway", "sway_coefficient": -1.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def objective(make_backbone):
    torch.manual_seed(0)
    networks = AdapterNetworks(make_backbone(), F5_LAYERS, 4, step_counts=(4,))
    arguments = TDMSpeechArguments(imitates=True, step_counts=[4], teacher_guidance_scale=3.0)
    return TDMSpeechObjective(arguments, networks, DTMScheduler(4, 0))


def test_what_has_learnt_nothing_errs_by_all_of_guidance(objective, mel_batch):
    batch = objective.prepare(mel_batch, seeded())
    (phase,) = objective.phases(0)
    assert phase.group == "student"
    loss, figures = phase.loss(None, batch)
    expected, weight, states = 0.0, 0.0, batch.rollout.states
    for k, (t, after) in enumerate([(0.0, 0.0761205), (0.0761205, 0.2928932)]):
        with torch.no_grad():
            both = objective.networks.teacher(states[k], t, **batch.conditions, branch="both")
        v, null = both.velocity.chunk(2)
        expected += (after - t) ** 2 * masked_mean((2 * (v - null)) ** 2, batch.mask)
        weight += (after - t) ** 2
    torch.testing.assert_close(loss, expected / weight, rtol=1e-3, atol=1e-6)
    assert abs(float(figures["explained"])) < 1e-4


def test_training_teaches_guidance(objective, mel_batch):
    parameters = objective.networks.parameters("student").values()
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for step in range(25):
        loss, figures = objective.imitation_loss(None, objective.prepare(mel_batch, seeded(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert figures["explained"] > 0.3
    assert all(p.grad is None for p in objective.networks.parameters("estimator").values())


def test_in_a_pipeline_the_later_steps_are_the_teachers_to_the_bit(
    objective, backbone, tiny_pipeline, mel_batch, reference_audio, tmp_path
):
    networks = objective.networks
    randomise(networks.trained["student"], 0)
    names = {"backbone_name": "tiny", "backbone_fingerprint": backbone.fingerprint, "license": "mit"}
    config = StudentConfig(networks.rank, networks.alpha, [4], SAMPLER, adapted_until=0.25, **names)
    Student(config, networks.state()).save_pretrained(tmp_path / "student")
    pipeline = tiny_pipeline.load_student(tmp_path / "student")
    x = torch.randn(mel_batch.mel.shape, generator=seeded())
    call = (torch.zeros_like(x), mel_batch.text_ids, mel_batch.attention_mask)
    with torch.no_grad():
        late, early = (pipeline.backbone(x, t, *call, num_steps=4).velocity for t in (0.3, 0.1))
        assert torch.equal(late, backbone(x, 0.3, *call).velocity)
        torch.testing.assert_close(early, networks.student(x, 0.1, *call, num_steps=4).velocity, atol=1e-4, rtol=1e-4)
        assert (early - backbone(x, 0.1, *call).velocity).abs().max() > 1e-2
    pipeline.save_pretrained(tmp_path / "whole")
    loaded = DTMPipeline.from_pretrained(tmp_path / "whole")
    settings = {"output_type": "mel", "num_inference_steps": 4}
    spoken = [
        p("Hello there.", reference_audio, "What is said.", generator=seeded(), **settings).audios[0]
        for p in (pipeline, loaded)
    ]
    torch.testing.assert_close(*spoken, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="`backbone` cannot be exported: there are no graphs yet of a student that"):
        export_pipeline(loaded, tmp_path / "port")

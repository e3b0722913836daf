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
from dtm_hf.training.speech.imitation import ImitationObjective

SAMPLER = {"num_inference_steps": 4, "time_grid": "sway", "sway_coefficient": -1.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def objective(make_backbone):
    torch.manual_seed(0)
    networks = AdapterNetworks(make_backbone(), F5_LAYERS, 4, step_counts=(4,))
    arguments = TDMSpeechArguments(imitates=True, step_counts=[4], teacher_guidance_scale=3.0)
    return ImitationObjective(arguments, networks, DTMScheduler(4, 0))


def test_the_loss_is_that_of_the_states_of_the_students_own_walk(objective, mel_batch):
    randomise(objective.networks.trained["student"], 0)
    batch = objective.prepare(mel_batch, seeded())
    states = objective.tdm.rollout(objective._student, batch.noise, 4, batch.conditions).states
    expected, untaught, weight = 0.0, 0.0, 0.0
    for x, t, after in zip(states[:2], (0.0, 0.0761205), (0.0761205, 0.2928932), strict=True):
        with torch.no_grad():
            v, null = objective.networks.teacher(x, t, **batch.conditions, branch="both").velocity.chunk(2)
            answer = objective.networks.student(x, t, num_steps=4, **batch.conditions).velocity
        expected += (after - t) ** 2 * masked_mean((answer - v - 2 * (v - null)) ** 2, batch.mask)
        untaught += (after - t) ** 2 * masked_mean((2 * (v - null)) ** 2, batch.mask)
        weight += (after - t) ** 2
    (phase,) = objective.phases(0)
    assert phase.group == "student"
    loss, figures = phase.loss(None, batch)
    torch.testing.assert_close(loss.detach(), expected / weight, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(figures["explained"], 1 - expected / untaught, rtol=1e-3, atol=1e-4)


def test_what_has_learnt_nothing_explains_nothing_in_two_passes_of_its_own(objective, mel_batch):
    """One a step that is taught: neither twice, nor in the steps behind."""
    branches = []
    objective.networks.base.register_forward_hook(lambda _, inputs, output: branches.append(output.velocity))
    batch = objective.prepare(mel_batch, seeded())
    _, figures = objective.imitation_loss(None, batch)
    assert abs(float(figures["explained"])) < 1e-4
    assert [(len(rows) // len(batch.noise), rows.requires_grad) for rows in branches] == [(2, False), (1, True)] * 2


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

"""A pipeline whose head says what guidance adds: where it runs, how it is kept, and who refuses it."""

import pytest
import torch
from tiny import MEAN_MEL

from dtm_hf import DTMPipeline, DTMScheduler
from dtm_hf.pipelines.guidance import ClassifierFreeGuidance
from dtm_hf.ports.export import export_pipeline


@pytest.fixture
def make_pipeline(tiny_pipeline):
    def make(head=None):
        parts = tiny_pipeline.components | {"head": head, "scheduler": DTMScheduler(4, 1)}
        pipeline = DTMPipeline(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


def speak(pipeline, reference_audio, **settings):
    # Two lengths, so that one is padded.
    return pipeline(
        ["Hello there, good morning.", "Hi."],
        reference_audio,
        "What is said.",
        generator=torch.Generator().manual_seed(0),
        output_type="mel",
        max_batch_frames=10_000,
        **settings,
    ).audios


def test_an_untrained_head_is_the_closed_form_at_zero_and_no_guidance_after_it(
    make_pipeline, make_guidance_head, reference_audio
):
    rule = ClassifierFreeGuidance(2.0, stop=0.01, mean=tuple(MEAN_MEL))
    expected = speak(make_pipeline(), reference_audio, guidance_scale=rule)
    found = speak(make_pipeline(make_guidance_head("conv")), reference_audio, guidance_scale=2.0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("overrides", "called"), [({}, 2), ({"guidance_end": 1.0}, 3), ({"mean_mel": None}, 3)])
def test_it_runs_where_guidance_is_to_be_learnt(
    make_pipeline, make_guidance_head, reference_audio, overrides, called, monkeypatch
):
    head, calls = make_guidance_head(**overrides), []
    head.body.register_forward_pre_hook(lambda *inputs: calls.append(1))
    speak(make_pipeline(head), reference_audio)
    assert len(calls) == called


@pytest.mark.parametrize("architecture", ["transformer", "conv"])
def test_it_comes_back_from_disk(make_pipeline, make_guidance_head, reference_audio, architecture, tmp_path):
    pipeline = make_pipeline(make_guidance_head(architecture, random_weights=True))
    pipeline.save_pretrained(tmp_path)
    loaded = DTMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    weak, strong = (speak(pipeline, reference_audio, guidance_scale=scale)[0] for scale in (1.5, 4.0))
    assert (weak - strong).abs().max() > 1e-2
    torch.testing.assert_close(speak(loaded, reference_audio, guidance_scale=4.0)[0], strong, atol=1e-3, rtol=0)


def test_a_port_of_it_is_refused(make_pipeline, make_guidance_head, tmp_path):
    pipeline = make_pipeline(make_guidance_head())
    with pytest.raises(ValueError, match="`head` cannot be exported: there are no graphs yet of a head of"):
        export_pipeline(pipeline, tmp_path / "port")
    assert not (tmp_path / "port").exists()


def test_a_backbone_that_does_not_give_what_it_reads_is_refused(make_pipeline, make_guidance_head):
    with pytest.raises(ValueError, match="reads the residual stream before the last 3 blocks"):
        make_pipeline(make_guidance_head(residual_layers=3, architecture="conv"))

"""A pipeline whose head says what guidance adds: where it runs, how it is kept, and who refuses it."""

import pytest
import torch
from tiny import MEAN_MEL
from typer.testing import CliRunner

from dtm_hf import DTMPipeline, DTMScheduler
from dtm_hf.commands.main import app
from dtm_hf.mean_mel import MeanMel
from dtm_hf.pipelines.guidance import ClassifierFreeGuidance


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
    rule = ClassifierFreeGuidance(2.0, stop=0.01, mean=MeanMel.of(MEAN_MEL))
    expected = speak(make_pipeline(), reference_audio, guidance_scale=rule)
    found = speak(make_pipeline(make_guidance_head("conv")), reference_audio, guidance_scale=2.0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_an_utterance_ends_where_it_ends_alone(make_pipeline, reference_audio):
    """The closed form knows its ends; beside a longer one its row goes on behind them."""
    pipeline = make_pipeline()
    pipeline.register_to_config(mean_mel=MEAN_MEL)
    settings = {"output_type": "mel", "guidance_end": 0.01, "max_batch_frames": 10_000}
    texts = ["Hello there, good morning.", "Hi."]
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    together = pipeline(texts, reference_audio, "What is said.", generator=generators, **settings).audios
    alone = [
        pipeline(text, reference_audio, "What is said.", generator=torch.Generator().manual_seed(seed), **settings)
        for text, seed in zip(texts, (1, 2), strict=True)
    ]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other.audios[0], atol=1e-3, rtol=1e-3)


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


def test_two_head_calls_say_the_same_as_one(guidance_pipeline, reference_audio):
    once, twice = (speak(guidance_pipeline, reference_audio, num_head_steps=calls)[0] for calls in (1, 2))
    torch.testing.assert_close(once, twice, atol=1e-3, rtol=0)


def test_guidance_may_end_before_the_head_does(guidance_pipeline, reference_audio):
    plain = speak(guidance_pipeline, reference_audio, num_head_steps=0, guidance_scale=1.0)[0]
    torch.testing.assert_close(speak(guidance_pipeline, reference_audio, guidance_end=0.0)[0], plain)
    ends = [speak(guidance_pipeline, reference_audio, guidance_end=end)[0] for end in (0.01, 0.1, 1.0)]
    assert all((one - other).abs().max() > 1e-2 for one, other in zip(ends, ends[1:], strict=False))
    # Later than it was trained for is no later.
    torch.testing.assert_close(speak(guidance_pipeline, reference_audio, guidance_end=0.3)[0], ends[-1])


def test_its_blocks_are_run_again_where_memory_is_short(make_guidance_head):
    head, calls = make_guidance_head(random_weights=True).train(), []
    head.gradient_checkpointing_enable()
    head.body.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    features, velocity = torch.randn(2, 12, head.config.num_features), torch.randn(2, 12, 100)
    head(features, velocity, 0.0, timestep=0.1, velocity=velocity).displacement.sum().backward()
    assert len(calls) == 2
    assert head._no_split_modules == {"DiTBlock"}


def test_card_and_info_say_what_it_is(guidance_pipeline, tmp_path):
    guidance_pipeline.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "what the second branch of classifier-free guidance" in card and "by a small inner flow" not in card
    assert "| The head runs | in steps before t = 0.3, but for t = 0," in card
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["info", str(tmp_path / "model")])
    assert result.exit_code == 0, result.stderr
    assert "in 2 of 4 steps, those before t = 0.3 but not at t = 0" in result.stdout


def test_a_backbone_that_does_not_give_what_it_reads_is_refused(make_pipeline, make_guidance_head):
    with pytest.raises(ValueError, match="reads the residual stream before the last 3 blocks"):
        make_pipeline(make_guidance_head(residual_layers=3, architecture="conv"))

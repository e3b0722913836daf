"""What a pipeline says is what its saved copy says: other vocoder, other dtype, in shards."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from dtm_hf import DTMPipeline, DTMScheduler, VocosVocoder

TEXT, SAID = "what else is there to say", "some words."


def speak(pipeline, reference_audio) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(TEXT, reference_audio, SAID, generator=torch.Generator().manual_seed(0)).audios[0]


@pytest.fixture
def vocos_pipeline(tiny_pipeline):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vocoder = VocosVocoder(dim=32, intermediate_dim=64, num_layers=2).eval()
    return DTMPipeline(**dict(tiny_pipeline.components) | {"vocoder": vocoder})


def test_with_vocos(vocos_pipeline, reference_audio, tmp_path):
    vocos_pipeline.save_pretrained(tmp_path)
    loaded = DTMPipeline.from_pretrained(tmp_path)
    assert type(loaded.vocoder) is VocosVocoder
    np.testing.assert_allclose(
        speak(loaded, reference_audio), speak(vocos_pipeline, reference_audio), atol=1e-4, rtol=1e-3
    )


def test_in_shards(vocos_pipeline, reference_audio, tmp_path):
    vocos_pipeline.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list((tmp_path / "backbone").glob("*-of-*.safetensors"))) > 1
    loaded = DTMPipeline.from_pretrained(tmp_path)
    np.testing.assert_allclose(
        speak(loaded, reference_audio), speak(vocos_pipeline, reference_audio), atol=1e-4, rtol=1e-3
    )


def test_a_head_that_is_given_brings_its_sampler(tiny_pipeline, make_head, tmp_path):
    """The scheduler of a base without a head would not run it."""
    parts = {"head": None, "scheduler": DTMScheduler(num_inference_steps=8, num_head_steps=0)}
    DTMPipeline(**dict(tiny_pipeline.components) | parts).save_pretrained(tmp_path)
    head = make_head()
    assert DTMPipeline.from_pretrained(tmp_path, head=head).scheduler.config.num_inference_steps == 8
    head.config.sampler = {"num_inference_steps": 3, "num_head_steps": 2}
    found = DTMPipeline.from_pretrained(tmp_path, head=head).scheduler.config
    assert (found.num_inference_steps, found.num_head_steps) == (3, 2)
    own = DTMScheduler(num_inference_steps=5, num_head_steps=1)
    assert DTMPipeline.from_pretrained(tmp_path, head=head, scheduler=own).scheduler.config.num_inference_steps == 5


def test_in_bfloat16(make_backbone, make_head, tiny_pipeline, reference_audio, tmp_path):
    parts = dict(tiny_pipeline.components) | {"backbone": make_backbone(), "head": make_head()}
    pipeline = DTMPipeline(**parts).to(dtype=torch.bfloat16)
    pipeline.save_pretrained(tmp_path)
    loaded = DTMPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name in ("backbone", "head"):
        ours, theirs = (dict(getattr(p, name).named_parameters()) for p in (pipeline, loaded))
        assert {p.dtype for p in theirs.values()} == {torch.bfloat16}
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # All parts in one type where none is named, whatever the files hold.
    whole = DTMPipeline.from_pretrained(tmp_path)
    assert {whole.backbone.dtype, whole.head.dtype, AutoModel.from_pretrained(tmp_path / "head").dtype} == {
        torch.float32
    }
    kwargs = {"output_type": "mel", "num_inference_steps": 2}
    mels = []
    for p in (pipeline, loaded):
        p.set_progress_bar_config(disable=True)
        mels.append(p(TEXT, reference_audio, SAID, generator=torch.Generator().manual_seed(0), **kwargs).audios[0])
    assert (mels[0] - mels[1]).abs().max() <= 1e-4


def test_the_card_says_what_one_call_is(tiny_pipeline, tmp_path):
    """A single head call is Euler's with any solver."""
    for calls, said in ((1, "1 (euler)"), (2, "2 (midpoint)")):
        parts = dict(tiny_pipeline.components) | {"scheduler": DTMScheduler(4, calls, head_solver="midpoint")}
        DTMPipeline(**parts).save_pretrained(tmp_path / str(calls))
        assert f"| Head calls a step | {said} |" in (tmp_path / str(calls) / "README.md").read_text()

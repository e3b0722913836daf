"""Without a head the pipeline is `f5_tts.model.CFM.sample`, number for number."""

import pytest
import torch

from dtm_hf import DTMScheduler

SEED = 7
REFERENCE_TEXT = "some words. "
TEXT = "what else is there to say"


@pytest.fixture(scope="module")
def cfm(backbone):
    """f5_tts's sampler around the same DiT."""
    from dtm_hf.f5_import import import_f5

    cfm_module = import_f5("f5_tts.model.cfm")
    return cfm_module.CFM(transformer=backbone.dit, num_channels=100, mel_spec_kwargs={})


def f5_mel(cfm, pipeline, reference_audio, *, steps, sway, use_epss, cfg_strength):
    """What `CFM.sample` gives for the prompt, cut off as `f5_tts.infer.utils_infer` cuts it."""
    from dtm_hf.frontend.audio import load_reference

    waveform, _ = load_reference(reference_audio)
    cond = pipeline.feature_extractor.log_mel(torch.from_numpy(waveform)[None])
    ref_audio_len = len(waveform) // 256
    duration = ref_audio_len + int(ref_audio_len / len(REFERENCE_TEXT) * len(TEXT))
    out, _ = cfm.sample(
        cond=cond,
        text=pipeline.tokenizer([REFERENCE_TEXT + TEXT]),
        duration=duration,
        steps=steps,
        cfg_strength=cfg_strength,
        sway_sampling_coef=sway,
        seed=SEED,
        use_epss=use_epss,
    )
    return out[0, ref_audio_len:]


@pytest.mark.parametrize("cfg_strength", [0.0, 2.0])
@pytest.mark.parametrize(
    "grid, sway, use_epss", [("sway", -1.0, False), ("uniform", None, False), ("epss", -1.0, True)]
)
@pytest.mark.parametrize("steps", [4, 7, 16, 32])
def test_baseline_equals_cfm_sample(cfm, tiny_pipeline, reference_audio, steps, grid, sway, use_epss, cfg_strength):
    tiny_pipeline.scheduler = DTMScheduler(num_head_steps=0, time_grid=grid)
    ours = tiny_pipeline(
        TEXT,
        reference_audio,
        REFERENCE_TEXT,
        num_inference_steps=steps,
        num_head_steps=0,
        guidance_scale=cfg_strength + 1,
        generator=torch.Generator().manual_seed(SEED),
        output_type="mel",
    ).audios[0]
    theirs = f5_mel(
        cfm, tiny_pipeline, reference_audio, steps=steps, sway=sway, use_epss=use_epss, cfg_strength=cfg_strength
    )
    assert ours.shape == theirs.shape
    # Not a comparison of two silences: the random backbone moves the noise far.
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-4


def test_epss_without_sway(cfm, tiny_pipeline, reference_audio):
    tiny_pipeline.scheduler = DTMScheduler(num_head_steps=0, time_grid="epss", sway_coefficient=0.0)
    ours = tiny_pipeline(
        TEXT,
        reference_audio,
        REFERENCE_TEXT,
        num_inference_steps=7,
        num_head_steps=0,
        generator=torch.Generator().manual_seed(SEED),
        output_type="mel",
    ).audios[0]
    theirs = f5_mel(cfm, tiny_pipeline, reference_audio, steps=7, sway=None, use_epss=True, cfg_strength=2.0)
    assert (ours - theirs).abs().max() <= 1e-4


def test_text_of_ours_is_cut_as_f5_cuts_it():
    from dtm_hf.pipelines.chunking import chunk_text

    # f5_tts.infer.utils_infer imports pydub, gradio's friends and a transcriber: its rule is restated on cases that
    # distinguish it from neighbours: cuts behind punctuation, measures bytes. A clause that is too long is the
    # exception: there F5-TTS goes beyond its own limit.
    assert chunk_text("one, two; three. four", 9) == ["one, two;", "three.", "four"]
    assert chunk_text("a clause that is longer than the limit. b", 40) == [
        "a clause that is longer than the limit.",
        "b",
    ]
    assert chunk_text("你好，世界。再见", 12) == ["你好，", "世界。", "再见"]
    assert chunk_text("no punctuation", 135) == ["no punctuation"]

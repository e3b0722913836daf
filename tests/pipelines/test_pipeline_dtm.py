import numpy as np
import pytest
import soundfile
import torch
from tiny import SAMPLING_RATE, voice

from dtm_hf import DTMPipeline, DTMScheduler, ZeroStarGuidance

TEXT = "what else is there to say"
SAID = "some words."


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speak(pipeline, reference_audio, text=TEXT, seed=0, **kwargs):
    kwargs = {"generator": generator(seed), "output_type": "mel"} | kwargs
    return pipeline(text, reference_audio, SAID, **kwargs).audios


def with_head(pipeline, head, **scheduler) -> DTMPipeline:
    """The same components with another head and scheduler."""
    parts = dict(pipeline.components) | {"head": head, "scheduler": DTMScheduler(**scheduler)}
    other = DTMPipeline(**parts)
    other.set_progress_bar_config(disable=True)
    return other


@pytest.mark.parametrize("solver, calls", [("euler", 1), ("euler", 2), ("euler", 4), ("midpoint", 2), ("midpoint", 4)])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_untrained_residual_head_is_the_baseline(
    tiny_pipeline, make_head, reference_audio, solver, calls, guidance_scale
):
    head = make_head(random_weights=False, prediction="residual")
    pipeline = with_head(tiny_pipeline, head, num_inference_steps=4, num_head_steps=calls, head_solver=solver)
    ours = speak(pipeline, reference_audio, guidance_scale=guidance_scale)[0]
    baseline = speak(pipeline, reference_audio, guidance_scale=guidance_scale, num_head_steps=0)[0]
    assert (ours - baseline).abs().max() <= 1e-4


def test_head_changes_the_mel(tiny_pipeline, reference_audio):
    ours, baseline = (
        speak(tiny_pipeline, reference_audio)[0],
        speak(tiny_pipeline, reference_audio, num_head_steps=0)[0],
    )
    assert (ours - baseline).abs().max() > 1e-2


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0, ZeroStarGuidance(3.0)], ids=["none", "both", "zero star"])
@pytest.mark.parametrize("num_head_steps", [0, 2])
def test_batch_equals_its_items(tiny_pipeline, reference_audio, guidance_scale, num_head_steps):
    texts = ["yes, that is what was said", TEXT, "a much longer text than both of the others are, all in all"]
    # A CPU would take them one by one.
    kwargs = {"guidance_scale": guidance_scale, "num_head_steps": num_head_steps, "max_batch_frames": 10**9}
    batch = speak(tiny_pipeline, reference_audio, texts, generator=[generator(i) for i in range(3)], **kwargs)
    for i, text in enumerate(texts):
        alone = speak(tiny_pipeline, reference_audio, text, seed=i, **kwargs)[0]
        assert batch[i].shape == alone.shape
        assert (batch[i] - alone).abs().max() <= 1e-4


def test_one_voice_a_text(tiny_pipeline, reference_audio):
    other = (voice(0.9, pitch=210, seed=3), SAMPLING_RATE)
    both = tiny_pipeline(
        [TEXT, TEXT],
        [reference_audio, other],
        [SAID, "other words were said"],
        generator=[generator(0), generator(1)],
        output_type="mel",
    ).audios
    alone = tiny_pipeline(TEXT, other, "other words were said", generator=generator(1), output_type="mel").audios[0]
    assert (both[1] - alone).abs().max() <= 1e-4


def test_long_text_runs_as_one_batch_of_chunks(tiny_pipeline, reference_audio, monkeypatch):
    text = " ".join(["this is one of the sentences that make a long text."] * 6)
    rows = []
    forward = tiny_pipeline.backbone.forward

    def counting(sample, *args, **kwargs):
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(tiny_pipeline.backbone, "forward", counting)
    # A slow prompt text leaves little room for text in 22 seconds.
    sampling = {"generator": generator(0), "guidance_scale": 1.0, "max_batch_frames": 10**6}
    audio = tiny_pipeline(text, reference_audio, "one", **sampling).audios
    assert len(audio) == 1
    assert len(rows) == 4 and rows[0] > 1, "chunks must share the passes of the backbone"


def test_waveform_types_and_rate(tiny_pipeline, reference_audio):
    output = tiny_pipeline(TEXT, reference_audio, SAID, generator=generator(0))
    assert output.sampling_rate == 24000
    assert isinstance(output.audios[0], np.ndarray) and output.audios[0].dtype == np.float32
    audios, rate = tiny_pipeline(
        TEXT, reference_audio, SAID, generator=generator(0), output_type="pt", return_dict=False
    )
    assert rate == 24000 and isinstance(audios[0], torch.Tensor)
    np.testing.assert_allclose(audios[0].numpy(), output.audios[0], atol=1e-6)


def test_output_is_as_quiet_as_the_recording(tiny_pipeline):
    loud, quiet = voice(1.2), voice(1.2) * np.float32(0.1)
    outputs = [
        tiny_pipeline(TEXT, (wave, SAMPLING_RATE), SAID, generator=generator(0)).audios[0] for wave in (loud, quiet)
    ]
    rms = [float(np.sqrt(np.mean(wave.astype(np.float64) ** 2))) for wave in (loud, quiet)]
    gains = [min(value / 0.1, 1.0) for value in rms]
    levels = [float(np.abs(output).max()) for output in outputs]
    # Both prompts are raised to the same level, so the mels agree and only the gain differs.
    assert levels[1] / levels[0] == pytest.approx(gains[1] / gains[0], rel=0.05)


def test_duration_and_speed(tiny_pipeline, reference_audio):
    def frames(**kwargs):
        return len(speak(tiny_pipeline, reference_audio, **kwargs)[0])

    assert frames(duration_s=2.0) == pytest.approx(2.0 * 24000 / 256, abs=2)
    assert frames(speed=0.5) == pytest.approx(2 * frames(), abs=3)
    each = speak(tiny_pipeline, reference_audio, [TEXT] * 3, duration_s=[1.0, None, 2.0])
    assert [len(mel) for mel in each] == pytest.approx([93.75, frames(), 187.5], abs=2)


def test_a_predictor_of_durations(tiny_pipeline, reference_audio, tmp_path):
    """In proportion to the prompt it says how long a text takes; a wanted duration is still what was wanted."""
    from dtm_hf import DTMPipeline, DurationPredictor

    predictor = DurationPredictor(0.1, 0.05, {"a": 0.2, "e": 0.01}, 0.05)
    DTMPipeline(**tiny_pipeline.components | {"duration_predictor": predictor}).save_pretrained(tmp_path)
    pipeline = DTMPipeline.from_pretrained(tmp_path)
    by_bytes = len(speak(tiny_pipeline, reference_audio)[0])
    frames = len(speak(pipeline, reference_audio)[0])
    assert frames == pytest.approx(1.25 * 93.75 * predictor(TEXT) / predictor(SAID + " "), abs=2)
    assert abs(frames - by_bytes) > 5
    assert len(speak(pipeline, reference_audio, speed=2.0)[0]) == pytest.approx(frames / 2, abs=2)
    assert len(speak(pipeline, reference_audio, duration_s=2.0)[0]) == pytest.approx(187.5, abs=2)
    # Taken out again, the rule is F5-TTS's.
    pipeline.duration_predictor = None
    assert len(speak(pipeline, reference_audio)[0]) == by_bytes


def test_seed_and_latents(tiny_pipeline, reference_audio):
    first, again, other = (speak(tiny_pipeline, reference_audio, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-2
    prompt_frames = int(1.25 * SAMPLING_RATE) // 256
    noise = torch.randn(1, prompt_frames + len(first), 100, generator=generator(0))
    given = speak(tiny_pipeline, reference_audio, num_head_steps=0, latents=noise)[0]
    drawn = speak(tiny_pipeline, reference_audio, num_head_steps=0)[0]
    assert (given - drawn).abs().max() <= 1e-6


def test_callback_sees_and_replaces_latents(tiny_pipeline, reference_audio):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, float(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    mel = speak(tiny_pipeline, reference_audio, callback_on_step_end=callback)[0]
    assert [step for step, _ in seen] == [0, 1, 2, 3] and seen[0][1] == 0.0
    # Past the frame of the prompt that F5-TTS counts to the target, all is what the callback put there.
    assert mel[1:].abs().max() == 0


def test_baked_guidance_runs_one_branch(tiny_pipeline, make_head, reference_audio):
    rows = []
    pipeline = with_head(tiny_pipeline, make_head(guidance_scale=3.0), num_inference_steps=2)
    handle = pipeline.backbone.dit.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["cfg_infer"]), with_kwargs=True
    )
    try:
        speak(pipeline, reference_audio)
    finally:
        handle.remove()
    assert rows == [False, False]


@pytest.mark.parametrize("num_head_steps", [0, 2])
def test_guidance_ends_where_it_is_told_to(tiny_pipeline, reference_audio, num_head_steps):
    rows, kwargs = [], {"guidance_scale": 2.0, "num_head_steps": num_head_steps}
    handle = tiny_pipeline.backbone.dit.register_forward_pre_hook(
        lambda module, args, given: rows.append(given["cfg_infer"]), with_kwargs=True
    )
    try:
        # Sway times: 0, 0.076, 0.293, 0.617.
        ended = speak(tiny_pipeline, reference_audio, guidance_end=0.29, **kwargs)[0]
        ran = list(rows)
        never = speak(tiny_pipeline, reference_audio, guidance_end=0.0, **kwargs)[0]
    finally:
        handle.remove()
    assert ran == [True, True, False, False]
    off = speak(tiny_pipeline, reference_audio, **kwargs | {"guidance_scale": 1.0})[0]
    torch.testing.assert_close(never, off)
    always = speak(tiny_pipeline, reference_audio, **kwargs)[0]
    assert (ended - off).abs().max() > 1e-3 and (ended - always).abs().max() > 1e-3


def test_a_head_with_a_range_follows_the_scale_on_one_branch(tiny_pipeline, make_head, reference_audio):
    head = make_head(guidance_scale=2.0, guidance_scale_range=[1.0, 3.0])
    pipeline = with_head(tiny_pipeline, head, num_inference_steps=2)
    default, two, three = (speak(pipeline, reference_audio, guidance_scale=scale)[0] for scale in (None, 2.0, 3.0))
    assert torch.equal(default, two) and (two - three).abs().max() > 1e-3
    handle = pipeline.backbone.dit.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["cfg_infer"]), with_kwargs=True
    )
    rows = []
    try:
        speak(pipeline, reference_audio, guidance_scale=3.0)
    finally:
        handle.remove()
    assert rows == [False, False]
    with pytest.raises(ValueError, match=r"`guidance_scale` must lie in \[1.0, 3.0\].*3.5"):
        speak(pipeline, reference_audio, guidance_scale=3.5)


# What is refused


def test_bad_arguments(tiny_pipeline, reference_audio):
    cases = [
        ({"text": ""}, ValueError, "`text` must not be empty"),
        ({"text": "   "}, ValueError, "`text` must not be empty"),
        ({"text": []}, TypeError, "`text`"),
        ({"text": "你我"}, ValueError, "`text` must hold characters of the vocabulary"),
        ({"text": "☃ ☃"}, ValueError, "`text` must hold characters of the vocabulary"),
        ({"reference_text": ""}, ValueError, "`reference_text`"),
        ({"reference_text": None}, ValueError, "`reference_text`"),
        ({"num_inference_steps": 0}, ValueError, "`num_inference_steps` must be an integer of at least 1, but got 0"),
        ({"num_head_steps": 3}, ValueError, "must be even"),
        ({"speed": 0}, ValueError, "`speed`"),
        ({"guidance_end": 1.5}, ValueError, "`guidance_end`"),
        ({"duration_s": -1.0}, ValueError, "`duration_s`"),
        ({"duration_s": [1.0, 2.0]}, ValueError, "`duration_s`.*each of 1 texts"),
        ({"output_type": "wav"}, ValueError, "`output_type`"),
        ({"generator": [generator(0), generator(1)]}, ValueError, "`generator`"),
        ({"latents": torch.zeros(1, 3, 100)}, ValueError, "`latents` must have shape"),
        ({"text": [TEXT, TEXT], "reference_audio": [reference_audio]}, ValueError, "`reference_audio`"),
        ({"callback_on_step_end_tensor_inputs": ["x"]}, ValueError, "`callback_on_step_end_tensor_inputs`"),
    ]
    for change, error, message in cases:
        arguments = {"text": TEXT, "reference_audio": reference_audio, "reference_text": SAID} | change
        with pytest.raises(error, match=message.replace("(", r"\(")):
            tiny_pipeline(**arguments)


def test_bad_recordings(tiny_pipeline, tmp_path):
    not_audio = tmp_path / "notes.wav"
    not_audio.write_text("these are notes")
    nan = voice(1.0)
    nan[100] = np.nan
    cases = [
        (tmp_path / "absent.wav", FileNotFoundError),
        (not_audio, ValueError),
        ((np.zeros(24000, np.float32), 24000), ValueError),
        ((np.zeros(0, np.float32), 24000), ValueError),
        ((nan, 24000), ValueError),
        (3.5, TypeError),
    ]
    for recording, error in cases:
        with pytest.raises(error, match="`reference_audio`"):
            tiny_pipeline(TEXT, recording, SAID)


def test_stereo_and_8_khz_are_converted(tiny_pipeline, tmp_path):
    path = tmp_path / "phone.wav"
    wave = voice(1.5)[::3]
    soundfile.write(path, np.stack([wave, wave], axis=1), 8000)
    assert np.isfinite(tiny_pipeline(TEXT, path, SAID, generator=generator(0)).audios[0]).all()


def test_long_recording_is_clipped_with_a_warning(tiny_pipeline):
    with pytest.warns(UserWarning, match="clipped"):
        speak(tiny_pipeline, (voice(13.0), SAMPLING_RATE), num_inference_steps=1)


def test_head_of_another_size_or_backbone_is_refused(tiny_pipeline, make_head):
    with pytest.raises(ValueError, match="features of size 48"):
        with_head(tiny_pipeline, make_head(backbone_hidden_size=48))
    foreign = make_head(backbone_fingerprint="0123456789abcdef", backbone_name="other")
    with pytest.raises(ValueError, match="'other'.*force_head=True"):
        with_head(tiny_pipeline, foreign)
    parts = dict(tiny_pipeline.components) | {"head": foreign}
    assert DTMPipeline(**parts, force_head=True).head is foreign


# Saving and loading


def test_round_trip(tiny_pipeline, reference_audio, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".txt", ".md"}
    loaded = DTMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    difference = speak(loaded, reference_audio)[0] - speak(tiny_pipeline, reference_audio)[0]
    assert difference.abs().max() <= 1e-4
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    assert not any(str(tmp_path) in path.read_text() for path in again.rglob("*.json")), (
        "a path of this machine is saved"
    )


def test_pipeline_without_a_head_round_trips(tiny_pipeline, reference_audio, tmp_path):
    baseline = with_head(tiny_pipeline, None, num_inference_steps=4)
    baseline.save_pretrained(tmp_path)
    loaded = DTMPipeline.from_pretrained(tmp_path)
    assert loaded.head is None
    loaded.set_progress_bar_config(disable=True)
    difference = speak(loaded, reference_audio)[0] - speak(tiny_pipeline, reference_audio, num_head_steps=0)[0]
    assert difference.abs().max() <= 1e-4


def test_corrupted_weights_are_refused(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    weights = tmp_path / "head" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(Exception, match=r"(?i)safetensor|header|corrupt|incomplete"):
        DTMPipeline.from_pretrained(tmp_path)


def test_pickles_are_never_written(tiny_pipeline, tmp_path):
    with pytest.raises(ValueError, match="`safe_serialization`"):
        tiny_pipeline.save_pretrained(tmp_path, safe_serialization=False)
    assert not list(tmp_path.iterdir())

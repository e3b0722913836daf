"""What users of diffusers expect of any pipeline: the tests of its own pipelines that fit this one."""

import inspect

import accelerate
import pytest
import torch

from dtm_hf import DTMPipeline, GriffinLimVocoder, VocosVocoder

TEXT, SAID = "what else is there to say", "some words."


def speak(pipeline, reference_audio, **kwargs):
    kwargs = {
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
        "num_inference_steps": 3,
    } | kwargs
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(TEXT, reference_audio, SAID, **kwargs).audios[0]


@pytest.fixture
def own_pipeline(tiny_pipeline, make_backbone, make_head):
    """Of components that no other test sees: they are moved, converted and hooked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vocoder = VocosVocoder(dim=32, intermediate_dim=64, num_layers=2).eval()
    parts = {"backbone": make_backbone(), "head": make_head(architecture="conv"), "vocoder": vocoder}
    return DTMPipeline(**dict(tiny_pipeline.components) | parts)


# The call


def test_its_signature():
    parameters = inspect.signature(DTMPipeline.__call__).parameters
    expected = {"num_inference_steps", "guidance_scale", "generator", "latents", "output_type", "return_dict"}
    assert expected <= set(parameters)
    assert parameters["callback_on_step_end_tensor_inputs"].default == ["latents"]


def test_the_mel_is_the_latent(tiny_pipeline, reference_audio):
    latent = speak(tiny_pipeline, reference_audio)
    assert torch.equal(latent, speak(tiny_pipeline, reference_audio, output_type="mel"))
    assert latent.shape[1] == 100


def test_tuple_and_output_hold_the_same(tiny_pipeline, reference_audio):
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    output = tiny_pipeline(TEXT, reference_audio, SAID, generator=generators[0])
    audios, rate = tiny_pipeline(TEXT, reference_audio, SAID, generator=generators[1], return_dict=False)
    assert (output.audios[0] == audios[0]).all() and output[0] is output.audios and output[1] == rate == 24000


@pytest.mark.parametrize("wanted", [[], ["latents"]])
def test_callbacks_get_what_they_ask_for(tiny_pipeline, reference_audio, wanted):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, list(tensors), pipe.num_timesteps, pipe.guidance_scale))
        return tensors

    inputs = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": wanted}
    speak(tiny_pipeline, reference_audio, guidance_scale=2.5, **inputs)
    assert seen == [(step, wanted, 3, 2.5) for step in range(3)]


@pytest.mark.parametrize("num_head_steps", [0, 2])
def test_a_callback_changes_the_guidance_of_the_rest(tiny_pipeline, reference_audio, num_head_steps):
    def end_guidance(pipe, step, timestep, tensors):
        if step == 1:
            pipe._guidance_scale = 1.0
        return tensors

    def raise_guidance(pipe, step, timestep, tensors):
        pipe._guidance_scale += 1.0
        return tensors

    kwargs = {"guidance_scale": 2.0, "num_head_steps": num_head_steps}
    # Sway times of three steps: 0, 0.134, 0.5.
    expected = speak(tiny_pipeline, reference_audio, guidance_end=0.4, **kwargs)
    ended = speak(tiny_pipeline, reference_audio, callback_on_step_end=end_guidance, **kwargs)
    torch.testing.assert_close(ended, expected)
    raised = speak(tiny_pipeline, reference_audio, callback_on_step_end=raise_guidance, **kwargs)
    assert tiny_pipeline.guidance_scale == 2.0 + tiny_pipeline.num_timesteps
    assert (raised - speak(tiny_pipeline, reference_audio, **kwargs)).abs().max() > 1e-3


def test_guidance_that_a_callback_cannot_change(tiny_pipeline, make_head, reference_audio):
    def raise_guidance(pipe, step, timestep, tensors):
        pipe._guidance_scale += 1.0
        return tensors

    with pytest.raises(ValueError, match="`guidance_scale` must start above 1 to be raised to 2.0, but was 1.0"):
        speak(tiny_pipeline, reference_audio, guidance_scale=1.0, callback_on_step_end=raise_guidance)
    baked = DTMPipeline(**dict(tiny_pipeline.components) | {"head": make_head(guidance_scale=2.0)})
    with pytest.raises(ValueError, match="`guidance_scale` is fixed for this call at 2.0"):
        speak(baked, reference_audio, callback_on_step_end=raise_guidance)


def test_a_call_that_is_interrupted_ends_as_it_is(tiny_pipeline, reference_audio):
    states = {}

    def keep(pipe, step, timestep, tensors):
        states[step] = tensors["latents"].clone()
        return tensors

    def interrupt(pipe, step, timestep, tensors):
        assert not pipe.interrupt
        pipe._interrupt = step == 1
        return tensors

    full = speak(tiny_pipeline, reference_audio, callback_on_step_end=keep)
    stopped = speak(tiny_pipeline, reference_audio, callback_on_step_end=interrupt)
    assert tiny_pipeline.interrupt
    target = states[1][0, -(len(full) - 1) :]
    # The first frame is one of the prompt.
    assert torch.equal(stopped[1:], target) and not torch.equal(full, stopped)
    assert torch.equal(speak(tiny_pipeline, reference_audio), full) and not tiny_pipeline.interrupt


def test_outside_of_a_call_there_is_nothing_to_change(tiny_pipeline):
    assert tiny_pipeline.guidance_scale is None and not tiny_pipeline.interrupt
    with pytest.raises(RuntimeError, match="`_interrupt` is set from within a call"):
        tiny_pipeline._interrupt = True


# Components


class OwnVocoder(GriffinLimVocoder):
    """A user's."""


@pytest.mark.parametrize("given", [{}, {"head": None}], ids=["all", "no head"])
def test_from_pipe_shares_the_components(tiny_pipeline, reference_audio, given):
    parts = dict(tiny_pipeline.components) | {"vocoder": OwnVocoder(num_iters=2)}
    pipeline = DTMPipeline(**parts, force_head=True)
    other = DTMPipeline.from_pipe(pipeline, **given)
    assert other.config.force_head is True
    for name, part in (pipeline.components | given).items():
        assert getattr(other, name) is part
    expected = speak(pipeline, reference_audio, num_head_steps=0 if given else None)
    assert torch.equal(speak(other, reference_audio), expected)


def test_a_tokenizer_of_another_vocabulary_is_refused(tiny_pipeline, make_backbone):
    parts = dict(tiny_pipeline.components) | {"backbone": make_backbone(text_num_embeds=12), "head": None}
    with pytest.raises(ValueError, match="`tokenizer` must have the 12 tokens.*'tiny'.*but has 59"):
        DTMPipeline(**parts)


def test_every_network_follows_to(own_pipeline, reference_audio):
    own_pipeline.to(dtype=torch.bfloat16)
    networks = [part for part in own_pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert len(networks) == 3 and {network.dtype for network in networks} == {torch.bfloat16}
    assert speak(own_pipeline, reference_audio).isfinite().all()


def test_a_dtype_for_each_component(own_pipeline, tmp_path):
    own_pipeline.save_pretrained(tmp_path)
    loaded = DTMPipeline.from_pretrained(tmp_path, dtype={"backbone": torch.bfloat16, "default": torch.float32})
    assert (loaded.backbone.dtype, loaded.head.dtype, loaded.vocoder.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )


def test_variants(own_pipeline, reference_audio, tmp_path):
    expected = speak(own_pipeline, reference_audio)
    own_pipeline.save_pretrained(tmp_path, variant="half")
    assert {path.name for path in tmp_path.rglob("*.safetensors")} == {
        "diffusion_pytorch_model.half.safetensors",
        "model.half.safetensors",
    }
    loaded = DTMPipeline.from_pretrained(tmp_path, variant="half")
    torch.testing.assert_close(speak(loaded, reference_audio), expected, atol=1e-4, rtol=1e-3)
    with pytest.raises((OSError, ValueError), match="(?i)variant|found"):
        DTMPipeline.from_pretrained(tmp_path)


def offload_whole_models(pipeline):
    pipeline.enable_model_cpu_offload(device="cpu")


def offload_submodules(pipeline):
    """`enable_sequential_cpu_offload`, which would say "cpu:0": to that, torch copies what is on the CPU."""
    for part in (pipeline.backbone, pipeline.vocoder):
        accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)


@pytest.mark.parametrize("offload", [offload_whole_models, offload_submodules])
def test_offloaded_components_say_the_same(own_pipeline, reference_audio, offload):
    """accelerate's own hooks, with the CPU in the place of the accelerator; two texts, so that there is a mask."""

    def speak_both():
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        return own_pipeline([TEXT, "yes"], reference_audio, SAID, generator=generators, num_inference_steps=2).audios

    own_pipeline.set_progress_bar_config(disable=True)
    expected = speak_both()
    offload(own_pipeline)
    assert own_pipeline.backbone._hf_hook is not None and own_pipeline.vocoder._hf_hook is not None
    # The second call finds what the first has left.
    for audios in (speak_both(), speak_both()):
        assert all((one == other).all() for one, other in zip(audios, expected, strict=True))

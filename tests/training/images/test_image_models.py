"""Real loading of every family, its networks against the plain pipeline, and what is refused before training."""

import json
import shutil

import pytest
import torch

from dtm_hf.training.images.loading import load_image_model
from dtm_hf.training.images.networks import LatentNetworks
from dtm_hf.training.objectives.tdm import TDM

PROMPTS = ["a red square", "a blue cat"]
FAMILIES = ["sd", "sdxl", "flux", "sd3"]


@pytest.fixture(scope="module")
def load(pipeline_folder):
    def load(name, resolution=16, **options):
        return load_image_model(str(pipeline_folder(name)), resolution, max_sequence_length=12, **options)

    return load


def plain_pipeline(model, folder):
    pipeline = type(model.pipeline).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def plain_latents(pipeline, model, noise, num_steps, **call):
    """What the plain pipeline makes of the noise with the model's scheduler, `(B, C, h, w)`."""
    flux = model.pipeline_class == "FluxPipeline"
    latents = pipeline._pack_latents(noise, len(noise), *model.latent_shape) if flux else noise
    pipeline.scheduler = model.sampling_scheduler()
    call = {"height": model.resolution, "width": model.resolution} | model.call_arguments(num_steps) | call
    output = pipeline(PROMPTS, latents=latents, num_inference_steps=num_steps, output_type="latent", **call).images
    return pipeline._unpack_latents(output, *model.latent_shape[1:], 1) if flux else output


@pytest.mark.parametrize("name", FAMILIES)
def test_sampling_is_that_of_the_plain_pipeline(load, pipeline_folder, name):
    model = load(name)
    noise, conditions = model.noise(2, torch.Generator().manual_seed(1)), model.encode(PROMPTS)
    tdm, pipeline = TDM(model.prediction, (1, 2, 3, 4)), plain_pipeline(model, pipeline_folder(name))

    def network(x, t, num_steps, **conditions):
        return model.predict(model.denoiser, x, t, conditions)

    for count in tdm.step_counts:
        ours = tdm.rollout(network, noise, count, conditions).samples
        assert ours.std() > 0.5
        torch.testing.assert_close(plain_latents(pipeline, model, noise, count), ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_guidance_is_that_of_the_plain_pipeline(load, pipeline_folder, name):
    model, count, scale = load(name), 4, 3.0
    noise = model.noise(2, torch.Generator().manual_seed(1))
    pipeline = plain_pipeline(model, pipeline_folder(name))
    call = {"true_cfg_scale": scale, "negative_prompt": ["", ""]} if name == "flux" else {"guidance_scale": scale}
    plain = plain_latents(pipeline, model, noise, count, **call)
    unguided = plain_latents(pipeline, model, noise, count)
    ours = LatentNetworks(model, scale, step_counts=(4,)).teacher_samples(PROMPTS, noise, count)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    assert (plain - unguided).abs().max() > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_are_those_of_the_plain_pipeline(load, pipeline_folder, name):
    model, pipeline = load(name), plain_pipeline(load(name), pipeline_folder(name))
    latents = 0.5 * model.noise(1, torch.Generator().manual_seed(1))
    plain = pipeline.vae.decode(
        latents / pipeline.vae.config.scaling_factor + (pipeline.vae.config.shift_factor or 0)
    ).sample
    torch.testing.assert_close(model.decode(latents), plain.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    encoded = pipeline.vae.encode(plain).latent_dist.mode() - (pipeline.vae.config.shift_factor or 0)
    torch.testing.assert_close(
        model.encode_images(plain), encoded * pipeline.vae.config.scaling_factor, rtol=1e-4, atol=1e-5
    )


def test_latents_with_a_mean_and_a_deviation(load):
    model = load("sdxl")
    latents = model.noise(2, torch.Generator().manual_seed(1))
    plain = model.decode(latents)
    mean, deviation = [0.1, -0.2, 0.3, 0.0], [2.0, 1.0, 0.5, 1.5]
    model.pipeline.vae.register_to_config(latents_mean=mean, latents_std=deviation)
    mean, deviation = (torch.tensor(values).reshape(1, 4, 1, 1) for values in (mean, deviation))
    moved = (latents - mean * model.pipeline.vae.config.scaling_factor) / deviation
    torch.testing.assert_close(model.decode(moved), plain)


def test_half_precision_stays_outside_the_vae(load):
    model = load("sdxl", dtype=torch.bfloat16)
    assert model.denoiser.dtype == model.pipeline.text_encoder.dtype == torch.bfloat16
    assert model.pipeline.vae.dtype == torch.float32
    noise = model.noise(2)
    output = model.predict(model.denoiser, noise, torch.tensor([999.0, 3.0]), model.encode(PROMPTS))
    assert output.dtype == torch.bfloat16 and output.shape == noise.shape


def test_the_shift_of_a_resolution_is_that_of_the_plain_pipeline(load, pipeline_folder):
    model = load("flux", resolution=64)
    plain = plain_pipeline(model, pipeline_folder("flux"))
    plain(PROMPTS[0], height=64, width=64, num_inference_steps=4, max_sequence_length=12, output_type="latent")
    torch.testing.assert_close(model.prediction.grid(4), plain.scheduler.sigmas)
    assert load("flux", grid_shift=1.0).prediction.grid(2).tolist() == [1.0, 0.5, 0.0]


# Refused


@pytest.fixture
def altered(pipeline_folder, tmp_path):
    """A copy of a pipeline's folder with a changed JSON file."""

    def alter(name, file, **changes):
        folder = shutil.copytree(pipeline_folder(name), tmp_path / name)
        content = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(json.dumps(content))
        return folder

    return alter


SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "tokenizer_2", "vae", "scheduler"])
def test_a_missing_part(altered, pipeline_folder, tmp_path, part):
    with pytest.raises(ValueError, match=f"must have a `{part}`, but its model_index.json names none"):
        load_image_model(str(altered("sdxl", "model_index.json", **{part: [None, None]})), 16)
    folder = shutil.copytree(pipeline_folder("flux"), tmp_path / "flux")
    shutil.rmtree(folder / part)
    with pytest.raises(ValueError, match=f"must have a `{part}`, but the folder of that name is absent"):
        load_image_model(str(folder), 16)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_another_prediction_type(altered, kind):
    folder = altered("sdxl", SCHEDULER, prediction_type=kind)
    with pytest.raises(ValueError, match=f"`prediction_type` of EulerDiscreteScheduler must be 'epsilon'.*'{kind}'"):
        load_image_model(str(folder), 16)


def test_another_scheduler(altered):
    folder = altered("flux", "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"])
    with pytest.raises(ValueError, match="must be a diffusers scheduler with betas.*got EDMEulerScheduler"):
        load_image_model(str(folder), 16)


def test_the_scheduler_of_another_family(altered, tmp_path):
    folder = altered("flux", "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    with pytest.raises(ValueError, match="must be `FlowMatchEulerDiscreteScheduler`, but got DDIMScheduler"):
        load_image_model(str(folder), 16)
    folder = altered("sdxl", "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    with pytest.raises(ValueError, match="must be a schedule of betas, but got FlowMatchEulerDiscreteScheduler"):
        load_image_model(str(folder), 16)
    folder = altered("sd", "model_index.json", scheduler=["dtm_hf", "DTMScheduler"])
    with pytest.raises(ValueError, match="must be one of diffusers', but got DTMScheduler"):
        load_image_model(str(folder), 16)


def test_what_is_no_such_pipeline(altered, tmp_path):
    folder = altered("sdxl", "model_index.json", _class_name="StableDiffusionXLInpaintPipeline")
    with pytest.raises(ValueError, match="must be one of .*'FluxPipeline'.*is a StableDiffusionXLInpaintPipeline"):
        load_image_model(str(folder), 16)
    with pytest.raises(ValueError, match="must be a folder or a Hub name of a diffusers pipeline"):
        load_image_model(str(tmp_path), 16)


def test_a_resolution_between_two_tokens(load):
    with pytest.raises(ValueError, match="`resolution` must be a multiple of 4 for FluxPipeline, but got 18"):
        load("flux", resolution=18)


def test_a_network_that_is_distilled_already(altered):
    folder = altered("sdxl", "unet/config.json", time_cond_proj_dim=16)
    with pytest.raises(ValueError, match="without an embedded guidance scale"):
        load_image_model(str(folder), 16)

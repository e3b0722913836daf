"""What is saved is a plain LoRA, or a plain pipeline: fresh pipelines of diffusers sample with it as training does."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from tiny import randomise

from dtm_hf.training.images.loading import load_image_model
from dtm_hf.training.images.networks import LatentNetworks
from dtm_hf.training.images.saving import LORA_FILE, STUDENT_FILE, load_lora, save_lora, save_merged
from dtm_hf.training.objectives.tdm import TDM

PROMPTS = ["a red square", "a blue cat"]
FAMILIES = ["sd", "sdxl", "flux", "sd3"]


@pytest.fixture
def make_student(pipeline_folder):
    """A student whose adapters are far from zero, and its steps."""

    def make(name, counts=(4,), **options):
        model = load_image_model(str(pipeline_folder(name)), 16, max_sequence_length=12)
        networks = LatentNetworks(model, 3.0, **{"rank": 4, "alpha": 6.0, "step_counts": counts} | options)
        randomise(networks.adapters.trained["student"], 1)
        return model, networks, TDM(model.prediction, counts)

    return make


def plain_latents(pipeline, model, noise, num_steps):
    pipeline.set_progress_bar_config(disable=True)
    flux = model.pipeline_class == "FluxPipeline"
    latents = pipeline._pack_latents(noise, len(noise), *model.latent_shape) if flux else noise
    call = {"height": 16, "width": 16, "num_inference_steps": num_steps} | model.call_arguments(num_steps)
    output = pipeline(PROMPTS, latents=latents, output_type="latent", **call).images
    return pipeline._unpack_latents(output, *model.latent_shape[1:], 1) if flux else output


def with_lora(base, folder, steps=None):
    """A fresh pipeline with the LoRA and the scheduler of the folder, through the very code of its card."""
    readme = (folder / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0].split("pipe.to(")[0]
    code = code.replace("BASE_MODEL", str(base)).replace("FOLDER", str(folder)).replace("bfloat16", "float32")
    if steps is not None:
        code = re.sub(r"steps-\d", f"steps-{steps}", code)
    names = {}
    exec(code, names)
    return names["pipe"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_lora_in_plain_diffusers(make_student, pipeline_folder, tmp_path, name, steps):
    model, networks, tdm = make_student(name, (steps,))
    noise = model.noise(2, torch.Generator().manual_seed(1))
    ours = networks.student_samples(tdm, PROMPTS, noise, steps)
    teacher = networks.teacher_samples(PROMPTS, noise, steps)
    assert (ours - teacher).abs().max() > 0.1
    save_lora(tmp_path, model, networks.adapters, {})
    plain = plain_latents(with_lora(pipeline_folder(name), tmp_path), model, noise, steps)
    torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_student_of_several_numbers_of_steps(make_student, pipeline_folder, tmp_path, name):
    counts = (1, 2, 4)
    model, networks, tdm = make_student(name, counts)
    noise = model.noise(2, torch.Generator().manual_seed(1))
    save_lora(tmp_path, model, networks.adapters, {})
    for steps in counts:
        ours = networks.student_samples(tdm, PROMPTS, noise, steps)
        plain = plain_latents(with_lora(pipeline_folder(name), tmp_path, steps), model, noise, steps)
        torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-4)
    # The number of steps says something: the LoRA of another is another student.
    other = plain_latents(with_lora(pipeline_folder(name), tmp_path, 1), model, noise, 4)
    assert (other - ours).abs().max() > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"full_parameters": True}])
def test_a_whole_pipeline(make_student, tmp_path, name, options):
    from diffusers import DiffusionPipeline

    model, networks, tdm = make_student(name, (2,), **options)
    noise = model.noise(2, torch.Generator().manual_seed(1))
    ours = networks.student_samples(tdm, PROMPTS, noise, 2)
    scheduler = model.pipeline.scheduler
    save_merged(tmp_path, model, networks.adapters, {})
    plain = plain_latents(DiffusionPipeline.from_pretrained(tmp_path), model, noise, 2)
    torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-4)
    # What is trained is as it was.
    assert model.pipeline.scheduler is scheduler
    assert torch.equal(networks.student_samples(tdm, PROMPTS, noise, 2), ours)


def test_whole_pipelines_of_several_numbers_of_steps(make_student, tmp_path):
    from diffusers import DiffusionPipeline

    model, networks, tdm = make_student("flux", (1, 2))
    noise = model.noise(2, torch.Generator().manual_seed(1))
    save_merged(tmp_path, model, networks.adapters, {})
    for steps in (1, 2):
        ours = networks.student_samples(tdm, PROMPTS, noise, steps)
        plain = plain_latents(DiffusionPipeline.from_pretrained(tmp_path / f"steps-{steps}"), model, noise, steps)
        torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-4)


def test_full_parameters_are_no_lora(make_student, tmp_path):
    model, networks, _ = make_student("sdxl", full_parameters=True)
    with pytest.raises(ValueError, match="got full parameters: save the pipeline"):
        save_lora(tmp_path, model, networks.adapters, {})


def test_the_folder_of_a_lora(make_student, tmp_path):
    model, networks, _ = make_student("flux")
    save_lora(tmp_path, model, networks.adapters, {"base_model": "org/base", "steps_trained": 1234})
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {LORA_FILE, "README.md", "student.json", "scheduler/scheduler_config.json"}
    facts = json.loads((tmp_path / "student.json").read_text())
    assert facts["step_counts"] == [4] and facts["resolution"] == 16 and facts["base_model"] == "org/base"
    # A few matrices and not the network.
    weights = load_file(tmp_path / LORA_FILE)
    assert all("lora_A" in name or "lora_B" in name for name in weights)
    readme = (tmp_path / "README.md").read_text()
    compile(readme.split("```python\n")[1].split("```")[0], "card", "exec")
    assert "base_model: org/base" in readme and "num_inference_steps=4" in readme and "guidance_scale=3.5" in readme
    # A second time, as at each checkpoint that is pushed.
    save_lora(tmp_path, model, networks.adapters, {})


# Taken up again


@pytest.mark.parametrize("counts", [(4,), (1, 2, 4)])
def test_taken_up_again(make_student, tmp_path, counts):
    model, networks, _ = make_student("sdxl", counts)
    save_lora(tmp_path, model, networks.adapters, {})
    again, fresh, _ = make_student("sdxl", counts)
    randomise(fresh.adapters.trained["student"], 2)
    load_lora(tmp_path, again, fresh.adapters)
    state, loaded = networks.adapters.state(), fresh.adapters.state()
    for name, value in state.items():
        # Constants of numbers of steps that the student does not serve are not kept.
        rows = [count - 1 for count in counts] if "num_steps" in name else slice(None)
        torch.testing.assert_close(loaded[name][rows], value[rows], rtol=1e-6, atol=1e-7)


def test_one_number_of_steps_goes_on_with_several(make_student, tmp_path):
    model, networks, _ = make_student("sdxl", (4,))
    save_lora(tmp_path, model, networks.adapters, {})
    again, several, tdm = make_student("sdxl", (2, 4))
    load_lora(tmp_path, again, several.adapters)
    noise = model.noise(2, torch.Generator().manual_seed(1))
    expected = networks.student_samples(TDM(model.prediction, (4,)), PROMPTS, noise, 4)
    torch.testing.assert_close(several.student_samples(tdm, PROMPTS, noise, 4), expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sdxl", {"rank": 2}, "`init_from` .* does not fit this base model. .* of shape .* but got"),
        ("sdxl", {"alpha": 1.0}, "`lora_alpha` must be that of `init_from`, 6.0, but got 1.0"),
        ("flux", {}, "`init_from` .* does not fit this base model"),
    ],
)
def test_a_student_of_another_shape(make_student, tmp_path, name, options, message):
    model, networks, _ = make_student("sdxl")
    save_lora(tmp_path, model, networks.adapters, {})
    other, adapters, _ = make_student(name, **options)
    with pytest.raises(ValueError, match=message):
        load_lora(tmp_path, other, adapters.adapters)


def test_a_folder_without_a_student(make_student, tmp_path):
    model, networks, _ = make_student("sdxl")
    with pytest.raises(
        ValueError, match=f"`init_from` must be a folder with {LORA_FILE} and {STUDENT_FILE} for 4 steps"
    ):
        load_lora(tmp_path, model, networks.adapters)
    save_lora(tmp_path / "foreign", model, networks.adapters, {})
    (tmp_path / "foreign" / STUDENT_FILE).unlink()
    with pytest.raises(ValueError, match=f"`init_from` must be a folder with {LORA_FILE} and {STUDENT_FILE}"):
        load_lora(tmp_path / "foreign", model, networks.adapters)
    several, conditioned, _ = make_student("sdxl", (2, 4))
    save_lora(tmp_path, several, conditioned.adapters, {})
    with pytest.raises(ValueError, match="`step_counts` must be several, as those of `init_from`"):
        load_lora(tmp_path, model, networks.adapters)

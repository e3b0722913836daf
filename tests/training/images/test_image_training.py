"""Students of both classes of networks through the training loop: losses, files, resuming, and plain diffusers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dtm_hf.training.loop.checkpoints import best_checkpoint, checkpoint_folders, read_state
from dtm_hf.training.systems import parse_config
from dtm_hf.training.trainer import Trainer

SETTINGS = (
    "--objective tdm_image --resolution 16 --images_per_batch 3 --max_sequence_length 12 --teacher_steps 4 "
    "--lora_rank 4 --num_workers 0 --max_bad_fraction 0.5 --warmup_steps 1 --lr_scheduler constant_with_warmup "
    "--learning_rate 1e-3 --log_interval 1 --eval_interval 2 --save_interval 2 --num_validation_batches 2 "
    "--report_to none"
).split()


def arguments(pipeline, corpus, output_dir, *more):
    return [*SETTINGS, "--base_model", str(pipeline), "--dataset", str(corpus), "--output_dir", str(output_dir), *more]


def train(argv):
    trainer = Trainer(parse_config(argv))
    trainer.train()
    return trainer


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def figure(folder, name):
    return {line["step"]: line[name] for line in lines(folder) if name in line}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def another_precision():
    """Accelerate keeps that of the first run of a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def runs(pipeline_folder, image_corpus, tmp_path_factory):
    """Finished runs of four steps by the name of the pipeline."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "run"
            prompts = ["--sample_prompts", "a red square", "# none", "a blue cat", "--image_column", "image"]
            more = ["--step_counts", "1", "4", "--max_steps", "4", "--estimator_updates", "2", *prompts]
            made[name] = folder, train(arguments(pipeline_folder(name), image_corpus, folder, *more))
        return made[name]

    return run


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_run(runs, name):
    folder, trainer = runs(name)
    for part in ("loss", "estimator_loss", "grad_norm", "estimator_grad_norm", "score_gap"):
        values = figure(folder, part)
        assert sorted(values) == [1, 2, 3, 4] and all(value > 0 for value in values.values()), part
    assert set(figure(folder, "images").values()) == {3, 6, 9, 12}
    # The losses of each step of each number of steps.
    assert any("loss_step_2_of_4" in line for line in lines(folder))
    for count in (1, 4):
        assert sorted(figure(folder, f"validation_sample_distance_{count}")) == [2, 4]
    best = min(figure(folder, "validation_sample_distance").values())
    assert read_state(best_checkpoint(folder))["validation_sample_distance"] == best
    # One row has no prompt; that its neighbour has no image says nothing here.
    (bad,) = (json.loads(line) for line in (folder / "bad_rows-0.jsonl").read_text().splitlines())
    assert bad["reason"] == "no prompt"


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_student_and_estimator_learn_and_nothing_else(runs, pipeline_folder, name):
    _, trainer = runs(name)
    adapters = trainer.task.networks.adapters
    for role in ("student", "estimator"):
        moved = [parameter.any() for key, parameter in adapters.parameters(role).items() if "lora_B" in key]
        assert all(moved), role
        assert adapters.parameters(role)["num_steps_embed.weight"][[0, 3]].any(dim=1).all()
    assert not torch.equal(*(adapters.state(role)["num_steps_embed.weight"] for role in ("student", "estimator")))
    part = trainer.task.model.denoiser_name
    untouched = load_file(pipeline_folder(name) / part / "diffusion_pytorch_model.safetensors")
    base = adapters.merged_state_dict("teacher")
    assert all(torch.equal(base[key], value) for key, value in untouched.items())


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_pictures(runs, name):
    from PIL import Image

    folder, _ = runs(name)
    names = {"01-a-red-square", "02-a-blue-cat"}
    pictures = {path.stem for path in (folder / "samples" / "step-00000004").glob("*.png")}
    assert pictures == {f"{prompt}-{count}-steps" for prompt in names for count in (1, 4)}
    assert {path.stem for path in (folder / "samples" / "teacher").glob("*.png")} == names
    for path in folder.glob("samples/*/*.png"):
        with Image.open(path) as image:
            assert image.size == (16, 16) and image.mode == "RGB"
    info = json.loads((folder / "samples" / "step-00000004" / "info.json").read_text())
    assert info["prompts"]["01-a-red-square"] == "a red square" and info["not_finite"] == []


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_the_result_in_plain_diffusers(runs, pipeline_folder, name):
    from diffusers import DiffusionPipeline

    folder, trainer = runs(name)
    model, adapters = trainer.task.model, trainer.task.networks.adapters
    noise = model.noise(1, torch.Generator().manual_seed(1))
    for count in (1, 4):
        ours = trainer.task.networks.student_samples(trainer.task.objective.tdm, ["a red square"], noise, count)
        pipeline = DiffusionPipeline.from_pretrained(pipeline_folder(name))
        pipeline.load_lora_weights(folder / f"steps-{count}")
        pipeline.scheduler = type(model.sampling_scheduler()).from_pretrained(
            folder / f"steps-{count}", subfolder="scheduler"
        )
        flux = name == "flux"
        latents = pipeline._pack_latents(noise, 1, *model.latent_shape) if flux else noise
        call = {"height": 16, "width": 16, "latents": latents, "output_type": "latent"} | model.call_arguments(count)
        plain = pipeline("a red square", num_inference_steps=count, **call).images
        plain = pipeline._unpack_latents(plain, *model.latent_shape[1:], 1) if flux else plain
        torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-4)
    # The averaged weights, which the loop has left in place.
    averaged = load_file(checkpoint_folders(folder)[-1] / "ema.safetensors")
    assert torch.equal(averaged["0"], next(iter(adapters.parameters("student").values())))


def test_what_is_pushed(runs, tmp_path):
    import yaml

    _, trainer = runs("flux")
    trainer.task.save_repository(tmp_path / "hub", "org/student", 4, 12, {"validation_sample_distance": 0.25})
    readme = (tmp_path / "hub" / "README.md").read_text()
    header = yaml.safe_load(readme.split("---")[1])
    # The folder of this machine that it was trained on is nobody else's affair.
    assert header["library_name"] == "diffusers" and "base_model" not in header
    assert str(trainer.config.model.base_model) not in readme
    assert 'load_lora_weights("org/student", subfolder="steps-4")' in readme
    assert "| validation sample distance | 0.25 |" in readme
    assert (tmp_path / "hub" / "steps-1" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_resumed_bit_for_bit(runs, pipeline_folder, image_corpus, tmp_path, name):
    whole, _ = runs(name)
    prompts = ["--sample_prompts", "a red square", "a blue cat", "--image_column", "image"]
    more = ["--step_counts", "1", "4", "--estimator_updates", "2", *prompts]
    for steps in ("2", "4"):
        train(arguments(pipeline_folder(name), image_corpus, tmp_path / "parts", *more, "--max_steps", steps))
    for part in ("loss", "estimator_loss", "grad_norm", "score_gap", "images", "validation_sample_distance"):
        assert figure(tmp_path / "parts", part) == figure(whole, part), part
    for count in (1, 4):
        file = f"steps-{count}/pytorch_lora_weights.safetensors"
        one, two = load_file(whole / file), load_file(tmp_path / "parts" / file)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_recomputed_activations_change_nothing(pipeline_folder, image_corpus, tmp_path):
    folders = []
    for name in ("false", "true"):
        folders.append(tmp_path / name)
        more = ["--max_steps", "2", "--gradient_checkpointing", name]
        train(arguments(pipeline_folder("flux"), image_corpus, folders[-1], *more))
    assert figure(folders[0], "loss") == pytest.approx(figure(folders[1], "loss"), rel=1e-5)
    assert figure(folders[0], "grad_norm") == pytest.approx(figure(folders[1], "grad_norm"), rel=1e-3)


@pytest.mark.slow
def test_full_parameters_make_a_whole_pipeline(pipeline_folder, image_corpus, tmp_path):
    from diffusers import StableDiffusionXLPipeline

    more = ["--max_steps", "2", "--full_parameters", "true", "--step_counts", "4", "--learning_rate", "1e-4"]
    trainer = train(arguments(pipeline_folder("sdxl"), image_corpus, tmp_path / "run", *more))
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "run")
    student = trainer.task.networks.adapters.state("student")
    loaded = pipeline.unet.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in student.items())
    untouched = load_file(pipeline_folder("sdxl") / "unet" / "diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(loaded[name], value) for name, value in untouched.items())


@pytest.mark.slow
def test_bfloat16_with_a_start_from_an_earlier_student(runs, pipeline_folder, image_corpus, tmp_path, request):
    earlier, _ = runs("sdxl")
    request.getfixturevalue("another_precision")
    more = ["--max_steps", "1", "--step_counts", "1", "4", "--backbone_dtype", "bfloat16", "--mixed_precision", "bf16"]
    more += ["--init_from", str(earlier), "--learning_rate", "1e-9", "--save_merged", "true"]
    trainer = train(arguments(pipeline_folder("sdxl"), image_corpus, tmp_path / "run", *more))
    adapters = trainer.task.networks.adapters
    assert all(
        p.dtype == torch.float32 for role in ("student", "estimator") for p in adapters.parameters(role).values()
    )
    before = load_file(earlier / "steps-4" / "pytorch_lora_weights.safetensors")
    for name, value in adapters.state("student").items():
        if "lora" in name:
            torch.testing.assert_close(value, before[f"unet.{name}"], rtol=0, atol=1e-6)
    assert (tmp_path / "run" / "steps-1" / "unet" / "diffusion_pytorch_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--step_counts", "5"], "`step_counts` must be different numbers of steps from 1 to 4, but got \\[5\\]"),
        (["--weight_type", "snr2"], "`weight_type` must be one of"),
        (["--mixed_precision", "fp16"], "`mixed_precision` must be 'no' or 'bf16', but got 'fp16'"),
        (["--full_parameters", "true", "--backbone_dtype", "bfloat16"], "`backbone_dtype` must be 'float32' with"),
        (["--full_parameters", "true", "--init_from", "x"], "`init_from` must be none with `full_parameters`"),
        (["--teacher_guidance_end", "0.5"], "`teacher_guidance_end` must be 1.0 for tdm_image, but got 0.5"),
        (["--grid_shift", "0"], "`grid_shift` must be greater than 0, or none, but got 0"),
        (["--resolution", "0"], "`resolution` must be greater than 0"),
    ],
)
def test_impossible_settings(more, message):
    with pytest.raises(ValueError, match=message):
        parse_config(arguments("pipeline", "corpus", "run", *more))


def test_no_pipeline_at_all():
    with pytest.raises(ValueError, match="`base_model` must name a text-to-image pipeline of diffusers for tdm_image"):
        parse_config([*SETTINGS, "--dataset", "corpus"])


def test_refused_before_the_first_step(pipeline_folder, image_corpus, tmp_path):
    for more, message in [
        (["--init_from", str(tmp_path)], "`init_from` must be a folder with pytorch_lora_weights.safetensors"),
        (["--image_column", "picture"], "no column 'picture' \\(`image_column`\\)"),
        (["--sample_prompts_file", str(tmp_path / "none.txt")], "`sample_prompts_file` must be a file of prompts"),
        (["--resolution", "18"], "`resolution` must be a multiple of 4 for FluxPipeline, but got 18"),
    ]:
        with pytest.raises(ValueError, match=message):
            Trainer(parse_config(arguments(pipeline_folder("flux"), image_corpus, tmp_path / "run", *more)))


def test_the_configurations_of_the_package():
    for name, guidance in (("tdm_sdxl", 7.5), ("tdm_flux", 1.0)):
        config = parse_config(["--config", f"training/configs/{name}.yaml"])
        assert config.model.objective == "tdm_image" and config.objective.teacher_guidance_scale == guidance

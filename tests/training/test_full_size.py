"""docs/full-size.md: its commands are accepted, and its path is walked once at full size with random weights."""

import math
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_runs import QUIET, ROOT, Launched, log, write_corpus
from typer.testing import CliRunner

from dtm_hf import DTMHead, DTMPipeline, F5Backbone
from dtm_hf.backbone.f5_checkpoint import default_vocab, variant_config
from dtm_hf.commands.main import app
from dtm_hf.evaluation.arms import parse_arms
from dtm_hf.scheduling.time_grids import time_grid
from dtm_hf.training.systems import parse_config

CONFIG = "training/configs/dtm_f5_v1_base.yaml"
DOCUMENT = (ROOT / "docs/full-size.md").read_text(encoding="utf-8")


def test_documented_commands_are_accepted(tmp_path, monkeypatch):
    """In order, in a folder with a copy of the configurations: what one writes, the next reads. Nothing is loaded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training").symlink_to(ROOT / "training")
    seen = []
    for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = shlex.split(line, comments=True)
            if not command:
                continue
            seen.append(" ".join(command[:2]))
            if command[0] == "sed":
                subprocess.run(["bash", "-c", line], check=True)
            elif command[:2] == ["accelerate", "launch"]:
                assert command[2] == "training/train.py"
                config = parse_config(command[3:])
                assert config.model.base_model == "org/f5-v1-base" and config.model.f5_checkpoint is None
                assert config.objective.baked_guidance_range == [1.0, 4.0]
            elif command[0] == "dtm-hf":
                # Every option is known, and nothing is asked for.
                result = CliRunner().invoke(app, [*command[1:], "--help"])
                assert result.exit_code == 0, result.output
                if "--arms" in command:
                    parse_arms(command[command.index("--arms") + 1])
            elif command[0] == "python":
                assert (ROOT / command[1]).is_file()
    for wanted in ("sed", "accelerate launch", "dtm-hf convert-f5", "dtm-hf speak", "dtm-hf benchmark", "hf upload"):
        assert any(name.startswith(wanted) for name in seen), wanted


def test_the_head_is_cheap_at_every_number_of_steps_it_serves():
    """And is asked at least once, so that all of them are trained."""
    objective, depth = parse_config(["--config", CONFIG]).objective, variant_config("v1_base")["depth"]
    assert objective.policy_step_counts == [2, 3, 4, 6, 8]
    for count in objective.policy_step_counts:
        times = time_grid(objective.time_grid, count)[:-1].tolist()
        calls = sum(0 < time < objective.baked_guidance_end for time in times)
        assert calls > 0 and calls / count * objective.head_residual_layers / depth <= 0.15


def test_the_head_that_draws_is_still_trained():
    """By the options that the page names, which are those that its figures were measured with."""
    (options,) = re.findall(r"`(--head_prediction residual\s[^`]*)`", DOCUMENT)
    config = parse_config(["--config", CONFIG, *options.split()])
    assert config.objective.head_prediction == "residual" and config.objective.head_architecture == "conv"
    sizes = runpy.run_path(str(ROOT / "benchmarks/model_sizes.py"))
    assert config == sizes["recipe"]("full", "drawing")


def write_official_checkpoint(path: Path) -> None:
    """Random weights of F5-TTS v1 Base as its file has them: float32 and flat, averaged weights alone."""
    torch.manual_seed(0)
    vocab_size = len(default_vocab().read_text(encoding="utf-8").splitlines())
    backbone = F5Backbone(**variant_config("v1_base"), text_num_embeds=vocab_size)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 337_096_804
    for parameter in backbone.parameters():
        if not parameter.any():
            # Zero gates would make every block the identity.
            torch.nn.init.normal_(parameter, std=0.02)
    state = {f"ema_model.transformer.{name}": value for name, value in backbone.dit.state_dict().items()}
    # As many as in the published file, which has the first two besides; the buffer is in earlier ones.
    assert len(state) == 364
    state |= {"initted": torch.tensor(True), "step": torch.tensor(1_250_000)}
    state["ema_model.mel_spec.mel_stft.mel_scale.fb"] = torch.ones(513, 100)
    save_file(state, path)


def assert_same_weights(checkpoint: Path, pipeline: Path, dtype: torch.dtype) -> None:
    """The backbone of a pipeline folder is that of the checkpoint, rounded to `dtype`, and nothing else."""
    saved = pipeline / "backbone" / "diffusion_pytorch_model.safetensors"
    with safe_open(checkpoint, "pt") as one, safe_open(saved, "pt") as two:
        prefix = "ema_model.transformer."
        names = {name.removeprefix(prefix) for name in one.keys() if name.startswith(prefix)}
        parameters = {name.removeprefix("dit.") for name in two.keys()}
        assert names - parameters <= {"rotary_embed.inv_freq"} and parameters <= names
        for name in parameters - {"rotary_embed.inv_freq"}:
            weight = two.get_tensor(f"dit.{name}")
            assert weight.dtype == dtype and torch.equal(weight, one.get_tensor(prefix + name).to(dtype)), name


@pytest.fixture
def folder(tmp_path):
    """Emptied at once: these are gigabytes, and pytest keeps the folders of three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_a_head_is_trained_on_a_checkpoint_of_full_size(folder, reference_audio):
    """
    The whole path with 337 M random weights: the official format is converted, `training/train.py` with the shipped
    configuration takes two steps through Accelerate's launcher, and the head speaks on the converted base.

    It proves that the configuration loads as it is shipped and reaches the head's own (size, baked guidance and its
    range, sampler), that the head starts as a copy of the first blocks and every weight of it moves, that the backbone
    keeps its bits in bfloat16, that the head knows the float32 copy for its own, and when it runs in four steps and in
    one. Not what such a head sounds like, and nothing about a GPU.
    """
    checkpoint, base, run = folder / "model_1250000.safetensors", folder / "base", folder / "run"
    write_official_checkpoint(checkpoint)
    converted = CliRunner().invoke(app, ["convert-f5", str(checkpoint), str(default_vocab()), str(base)])
    assert converted.exit_code == 0, converted.output
    assert_same_weights(checkpoint, base, torch.float32)

    corpus = write_corpus(folder / "corpus")
    argv = ["--config", CONFIG, "--f5_checkpoint", str(checkpoint), "--dataset", str(corpus), "--output_dir", str(run)]
    # Short and few; a warm-up would leave the weights as they are for a step. All else is the file's.
    argv += "--frames_per_batch 150 --num_workers 0 --max_steps 2 --warmup_steps 0".split()
    argv += "--log_interval 1 --save_interval 1 --eval_interval 2".split()
    training = Launched([*argv, *QUIET])
    assert training.wait(1800) == 0, training.output.read_text()[-2000:]
    for name in ("loss", "grad_norm"):
        figures = log(run, name)
        assert set(figures) == {1, 2} and all(0 < value < math.inf for value in figures.values())
    assert_same_weights(checkpoint, run, torch.bfloat16)

    early, late = (load_file(run / f"checkpoint-0000000{step}" / "model.safetensors") for step in (1, 2))
    assert [name for name in early if torch.equal(early[name], late[name])] == []
    recipe = yaml.safe_load((ROOT / CONFIG).read_text())
    objective, rate = recipe["dtm"], recipe["optimization"]["learning_rate"]
    with safe_open(checkpoint, "pt") as official:
        for block in range(objective["head_residual_layers"]):
            name = f"blocks.{block}.attn.to_q.weight"
            copied = official.get_tensor(f"ema_model.transformer.transformer_{name}").bfloat16().float()
            # A step of AdamW moves a weight by the learning rate at most.
            torch.testing.assert_close(early[f"body.{name}"], copied, atol=1.1 * rate, rtol=1e-4)

    head = DTMHead.from_pretrained(run / "head")
    config = head.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1024, 6, 16)
    assert (config.architecture, config.prediction) == (objective["head_architecture"], objective["head_prediction"])
    assert config.residual_layers == objective["head_residual_layers"] and len(config.mean_mel["mean"]) == 100
    assert config.guidance_scale == objective["baked_guidance_scale"]
    assert config.guidance_scale_range == objective["baked_guidance_range"]
    assert config.guidance_end == objective["baked_guidance_end"]
    names = ("num_inference_steps", "num_head_steps", "head_solver", "time_grid")
    assert config.sampler == {name: objective[name] for name in names}
    assert (config.backbone_name, config.license) == ("F5TTS_v1_Base", "cc-by-nc-4.0")

    # Refused if the two were not trained together.
    pipeline = DTMPipeline.from_pretrained(base, head=head)
    pipeline.set_progress_bar_config(disable=True)
    rows, calls = [], []
    pipeline.backbone.register_forward_hook(lambda _, inputs, output: rows.append(len(output.velocity)))
    head.register_forward_hook(lambda _, inputs, output: calls.append(1))
    for steps, expected in ((4, 2), (1, 0)):
        rows.clear()
        calls.clear()
        mel = pipeline(
            "Hello.",
            reference_audio,
            "Good morning.",
            num_inference_steps=steps,
            # Other than the default.
            guidance_scale=2.0,
            duration_s=0.3,
            output_type="mel",
            generator=torch.Generator().manual_seed(0),
        ).audios[0]
        assert mel.shape == (28, 100) and torch.isfinite(mel).all()
        # One branch at every step, and the head where guidance is neither a closed form nor over.
        assert (rows, len(calls)) == ([1] * steps, expected)

"""A student through the training loop: adapters and whole networks, resumed, in one process and in two."""

import json
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from training_runs import LOOP, QUIET, Run, log, write_corpus

from dtm_hf import DTMPipeline, DTMScheduler
from dtm_hf.backbone.student import Student
from dtm_hf.training.loop.checkpoints import checkpoint_folders, decisive_figure, read_state
from dtm_hf.training.systems import parse_config
from dtm_hf.training.trainer import Trainer

FIGURES = ("loss", "grad_norm", "learning_rate", "estimator_loss", "estimator_grad_norm", "estimator_learning_rate")
FIGURES += ("score_gap", "validation_mel_distance", "validation_frame_difference_1_steps", "hours")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), train_rows=24, shards=4)


@pytest.fixture(scope="module")
def base(backbone, head, tokenizer, feature_extractor, vocoder, tmp_path_factory):
    """A saved pipeline with a head, which a student leaves out."""
    folder = tmp_path_factory.mktemp("base") / "pipeline"
    parts = {"tokenizer": tokenizer, "feature_extractor": feature_extractor, "vocoder": vocoder}
    DTMPipeline(backbone=backbone, head=head, scheduler=DTMScheduler(4, 2), **parts).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    # As the processes; and a precision is taken up once a process.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


def arguments(base, corpus, output_dir, *more):
    argv = ["--objective", "tdm", "--base_model", str(base), "--dataset", str(corpus), *LOOP, *QUIET]
    argv += ["--output_dir", str(output_dir), "--lora_rank", "4", "--step_counts", "1", "2", "--learning_rate", "1e-3"]
    return [*argv, "--pair_probability", "0.5", *more]


def train(argv):
    trainer = Trainer(parse_config(argv))
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def run(base, corpus, tmp_path_factory):
    """Arguments and folder of a student trained for four steps."""
    folder = tmp_path_factory.mktemp("tdm") / "run"
    argv = arguments(base, corpus, folder, "--max_steps", "4", "--sample_prompts", "a|hello", "--sample_interval", "2")
    AcceleratorState._reset_state(reset_partial_state=True)
    train(argv)
    return argv, folder


def test_a_student_is_trained_and_saved_in_both_forms(run, base):
    _, folder = run
    assert set(log(folder, "loss")) == set(log(folder, "estimator_loss")) == {1, 2, 3, 4}
    assert set(log(folder, "validation_mel_distance")) == {2, 4}
    pipeline = DTMPipeline.from_pretrained(folder)
    assert pipeline.head is None and pipeline.backbone.config.step_counts == [1, 2]
    assert pipeline.scheduler.config.num_inference_steps == 2 and pipeline.scheduler.config.num_head_steps == 0
    from_adapters = DTMPipeline.from_pretrained(base).load_student(folder / "student")
    assert from_adapters.head is None
    merged, added = (dict(p.backbone.named_parameters()) for p in (pipeline, from_adapters))
    assert merged.keys() == added.keys() and all(torch.equal(merged[name], added[name]) for name in merged)
    before = DTMPipeline.from_pretrained(base).backbone
    assert Student.from_pretrained(folder / "student").config.backbone_fingerprint == before.fingerprint
    assert pipeline.backbone.fingerprint != before.fingerprint
    assert {path.name for path in (folder / "student").iterdir()} == {"config.json", "student.safetensors"}


def test_figures_tell_the_steps_of_a_student_apart(run):
    _, folder = run
    names = {name for line in (folder / "log.jsonl").read_text().splitlines() for name in json.loads(line)}
    for prefix in ("loss", "score_gap", "estimator_loss"):
        found = {name for name in names if name.startswith(f"{prefix}_step_")}
        assert found and found <= {f"{prefix}_step_{step}" for step in ("1_of_1", "1_of_2", "2_of_2")}
    assert {"estimator_grad_norm", "estimator_learning_rate", "score_gap"} <= names
    assert not [name for name in names if name.startswith(("loss_t_", "loss_s_", "estimator_score_gap"))]


def test_samples_are_written_as_the_student_speaks(run):
    _, folder = run
    for step in (2, 4):
        info = json.loads((folder / "samples" / f"step-{step:08d}" / "info.json").read_text())
        assert (info["num_inference_steps"], info["guidance_scale"]) == (2, 1.0)
        assert info["samples"][0]["finite"] and list((folder / "samples" / f"step-{step:08d}").glob("*.wav"))


def test_the_best_checkpoint_is_that_of_the_best_samples_and_not_of_the_loss(run):
    _, folder = run
    for checkpoint in checkpoint_folders(folder):
        state = read_state(checkpoint)
        assert state["decisive"] == "validation_mel_distance" and "validation_loss" not in state
        assert decisive_figure(checkpoint) == log(folder, "validation_mel_distance")[state["step"]]


def test_a_checkpoint_holds_both_adapters_and_both_optimizers_and_not_the_base(run):
    _, folder = run
    checkpoint = checkpoint_folders(folder)[-1]
    names = load_file(checkpoint / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"student", "estimator"}
    assert all("lora_" in name or "num_steps_embed" in name for name in names)
    assert {path.name for path in checkpoint.glob("optimizer*")} == {"optimizer.bin", "optimizer_1.bin"}
    # The average is the student's alone.
    assert len(load_file(checkpoint / "ema.safetensors")) == len([n for n in names if n.startswith("student")])


@pytest.mark.parametrize(
    "options",
    [
        ["--mixed_precision", "bf16"],
        ["--mixed_precision", "bf16", "--gradient_checkpointing", "true", "--backbone_dtype", "bfloat16"],
        ["--full_parameters", "true", "--gradient_checkpointing", "true"],
        ["--full_parameters", "true", "--optimizer", "muon"],
        ["--optimizer", "adamw_8bit", "--step_counts", "4"],
        ["--update_estimator_every", "2", "--estimator_updates", "2", "--teacher_guidance_scale", "1"],
    ],
    ids=lambda options: " ".join(options).replace("--", ""),
)
def test_other_ways_to_train_a_student(base, corpus, tmp_path, options):
    argv = arguments(base, corpus, tmp_path / "run", "--max_steps", "3", "--ema_decay", "0", *options)
    trainer = train(argv)
    before = DTMPipeline.from_pretrained(base).backbone
    weights = trainer.task.networks.merged_state_dict("teacher")
    stored = before.to(trainer.task.networks.base.dtype).state_dict()
    assert all(torch.equal(weights[name], stored[name]) for name in stored)
    pipeline = DTMPipeline.from_pretrained(tmp_path / "run")
    student = pipeline.backbone.state_dict()
    moved = [name for name in stored if not torch.equal(student[name], stored[name].float())]
    assert moved and all(tensor.isfinite().all() for tensor in student.values())
    assert (tmp_path / "run" / "student").exists() != ("--full_parameters" in options)
    assert set(log(tmp_path / "run", "loss")) == {1, 2, 3}


# Resumed


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--full_parameters", "true"]], ids=["adapters", "full"])
def test_a_run_stopped_and_resumed_is_the_same_to_the_bit(base, corpus, tmp_path, options):
    # Log lines fall between checkpoints, and the estimator rests in every second step.
    options = [*options, "--log_interval", "2", "--save_interval", "3", "--eval_interval", "3"]
    options += ["--update_estimator_every", "2", "--lr_scheduler", "constant_with_warmup"]
    train(arguments(base, corpus, tmp_path / "whole", "--max_steps", "6", *options))
    train(arguments(base, corpus, tmp_path / "parts", "--max_steps", "3", *options))
    train(arguments(base, corpus, tmp_path / "parts", "--max_steps", "6", *options))
    for name in FIGURES:
        whole = log(tmp_path / "whole", name)
        assert whole and log(tmp_path / "parts", name) == whole, name
    files = ("model.safetensors", "ema.safetensors")
    for file in files:
        one, two = (load_file(tmp_path / name / "checkpoint-00000006" / file) for name in ("whole", "parts"))
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_two_processes_give_what_one_gives_that_accumulates(base, corpus, tmp_path):
    options = ("--num_workers", "0", "--bucket_size", "5", "--max_steps", "4", "--estimator_updates", "2")
    run = Run(arguments(base, corpus, tmp_path / "two", *options), processes=2)
    assert run.wait() == 0, run.output.read_text()[-3000:]
    # One process with twice the workers reads the same batches in turn.
    options = [*options, "--num_workers", "2", "--gradient_accumulation_steps", "2"]
    train(arguments(base, corpus, tmp_path / "one", *options))
    for name in ("loss", "grad_norm", "estimator_loss", "estimator_grad_norm", "score_gap", "validation_mel_distance"):
        assert log(tmp_path / "two", name) == pytest.approx(log(tmp_path / "one", name), rel=1e-3), name
    one, two = (load_file(tmp_path / name / "student" / "student.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)


# Started from an earlier student


def test_a_student_goes_on_from_an_earlier_one(run, base, corpus, tmp_path):
    _, folder = run
    argv = arguments(base, corpus, tmp_path, "--init_from", str(folder / "student"), "--step_counts", "1", "2", "4")
    trainer = Trainer(parse_config(argv))
    earlier = Student.from_pretrained(folder / "student").tensors
    state = trainer.task.networks.state()
    assert all(torch.equal(state[name], earlier[name]) for name in earlier)
    whole = [*argv, "--init_from", str(folder), "--full_parameters", "true", "--output_dir", str(tmp_path / "whole")]
    networks = Trainer(parse_config(whole)).task.networks
    student = dict(DTMPipeline.from_pretrained(folder).backbone.named_parameters())
    assert all(torch.equal(tensor, student[name]) for name, tensor in networks.state().items())
    # The estimator and the teacher are the base.
    assert not networks.parameters("estimator")["num_steps_embed.weight"].any()


def test_a_student_that_does_not_fit_is_refused(run, base, corpus, tmp_path, make_backbone):
    _, folder = run
    argv = arguments(base, corpus, tmp_path / "run", "--init_from", str(folder / "student"))

    def refused(*more):
        with pytest.raises(ValueError) as error:
            Trainer(parse_config([*argv, *more]))
        return str(error.value)

    assert "`lora_alpha` / `lora_rank` must be that of `init_from`, 4 / 4" in refused("--lora_alpha", "8")
    assert "of shape (8, 232), but got (4, 232)" in refused("--lora_rank", "8", "--lora_alpha", "8")
    assert "does not fit this run" in refused("--step_counts", "2")
    assert "must hold a student's adapters" in refused("--init_from", str(base))
    assert "is a student of [1, 2] steps" in refused("--base_model", str(folder))
    other = tmp_path / "other"
    shutil.copytree(base, other)
    make_backbone(seed=7).save_pretrained(other / "backbone")
    shutil.rmtree(other / "head")
    index = json.loads((other / "model_index.json").read_text()) | {"head": [None, None]}
    (other / "model_index.json").write_text(json.dumps(index))
    assert "`init_from` must be a student of this run's backbone, fingerprint" in refused("--base_model", str(other))
    wide = tmp_path / "wide"
    shutil.copytree(other, wide)
    make_backbone(dim=128, heads=2).save_pretrained(wide / "backbone")
    message = refused("--full_parameters", "true", "--init_from", str(wide))
    assert "does not fit this run: The student must have" in message

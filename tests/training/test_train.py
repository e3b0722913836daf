"""The training loop, from parquet shards to a pipeline on disk: both objectives, resumed, in one process."""

import json
import os
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from training_runs import LOOP, QUIET, flow_matching_arguments, log, write_corpus

from dtm_hf import DTMPipeline
from dtm_hf.training.loop.checkpoints import checkpoint_folders
from dtm_hf.training.systems import parse_config
from dtm_hf.training.train import main
from dtm_hf.training.trainer import Trainer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def flow_matching(corpus, tmp_path_factory):
    """Arguments and folder of a backbone trained for three steps."""
    folder = tmp_path_factory.mktemp("flow_matching")
    argv = flow_matching_arguments(corpus, folder)
    main([*argv, "--max_steps", "3"])
    return argv, folder


def test_a_backbone_is_trained_and_saved_as_a_pipeline(flow_matching):
    _, folder = flow_matching
    assert set(log(folder, "loss")) == {1, 2, 3}
    assert set(log(folder, "validation_loss")) == {2, 3}
    assert log(folder, "bad_rows")[3] >= 1
    assert [path.name[-1] for path in checkpoint_folders(folder)] == ["2", "3"]
    pipeline = DTMPipeline.from_pretrained(folder)
    assert pipeline.head is None and pipeline.backbone.config.dim == 64
    assert pipeline.backbone.dit.proj_out.weight.any()
    assert not any(parameter.requires_grad for parameter in pipeline.backbone.parameters())


def test_a_run_goes_on_where_it_stopped(flow_matching, tmp_path):
    argv, folder = flow_matching
    shutil.copytree(folder, tmp_path / "run")
    argv = [*argv, "--output_dir", str(tmp_path / "run"), "--max_steps", "5"]
    trainer = Trainer(parse_config(argv))
    assert trainer.step == 3
    saved = Trainer(parse_config([*argv, "--max_steps", "4"]))
    for one, two in zip(trainer.ema.shadow_params, saved.ema.shadow_params, strict=True):
        assert torch.equal(one, two)
    trainer.train()
    assert set(log(tmp_path / "run", "loss")) == {1, 2, 3, 4, 5}
    assert log(tmp_path / "run", "hours")[5] > log(tmp_path / "run", "hours")[3]


def test_a_checkpoint_whose_units_are_called_frames_goes_on(flow_matching, tmp_path):
    """As they were called before other things than speech were trained on."""
    argv, folder = flow_matching
    shutil.copytree(folder, tmp_path / "run")
    newest = checkpoint_folders(tmp_path / "run")[-1]
    state = json.loads((newest / "trainer_state.json").read_text())
    units = state["frames"] = state.pop("units")
    (newest / "trainer_state.json").write_text(json.dumps(state))
    rank = json.loads((newest / "process-0.json").read_text())
    assert rank["window"].keys() == {"losses", "details", "units", "padded_units"}
    # Nor did they list their files.
    (newest / "files.json").unlink()
    rank["window"] = {"losses": [0.5], "details": rank["window"]["details"], "frames": 7, "padded_frames": 9}
    (newest / "process-0.json").write_text(json.dumps(rank))
    journal = Trainer(parse_config([*argv, "--output_dir", str(tmp_path / "run"), "--max_steps", "4"])).journal
    assert journal.units == units > 0 and (journal.window.units, journal.window.padded_units) == (7, 9)


def test_without_resume_an_old_run_is_not_overwritten(flow_matching):
    argv, _ = flow_matching
    with pytest.raises(ValueError, match="`output_dir`.*`resume` is off"):
        Trainer(parse_config([*argv, "--resume", "false"]))


@pytest.mark.parametrize(
    "precision",
    [
        [],
        # In bfloat16 on a CPU, where some kernels refuse two dtypes.
        ["--mixed_precision", "bf16"],
        ["--mixed_precision", "bf16", "--gradient_checkpointing", "true"],
        ["--mixed_precision", "bf16", "--backbone_dtype", "bfloat16"],
        ["--backbone_dtype", "bfloat16"],
    ],
    ids=lambda options: " ".join(option.lstrip("-") for option in options) or "float32",
)
def test_a_head_is_trained_on_the_frozen_backbone(flow_matching, corpus, tmp_path, precision):
    _, base = flow_matching
    before = DTMPipeline.from_pretrained(base).backbone.fingerprint
    argv = ["--dataset", str(corpus), "--base_model", str(base), "--output_dir", str(tmp_path), *LOOP, *QUIET]
    argv += ["--head_hidden_size", "32", "--head_num_layers", "2", "--head_architecture", "conv", "--max_steps", "3"]
    # A process takes a precision up once.
    AcceleratorState._reset_state(reset_partial_state=True)
    main([*argv, "--baked_guidance_scale", "2", *precision])
    AcceleratorState._reset_state(reset_partial_state=True)
    pipeline = DTMPipeline.from_pretrained(tmp_path)
    assert pipeline.backbone.fingerprint == pipeline.head.config.backbone_fingerprint == before
    assert pipeline.head.output_proj.weight.any()
    assert pipeline.scheduler.config.num_inference_steps == 8
    assert set(log(tmp_path, "validation_mean_displacement_error")) == {2, 3}


def test_validation_draws_alike_and_without_dropout(flow_matching, tmp_path):
    argv, _ = flow_matching
    trainer = Trainer(parse_config([*argv, "--output_dir", str(tmp_path), "--backbone_dropout", "0.5"]))
    with torch.no_grad():
        for parameter in trainer.module.parameters():
            parameter.add_(0.1)
        trainer.ema.shadow_params = [parameter.clone() for parameter in trainer.module.parameters()]
    first = trainer.validate()
    torch.manual_seed(1)
    assert trainer.validate() == first
    assert trainer.module.training


def test_a_wrong_configuration_is_one_line(capsys):
    with pytest.raises(SystemExit, match=r"^train\.py: Unknown option --max_step; did you mean 'max_steps'\?\.$"):
        main(["--max_step", "3"])


def other(name, **values):
    """Writes other values into a file of the folder."""

    def write(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return write


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").write_text("[1, 2]"), "model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "model_index.json"),
        (other("model_index.json", backbone=["os", "system"]), "cannot be loaded"),
        (other("backbone/config.json", dim="x"), "backbone.*`dim`.*'x'"),
        (other("backbone/config.json", dim=10**9), "backbone.*`dim`.*1000000000"),
        (other("feature_extractor/preprocessor_config.json", sampling_rate=None), "sampling_rate"),
        (other("scheduler/scheduler_config.json", num_inference_steps="many"), "num_inference_steps.*many"),
        (lambda folder: (folder / "backbone/config.json").write_bytes(b"\xff"), "backbone/config.json"),
        (lambda folder: (folder / "backbone/config.json").write_text("[" * 9999), "backbone/config.json"),
        (lambda folder: os.truncate(folder / "backbone/diffusion_pytorch_model.safetensors", 99), "safetensors"),
        (lambda folder: shutil.rmtree(folder / "backbone"), "config.json"),
    ],
)
def test_a_saved_pipeline_that_is_damaged_is_one_line(flow_matching, corpus, tmp_path, damage, message):
    shutil.copytree(flow_matching[1], tmp_path / "base", ignore=shutil.ignore_patterns("checkpoint-*"))
    damage(tmp_path / "base")
    argv = ["--dataset", str(corpus), "--base_model", str(tmp_path / "base"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        main([*argv, *LOOP, *QUIET])
    assert re.fullmatch(f"train\\.py: .*({message}).*", end.value.code), end.value.code
    assert "base" in end.value.code and "weights_only=False" not in end.value.code


@pytest.mark.parametrize("place", ["a file", "a file/below"])
def test_an_output_dir_that_cannot_be_made_is_one_line(corpus, tmp_path, place):
    (tmp_path / "a file").write_text("")
    argv = flow_matching_arguments(corpus, tmp_path / place)
    with pytest.raises(SystemExit, match=r"^train\.py: `output_dir` '.*a file.*' cannot be written: .*\.$"):
        main(argv)


def test_one_bad_row_in_fifty_and_a_bad_shard_cost_no_more_than_themselves(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", train_rows=100, shards=2)
    for number, path in enumerate(sorted(corpus.glob("train-*.parquet"))):
        rows = pq.read_table(path).to_pylist()
        rows[0]["text"] = "clip"
        rows[17 + number]["audio"]["bytes"] = b"RIFF and no sound"
        pq.write_table(pa.Table.from_pylist(rows), path)
    (corpus / "train-00009-of-00010.parquet").write_bytes(b"PAR1 and nothing that belongs behind it")
    AcceleratorState._reset_state(reset_partial_state=True)
    # Two epochs of about 70 frames a clip.
    loop = "--max_steps 14 --frames_per_batch 1600 --save_interval 100 --eval_interval 100 --pair_probability 0"
    Trainer(parse_config(flow_matching_arguments(corpus, tmp_path / "run", *loop.split()))).train()
    entries = [json.loads(line) for line in (tmp_path / "run" / "bad_rows-0.jsonl").read_text().splitlines()]
    shards = [f"train-0000{number}-of-00002.parquet" for number in range(2)]
    found = {(entry["reason"], entry["shard"], entry["row"]) for entry in entries}
    assert found == {
        ("undecodable audio", shards[0], 17),
        ("undecodable audio", shards[1], 18),
        ("unreadable shard", "train-00009-of-00010.parquet", 0),
    }
    assert log(tmp_path / "run", "bad_rows")[14] == len(entries) >= 3

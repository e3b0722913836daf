"""Runs of several processes: the same result, resumed, and ended together."""

import pytest
import torch
from processes import processes, wait_until
from safetensors.torch import load_file
from training_runs import Launched, Run, flow_matching_arguments, log, write_corpus

from dtm_hf.training.loop.checkpoints import checkpoint_folders
from dtm_hf.training.systems import parse_config
from dtm_hf.training.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), train_rows=24, shards=4)


def arguments(corpus, output_dir, workers, *more):
    more = ("--num_workers", str(workers), "--bucket_size", "5", "--backbone_dropout", "0.1", *more)
    return flow_matching_arguments(corpus, output_dir, "--max_steps", "6", *more)


def weights(folder):
    return load_file(folder / "backbone" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module", params=[0, 2], ids=["no workers", "two workers"])
def two(request, corpus, tmp_path_factory):
    """Workers and folder of an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("two") / "run"
    run = Run(arguments(corpus, folder, request.param), processes=2)
    assert run.wait() == 0, run.output.read_text()[-3000:]
    return request.param, folder


def test_two_processes_give_what_one_gives_that_accumulates(two, corpus, tmp_path):
    workers, folder = two
    # One process with twice the workers reads the same batches in turn.
    one = arguments(corpus, tmp_path / "one", 2 * max(workers, 1), "--gradient_accumulation_steps", "2")
    Trainer(parse_config(one)).train()
    for name in ("loss", "grad_norm", "validation_loss"):
        assert log(folder, name) == pytest.approx(log(tmp_path / "one", name), rel=1e-4), name
    assert log(folder, "hours") == log(tmp_path / "one", "hours")
    expected = weights(tmp_path / "one")
    for name, value in weights(folder).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


def test_two_processes_killed_go_on_bit_for_bit(two, corpus, tmp_path):
    workers, folder = two
    argv = arguments(corpus, tmp_path / "killed", workers)
    run = Run(argv, processes=2)
    wait_until(run, lambda: checkpoint_folders(tmp_path / "killed"))
    run.kill()
    assert Run(argv, processes=2).wait() == 0
    assert log(tmp_path / "killed", "loss") == log(folder, "loss")
    assert log(tmp_path / "killed", "hours") == log(folder, "hours")
    expected = weights(folder)
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "killed").items())


def test_a_killed_process_ends_the_others(corpus, tmp_path):
    argv = arguments(corpus, tmp_path / "run", 0, "--max_steps", "100000", "--save_interval", "100000")
    run = Launched(argv, processes=2)
    wait_until(run, lambda: (tmp_path / "run" / "log.jsonl").exists())
    members = processes(run.process.pid)
    (second,) = [
        member for member in members if member.environ().get("RANK") == "1" and "train.py" in member.cmdline()[2]
    ]
    second.kill()
    assert run.wait(120) != 0
    assert not [member for member in members if member.is_running() and member.status() != "zombie"]
    assert "SIGKILL" in run.output.read_text()

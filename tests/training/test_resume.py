"""A run that is killed, or that runs out of disk, goes on as if nothing had been."""

import pytest
import torch
from processes import wait_until
from safetensors.torch import load_file
from training_runs import Run, flow_matching_arguments, log, write_corpus

from dtm_hf.training.loop.checkpoints import checkpoint_folders
from dtm_hf.training.systems import parse_config
from dtm_hf.training.trainer import Trainer

STEPS = 9
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), train_rows=24, shards=4)


@pytest.fixture(autouse=True)
def one_thread():
    # As the processes: sums over another number of threads round otherwise.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def arguments(corpus, output_dir, *more):
    # The ends of data windows and of epochs, and log lines, fall between two checkpoints.
    loop = "--save_interval 3 --eval_interval 3 --log_interval 2 --bucket_size 10 --backbone_dropout 0.1"
    return flow_matching_arguments(corpus, output_dir, "--max_steps", str(STEPS), *loop.split(), *more)


def train(argv):
    Trainer(parse_config(argv)).train()


def assert_same(one, two):
    """Same log and the same averaged weights, bit for bit."""
    for name in ("loss", "grad_norm", "learning_rate", "padding_share", "bad_rows", "hours", "validation_loss"):
        assert log(one, name) == log(two, name), name
    weights = [load_file(folder / "backbone" / "diffusion_pytorch_model.safetensors") for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_while_it_writes_a_checkpoint(corpus, tmp_path, workers):
    train(arguments(corpus, tmp_path / "whole", "--num_workers", workers))
    argv = arguments(corpus, tmp_path / "killed", "--num_workers", workers)
    run = Run(argv)
    partial = tmp_path / "killed" / ".partial-checkpoint-00000006"
    wait_until(run, lambda: partial.exists() or len(checkpoint_folders(tmp_path / "killed")) > 1)
    run.kill()
    complete = [path.name for path in checkpoint_folders(tmp_path / "killed")]
    assert complete in (["checkpoint-00000003"], ["checkpoint-00000003", "checkpoint-00000006"])
    train(argv)
    assert not partial.exists()
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_stopped_at_every_checkpoint(corpus, tmp_path):
    train(arguments(corpus, tmp_path / "whole"))
    for step in range(3, STEPS + 1, 3):
        train(
            [
                *arguments(corpus, tmp_path / "parts"),
                "--max_steps",
                str(step),
                "--lr_scheduler",
                "constant_with_warmup",
            ]
        )
    train([*arguments(corpus, tmp_path / "once"), "--lr_scheduler", "constant_with_warmup"])
    losses = log(tmp_path / "parts", "loss")
    assert losses == log(tmp_path / "once", "loss")
    assert len(set(losses.values())) == len(losses)


def test_a_full_disk_leaves_the_last_checkpoint(corpus, tmp_path):
    constant = ("--lr_scheduler", "constant_with_warmup")
    argv = arguments(corpus, tmp_path / "full", *constant)
    train([*argv, "--max_steps", "3"])
    (before,) = checkpoint_folders(tmp_path / "full")
    files = {path: path.read_bytes() for path in before.iterdir()}
    # The log still fits, the weights no longer.
    run = Run(argv, file_size_limit=max(len(content) for content in files.values()) // 2)
    assert run.wait() != 0
    assert "The checkpoint of step 6 could not be written" in run.output.read_text()
    assert checkpoint_folders(tmp_path / "full") == [before]
    assert {path: path.read_bytes() for path in before.iterdir()} == files
    assert not list((tmp_path / "full").glob(".partial-*"))
    train(argv)
    train(arguments(corpus, tmp_path / "whole", *constant))
    assert log(tmp_path / "full", "loss") == log(tmp_path / "whole", "loss")

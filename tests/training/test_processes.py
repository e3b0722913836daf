"""Runs of several processes: the same result, resumed, and ended together."""

import json
import os
import shutil
import signal

import pytest
import torch
import toy_system
from accelerate.state import AcceleratorState
from processes import processes, wait_until
from safetensors.torch import load_file
from training_runs import LOOP, QUIET, Launched, Run, flow_matching_arguments, log, write_corpus

from dtm_hf.training.loop.checkpoints import checkpoint_folders
from dtm_hf.training.systems import parse_config
from dtm_hf.training.train import main
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


def test_a_head_that_walks_gives_the_same_in_two_processes(guidance_pipeline, corpus, tmp_path):
    """It is called once to four times before it goes backward, by the numbers of steps that the two have drawn."""
    guidance_pipeline.save_pretrained(tmp_path / "base")
    options = "--head_prediction guidance --head_architecture transformer --head_residual_layers 1 --num_head_steps 1 "
    options += "--baked_guidance_scale 3 --baked_guidance_range 1 4 --baked_guidance_end 0.3 --head_solver euler "
    options += "--policy_step_counts 2 8 --gradient_checkpointing true --max_steps 4 --num_workers 0 --bucket_size 5"
    argv = ["--base_model", str(tmp_path / "base"), "--dataset", str(corpus), *LOOP, *QUIET, *options.split()]
    run = Run([*argv, "--output_dir", str(tmp_path / "two")], processes=2)
    assert run.wait() == 0, run.output.read_text()[-3000:]
    one = [*argv, "--output_dir", str(tmp_path / "one"), "--gradient_accumulation_steps", "2", "--num_workers", "2"]
    Trainer(parse_config(one)).train()
    for name in ("loss", "grad_norm", "validation_loss"):
        assert log(tmp_path / "two", name) == pytest.approx(log(tmp_path / "one", name), rel=1e-4), name


# Without readers it is less of the same: one process alone is killed so in test_resume.py.
@pytest.mark.parametrize("two", [2], ids=["two workers"], indirect=True)
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


def test_a_signal_ends_all_processes_with_a_checkpoint_and_they_go_on_bit_for_bit(two, corpus, tmp_path):
    workers, folder = two
    argv = arguments(corpus, tmp_path / "stopped", workers, "--save_interval", "1", "--save_total_limit", "9")
    run = Run(argv, processes=2)
    wait_until(run, lambda: checkpoint_folders(tmp_path / "stopped"))
    if workers:
        # As a scheduler does: every process, those that read the data among them.
        for rank in run.ranks:
            for member in processes(rank.pid):
                member.terminate()
    else:
        os.kill(run.ranks[1].pid, signal.SIGUSR1)
    assert [rank.wait() for rank in run.ranks] == [75, 75], run.output.read_text()[-3000:]
    assert "Stopped by " + ("SIGTERM" if workers else "a signal to another process") in run.output.read_text()
    assert not (tmp_path / "stopped" / "backbone").exists()
    # What one process wrote has changed: both go on from the one before.
    newest = checkpoint_folders(tmp_path / "stopped")[-1]
    content = (newest / "process-1.json").read_text()
    (newest / "process-1.json").write_text(content.replace('"units": ', '"units": 1'))
    assert Run(argv, processes=2).wait() == 0
    if len(checkpoint_folders(tmp_path / "stopped")) > 1:
        assert f"Skipped {newest.name}" in run.output.read_text()
    assert log(tmp_path / "stopped", "loss") == log(folder, "loss")
    assert log(tmp_path / "stopped", "hours") == log(folder, "hours")
    expected = weights(folder)
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "stopped").items())


# In the second process the loss of the second step is not finite. No model that is wrapped outlives the group: the
# last reference to a group waits for its threads, and the wrapper's would hang where one of them is late.
TROUBLED = """
import dataclasses, os, weakref
import toy_system
import torch
from dtm_hf.training.systems import SYSTEMS, parse_config
from dtm_hf.training.trainer import Trainer


class Troubled(toy_system.StickTask):
    def phases(self, step):
        self.step = step + 1
        return super().phases(step)

    def loss(self, module, lengths):
        output = super().loss(module, lengths)
        if self.step in STEPS and os.environ["RANK"] == "1":
            # Its gradient is finite.
            return dataclasses.replace(output, loss=output.loss + output.loss.detach() * float("nan"))
        return output


def destroy(group=None):
    assert wrapped() is None
    destroy_process_group(group)


destroy_process_group, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, destroy
SYSTEMS["sticks"] = toy_system.SYSTEM
trainer = Trainer(parse_config(ARGV), Troubled)
assert isinstance(trainer.model, torch.nn.parallel.DistributedDataParallel)
wrapped = weakref.ref(trainer.model)
trainer.train()
"""


def test_what_is_not_finite_in_one_process_skips_the_step_in_all(tmp_path):
    (tmp_path / "data").mkdir()
    toy_system.write_sticks(tmp_path / "data")
    argv = toy_system.arguments(tmp_path / "data", tmp_path / "run", "--max_steps", "4", "--max_skipped_steps", "2")
    for steps, status in (([2], 0), ([2, 3], 1)):
        (tmp_path / "troubled.py").write_text(f"ARGV = {argv}\nSTEPS = {steps}\n{TROUBLED}")
        run = Run(argv, processes=2, script=tmp_path / "troubled.py")
        assert run.wait() == status, run.output.read_text()[-3000:]
        skipped = log(tmp_path / "run", "skipped_steps")
        assert skipped == ({1: 0, 2: 1, 3: 1, 4: 1} if status == 0 else {1: 0, 2: 1})
        shutil.rmtree(tmp_path / "run")
    # In both processes, with a sentence.
    assert run.output.read_text().count("DivergenceError: Stopped after step 3: 2 steps in a row") == 2


def test_a_killed_process_ends_the_others(corpus, tmp_path):
    argv = arguments(corpus, tmp_path / "run", 0, "--max_steps", "100000", "--save_interval", "100000")
    run = Launched(argv, processes=2)
    wait_until(run, lambda: (tmp_path / "run" / "log.jsonl").exists())
    with pytest.raises(SystemExit, match="`output_dir` .* is being written by process "):
        main(argv)
    members = processes(run.process.pid)
    (second,) = [
        member for member in members if member.environ().get("RANK") == "1" and "train.py" in member.cmdline()[2]
    ]
    second.kill()
    assert run.wait(120) != 0
    assert not [member for member in members if member.is_running() and member.status() != "zombie"]
    assert "SIGKILL" in run.output.read_text()
    # Neither the lock nor the log of what was killed is in the way.
    AcceleratorState._reset_state(reset_partial_state=True)
    assert Trainer(parse_config([*argv, "--max_steps", "1"])).train()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    newest = int(checkpoint_folders(tmp_path / "run")[-1].name.rsplit("-", 1)[1])
    # One that was killed before its second step left nothing to go on from: the last step is validated then.
    validated = range(2, newest + 1, 2) if newest > 1 else [1]
    assert steps == sorted([*range(1, newest + 1), *validated])

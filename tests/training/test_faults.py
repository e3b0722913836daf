"""What may befall a run: values that are not finite, signals, logs that do not fit, checkpoints that have changed."""

import dataclasses
import json
import os
import signal

import pytest
import torch
import toy_system
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from training_runs import log

from dtm_hf.training.loop.errors import DivergenceError
from dtm_hf.training.systems import SYSTEMS, parse_config
from dtm_hf.training.train import main
from dtm_hf.training.trainer import Trainer


class Troubled(toy_system.StickTask):
    """Something happens at its steps: `before` is called with the number of each."""

    def __init__(self, config, before=lambda step: None, loss=(), gradient=()):
        super().__init__(config)
        self.before, self.at = before, {"loss": loss, "gradient": gradient}
        self.weights = {}

    def phases(self, step):
        self.step = step + 1
        self.weights[self.step] = self.module.weight.item()
        self.before(self.step)
        return super().phases(step)

    def loss(self, module, lengths):
        output = super().loss(module, lengths)
        if self.step in self.at["loss"]:
            return dataclasses.replace(output, loss=output.loss * float("inf"), row_losses=output.row_losses / 0)
        if self.step in self.at["gradient"]:
            # Zero with a gradient that is none.
            return dataclasses.replace(output, loss=output.loss + (0 * module.weight).sqrt().sum())
        return output


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains sticks in a folder of this name; returns the trainer, and what `train` did."""
    monkeypatch.setitem(SYSTEMS, "sticks", toy_system.SYSTEM)
    AcceleratorState._reset_state(reset_partial_state=True)
    (tmp_path / "data").mkdir()
    corpus = toy_system.write_sticks(tmp_path / "data")

    def run(name, *more, **trouble):
        argv = toy_system.arguments(corpus, tmp_path / name, "--save_total_limit", "9", *more)
        trainer = Trainer(parse_config(argv), lambda config: Troubled(config, **trouble))
        return trainer, trainer.train()

    run.corpus = corpus
    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def checkpoints(folder):
    return sorted(int(path.name.rsplit("-", 1)[1]) for path in folder.glob("checkpoint-*"))


def assert_strict(folder):
    """All JSON of the run is JSON."""

    def refuse(constant):
        raise AssertionError(constant)

    for path in folder.rglob("*.json*"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for line in lines:
            json.loads(line, parse_constant=refuse)


# Not finite


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_skips_its_step_and_is_counted(run, tmp_path, what):
    more = ("--max_steps", "7", "--log_interval", "2", "--save_interval", "3", "--eval_interval", "7")
    more += ("--max_skipped_steps", "2")
    trainer, finished = run("straight", *more, **{what: [1, 3, 6]})
    weights, folder = trainer.task.weights, tmp_path / "straight"
    assert finished and weights[1] == weights[2] != weights[3] == weights[4] != weights[5] != weights[6] == weights[7]
    assert log(folder, "skipped_steps") == {2: 1, 4: 2, 6: 3}
    assert log(folder, "grad_norm")[6] is None and all(value > 0 for value in log(folder, "loss").values())
    # Weights after a skipped step may be what spoilt it: they do not take the place of those before.
    assert checkpoints(folder) == [4, 7]
    assert_strict(folder)
    # The counts, too, go on to the bit.
    run("stopped", *more, "--max_steps", "4", **{what: [1, 3, 6]})
    run("stopped", *more, **{what: [1, 3, 6]})
    for name in ("loss", "grad_norm", "skipped_steps", "validation_loss"):
        straight = log(folder, name)
        assert straight and log(tmp_path / "stopped", name) | straight == log(tmp_path / "stopped", name), name
    straight, stopped = (load_file(tmp_path / name / "sticks.safetensors") for name in ("straight", "stopped"))
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_too_many_in_a_row_stop_the_run_and_touch_nothing(run, tmp_path):
    with pytest.raises(DivergenceError, match="after step 6: 3 steps in a row .*`max_skipped_steps`.*loss inf"):
        run("run", "--max_steps", "9", "--max_skipped_steps", "3", "--eval_interval", "9", loss=[4, 5, 6])
    assert checkpoints(tmp_path / "run") == [2] and not (tmp_path / "run" / "sticks.safetensors").exists()
    assert log(tmp_path / "run", "loss")[5] is None
    assert_strict(tmp_path / "run")


def test_a_run_that_only_diverges_at_its_end_has_no_result(run, tmp_path):
    with pytest.raises(DivergenceError, match="step 4, the last, without a result: 1 steps"):
        run("run", "--max_steps", "4", "--num_validation_batches", "0", loss=[4])
    assert checkpoints(tmp_path / "run") == [2] and not (tmp_path / "run" / "sticks.safetensors").exists()


@pytest.mark.parametrize("average", [False, True])
def test_weights_that_are_not_finite_are_never_saved(run, tmp_path, average):
    trainer, _ = run("run", "--max_steps", "2")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with torch.no_grad():
        (trainer.ema.shadow_params if average else trainer.parameters)[0].fill_(float("nan"))
    for save in (trainer.save_checkpoint, trainer.save_result):
        with pytest.raises(DivergenceError, match="after step 2: the weights are not finite, and are not saved"):
            save()
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_learning_rate_that_is_far_too_high_is_one_line_and_no_result(run, tmp_path):
    argv = toy_system.arguments(run.corpus, tmp_path / "run", "--max_steps", "6", "--learning_rate", "1e30")
    with pytest.raises(SystemExit, match=r"^train\.py: Stopped after step .* `learning_rate`"):
        main(argv)
    assert not (tmp_path / "run" / "sticks.safetensors").exists() and checkpoints(tmp_path / "run") == []
    assert_strict(tmp_path / "run")


def test_a_result_that_could_not_be_written_to_its_end_leaves_the_one_before(run, tmp_path):
    trainer, _ = run("run", "--max_steps", "2")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    class Full(toy_system.StickTask):
        def save(self, folder, step, units):
            with torch.no_grad():
                self.module.weight.fill_(0)
            super().save(folder, step, units)
            raise OSError("no space left")

    trainer.task.__class__ = Full
    with pytest.raises(OSError, match="no space left"):
        trainer.save_result()
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_step_and_the_run_goes_on_to_the_bit(run, tmp_path, number, capsys):
    run("straight", "--max_steps", "8")
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]

    def interrupt(step):
        # Who told the run once may tell it twice.
        if step == 5:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    _, finished = run("stopped", "--max_steps", "8", before=interrupt)
    assert not finished and checkpoints(tmp_path / "stopped") == [2, 4, 5]
    assert f"Stopped by {number.name} after step 5" in capsys.readouterr().out
    assert not (tmp_path / "stopped" / "sticks.safetensors").exists()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == handlers
    _, finished = run("stopped", "--max_steps", "8")
    assert finished
    for name in ("loss", "metres", "validation_loss"):
        assert log(tmp_path / "stopped", name) == log(tmp_path / "straight", name), name


# Logs


def test_every_start_cuts_the_logs_to_its_step(run, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 9.0}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    # Of a run that had more processes.
    (folder / "bad_rows-3.jsonl").write_text('{"step": 1, "reason": "silent audio"}\n')
    run("run", "--max_steps", "4")
    assert "log.jsonl: 1 line was removed, which could not be read." in capsys.readouterr().out
    losses = log(folder, "loss")
    assert set(losses) == {1, 2, 3, 4} and 9.0 not in losses.values()
    assert len((folder / "log.jsonl").read_text().splitlines()) == 4 + 2
    assert (folder / "bad_rows-3.jsonl").read_text() == ""
    kept, bad_rows = (folder / "log.jsonl").read_bytes(), (folder / "bad_rows-0.jsonl").read_bytes()
    assert bad_rows
    broken = [b'{"step": 2, "lo{"step": 3}', b"[]", b'{"step": "3"}', b"\xff\x00", b"[" * 9999, b"", b"{}"]
    with open(folder / "log.jsonl", "ab") as file:
        file.write(b"\n".join(broken) + b'\n{"step": 5, "loss": 9.0}')
    (folder / "bad_rows-0.jsonl").write_bytes(bad_rows.removesuffix(b"\n"))
    run("run", "--max_steps", "4")
    assert "log.jsonl: 6 lines were removed" in capsys.readouterr().out
    assert (folder / "log.jsonl").read_bytes() == kept and (folder / "bad_rows-0.jsonl").read_bytes() == bad_rows


# Checkpoints


def test_a_run_goes_on_from_the_newest_checkpoint_that_has_not_changed(run, tmp_path, capsys):
    run("straight", "--max_steps", "8")
    run("run", "--max_steps", "6")
    for step, name in ((2, "trainer_state.json"), (6, "optimizer.bin")):
        path = tmp_path / "run" / f"checkpoint-{step:08d}" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 8
        path.write_bytes(content)
    run("run", "--max_steps", "8")
    out = capsys.readouterr().out
    assert "Skipped checkpoint-00000006" in out and "optimizer.bin is not what was written" in out
    assert "checkpoint-00000004 at step 4" in out
    assert log(tmp_path / "run", "loss") == log(tmp_path / "straight", "loss")


def test_a_checkpoint_of_another_configuration_is_refused_in_a_sentence(run, tmp_path):
    run("run", "--max_steps", "2")

    class Larger(toy_system.StickTask):
        def __init__(self, config):
            super().__init__(config)
            self.module = torch.nn.Linear(1, 2)

    argv = toy_system.arguments(run.corpus, tmp_path / "run", "--max_steps", "4")
    with pytest.raises(RuntimeError, match="checkpoint-00000002' does not fit this configuration.*size mismatch"):
        Trainer(parse_config(argv), Larger)

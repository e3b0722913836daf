"""Another system comes in as a folder and a line of the table: loop, data and options serve it as it is."""

import pytest
import torch
import toy_system
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from training_runs import log

from dtm_hf.training.systems import SYSTEMS, parse_config
from dtm_hf.training.trainer import Trainer


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setitem(SYSTEMS, "sticks", toy_system.SYSTEM)
    AcceleratorState._reset_state(reset_partial_state=True)
    (tmp_path / "data").mkdir()
    corpus = toy_system.write_sticks(tmp_path / "data")
    yield lambda name, *more: toy_system.arguments(corpus, tmp_path / name, *more)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_its_options_are_read_and_its_checks_are_asked(arguments):
    assert parse_config(arguments("run", "--density", "3")).objective == toy_system.StickArguments(density=3.0)
    for argv, message in {
        ("--density", "0"): "`density` must be greater than 0, but got 0.0",
        ("--base_model", "b"): "`base_model` must be none for sticks, but got 'b'",
        ("--densty", "1"): "--densty; did you mean 'density'",
    }.items():
        with pytest.raises(ValueError, match=message):
            parse_config(arguments("run", *argv))


def test_it_is_trained_stopped_and_resumed_to_the_bit(arguments, tmp_path):
    Trainer(parse_config(arguments("straight", "--max_steps", "8"))).train()
    Trainer(parse_config(arguments("stopped", "--max_steps", "4"))).train()
    Trainer(parse_config(arguments("stopped", "--max_steps", "8"))).train()
    straight, stopped = (load_file(tmp_path / name / "sticks.safetensors") for name in ("straight", "stopped"))
    assert straight.keys() == stopped.keys() and all(torch.equal(straight[n], stopped[n]) for n in straight)
    for name in ("loss", "metres", "sticks_per_second", "validation_loss"):
        assert len(log(tmp_path / "stopped", name)) == (4 if name == "validation_loss" else 8), name
    losses = log(tmp_path / "straight", "validation_loss")
    assert losses == log(tmp_path / "stopped", "validation_loss") and losses[8] < losses[2]

"""Checkpoints are complete or absent."""

import pytest

from dtm_hf.training.loop.checkpoints import (
    CheckpointError,
    best_checkpoint,
    checkpoint_folders,
    read_state,
    write_checkpoint,
)


def fill(text="weights"):
    def write(folder):
        (folder / "part").mkdir()
        (folder / "part" / "weights.bin").write_text(text)

    return write


def names(folder):
    return [path.name for path in checkpoint_folders(folder)]


def test_written_and_read(tmp_path):
    state = {"step": 30, "bad_rows": {"silent audio": 2}}
    path = write_checkpoint(tmp_path / "run", 30, fill(), state, keep=2)
    assert path.name == "checkpoint-00000030"
    assert read_state(path) == state
    assert (path / "part" / "weights.bin").read_text() == "weights"
    assert checkpoint_folders(tmp_path / "run") == [path]


def test_none_yet(tmp_path):
    assert checkpoint_folders(tmp_path / "nowhere") == []


def test_the_oldest_go_first(tmp_path):
    for step in (9, 10, 100, 1000):
        write_checkpoint(tmp_path, step, fill(), {}, keep=2)
    assert names(tmp_path) == ["checkpoint-00000100", "checkpoint-00001000"]
    write_checkpoint(tmp_path, 1001, fill(), {}, keep=1)
    assert names(tmp_path) == ["checkpoint-00001001"]


def test_the_one_just_written_stays_beside_higher_numbers_of_another_run(tmp_path):
    for step in (500, 600):
        write_checkpoint(tmp_path, step, fill(), {}, keep=2)
    path = write_checkpoint(tmp_path, 10, fill(), {}, keep=2)
    assert path.is_dir() and names(tmp_path) == ["checkpoint-00000010", "checkpoint-00000600"]


def test_one_of_the_same_step_is_replaced(tmp_path):
    write_checkpoint(tmp_path, 5, fill("old"), {"run": 1}, keep=2)
    path = write_checkpoint(tmp_path, 5, fill("new"), {"run": 2}, keep=2)
    assert (path / "part" / "weights.bin").read_text() == "new" and read_state(path) == {"run": 2}


def test_a_failure_leaves_the_last_one_and_the_next_write_cleans_up(tmp_path):
    write_checkpoint(tmp_path, 5, fill(), {}, keep=2)

    def fail(folder):
        (folder / "weights.bin").write_text("half")
        raise OSError("disk full")

    with pytest.raises(CheckpointError, match="step 6 .*newest complete one is checkpoint-00000005.*disk full"):
        write_checkpoint(tmp_path, 6, fail, {}, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000005"], "the half is gone at once"
    # A killed run cannot clean up behind itself.
    (tmp_path / ".partial-checkpoint-00000006" / "part").mkdir(parents=True)
    write_checkpoint(tmp_path, 7, fill(), {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000005", "checkpoint-00000007"]


def test_a_folder_without_state_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-00000009").mkdir()
    assert names(tmp_path) == []


def test_the_best_and_the_milestones_stay(tmp_path):
    assert best_checkpoint(tmp_path) is None
    for step, loss in enumerate((0.9, 0.4, None, 0.6, 0.7, 0.5), start=1):
        state = {} if loss is None else {"validation_loss": loss}
        write_checkpoint(tmp_path, step, fill(), state, keep=1, keep_every=3)
    assert names(tmp_path) == ["checkpoint-00000002", "checkpoint-00000003", "checkpoint-00000006"]
    assert best_checkpoint(tmp_path).name == "checkpoint-00000002"
    write_checkpoint(tmp_path, 7, fill(), {"validation_loss": 0.3}, keep=1, keep_every=3)
    assert names(tmp_path) == ["checkpoint-00000003", "checkpoint-00000006", "checkpoint-00000007"]

"""Checkpoints are complete or absent, and what they were when they were written."""

import re

import pytest

from dtm_hf.training.loop.checkpoints import (
    CheckpointError,
    best_checkpoint,
    checkpoint_folders,
    newest_sound_checkpoint,
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


def test_only_numbers_count_and_they_are_compared_as_numbers(tmp_path):
    for name in ("checkpoint-best", "checkpoint-00000009.bak", "checkpoint-00000009 (copy)", "checkpoint-", "9"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-00000012").write_text("a file")
    for name in ("checkpoint-100", "checkpoint-00000020"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    assert names(tmp_path) == ["checkpoint-00000020", "checkpoint-100"]


# What is still what was written


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped byte": (lambda folder: flip(folder / "part/weights.bin"), "part/weights.bin .* SHA-256 differs"),
    "cut": (lambda folder: (folder / "part/weights.bin").write_text("weig"), "4 bytes in the place of 7"),
    "missing": (lambda folder: (folder / "part/weights.bin").unlink(), "part/weights.bin is missing"),
    "other state": (lambda folder: (folder / "trainer_state.json").write_text("{}"), "trainer_state.json has 2 bytes"),
    "half a state": (lambda folder: (folder / "trainer_state.json").write_text("{"), "trainer_state.json is no JSON"),
    "no state": (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json"),
    "list": (lambda folder: (folder / "files.json").write_text('{"part/weights.bin": 7}'), "files.json is no list"),
    "half a list": (lambda folder: (folder / "files.json").write_bytes(b"{\xff"), "files.json is no JSON"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_newest_that_is_still_what_was_written_is_taken(tmp_path, kind):
    damage, reason = DAMAGES[kind]
    for step in (2, 4, 6):
        write_checkpoint(tmp_path, step, fill(), {"step": step}, keep=9)
    damage(tmp_path / "checkpoint-00000002")
    said = []
    assert newest_sound_checkpoint(tmp_path, said.append).name == "checkpoint-00000006" and not said
    damage(tmp_path / "checkpoint-00000006")
    assert newest_sound_checkpoint(tmp_path, said.append).name == "checkpoint-00000004"
    (line,) = said
    assert re.search(f"Skipped checkpoint-00000006.*called checkpoint-00000006.damaged: .*{reason}", line)
    # The run that goes on from it is disturbed by neither.
    assert best_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, 6, fill(), {"step": 6, "validation_loss": 0.5}, keep=1)
    assert names(tmp_path) == ["checkpoint-00000006"] and best_checkpoint(tmp_path).name == "checkpoint-00000006"
    assert newest_sound_checkpoint(tmp_path, said.append).name == "checkpoint-00000006" and len(said) == 1


def test_where_all_are_damaged_nothing_is_begun_anew(tmp_path):
    assert newest_sound_checkpoint(tmp_path) is None
    for step in (2, 4):
        flip(write_checkpoint(tmp_path, step, fill(), {}, keep=9) / "part/weights.bin")
    with pytest.raises(CheckpointError, match="all are damaged .*00000004: part.*00000002: part.*Remove"):
        newest_sound_checkpoint(tmp_path)
    assert len(names(tmp_path)) == 2


def test_one_without_a_list_of_its_files_is_taken_with_a_note(tmp_path):
    path = write_checkpoint(tmp_path, 2, fill(), {"step": 2}, keep=9)
    (path / "files.json").unlink()
    (tmp_path / "checkpoint-00000003").mkdir()
    said = []
    assert newest_sound_checkpoint(tmp_path, said.append) == path
    assert "checkpoint-00000003 is no checkpoint" in said[0] and "00000002 lists no hashes" in said[1]


def test_nan_is_the_best_of_nothing(tmp_path):
    path = write_checkpoint(tmp_path, 2, fill(), {"validation_loss": 0.5}, keep=9)
    (path / "trainer_state.json").write_text('{"validation_loss": NaN}')
    assert best_checkpoint(tmp_path) is None
    with pytest.raises(CheckpointError, match="step 4 could not be written.*JSON compliant"):
        write_checkpoint(tmp_path, 4, fill(), {"validation_loss": float("nan")}, keep=9)

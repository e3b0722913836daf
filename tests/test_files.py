"""Files and folders that are either complete or absent."""

import json
import math
import os
import signal

import pytest

from dtm_hf.files import entries_written_aside, folder_written_aside, write_json, written_aside


def test_the_file_appears_only_at_the_end_and_its_folders_with_it(tmp_path):
    path = tmp_path / "a" / "b.wav"
    with written_aside(path) as aside:
        assert aside.parent == path.parent and aside.suffix == ".wav"
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file_and_removes_new_folders(tmp_path):
    (tmp_path / "old.wav").write_text("old")
    for name in ("old.wav", "a/b/new.wav"):
        with pytest.raises(KeyboardInterrupt), written_aside(tmp_path / name) as aside:
            aside.write_text("half")
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["old.wav"]
    assert (tmp_path / "old.wav").read_text() == "old"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.wav").write_text("old")
    (tmp_path / "link.wav").symlink_to("real.wav")
    with written_aside(tmp_path / "link.wav") as aside:
        aside.write_text("new")
    assert (tmp_path / "link.wav").is_symlink() and (tmp_path / "real.wav").read_text() == "new"


@pytest.mark.parametrize("make", [written_aside, folder_written_aside])
def test_a_path_below_a_file_is_named_in_the_error(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="'.*file/x/y.wav' cannot be written"), make(tmp_path / "file/x/y.wav"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_device_is_replaced():
    with pytest.raises(OSError, match="/dev/null"), written_aside("/dev/null"):
        pass


def test_a_folder_is_complete_or_absent(tmp_path):
    with pytest.raises(ValueError), folder_written_aside(tmp_path / "new/model") as aside:
        (aside / "half").write_text("half")
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with folder_written_aside(tmp_path / "empty") as aside:
        (aside / "whole").write_text("whole")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["empty", "empty/whole"]
    with pytest.raises(FileExistsError, match="not an empty folder"), folder_written_aside(tmp_path / "empty"):
        pass


def test_entries_take_their_places_together_or_not_at_all(tmp_path):
    for name in ("kept/of-another", "head/old", "index"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    before = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError), entries_written_aside(tmp_path) as aside:
        (aside / "index").write_text("half")
        raise ValueError
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == before
    assert (tmp_path / "index").read_text() == "old"
    with entries_written_aside(tmp_path) as aside:
        (aside / "head").mkdir()
        (aside / "head/new").write_text("new")
        (aside / "index").write_text("new")
        assert (tmp_path / "head/old").read_text() == "old"
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert found == before - {"head/old"} | {"head/new"}
    assert (tmp_path / "index").read_text() == (tmp_path / "head/new").read_text() == "new"


def test_leftovers_of_a_killed_writer_go_and_what_is_being_written_stays(tmp_path):
    """Whatever the number of the process: in a container all have the same."""
    killed = os.fork()
    if killed == 0:
        with written_aside(tmp_path / "log.jsonl"), folder_written_aside(tmp_path / "model"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2 and all(name.startswith(".") for name in left)
    own = tmp_path / f".log.{os.getpid()}.jsonl"
    own.write_text("a file of the user's, though hidden")
    with written_aside(tmp_path / "log.jsonl") as one, written_aside(tmp_path / "log.jsonl") as two:
        assert set(tmp_path.iterdir()) == {one, two, own}
        one.write_text("1")
        two.write_text("2")
    assert set(tmp_path.iterdir()) == {own, tmp_path / "log.jsonl"} and (tmp_path / "log.jsonl").read_text() == "1"


def test_a_name_as_long_as_names_can_be(tmp_path):
    with written_aside(tmp_path / ("n" * 251 + ".wav")) as aside:
        aside.write_text("written")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["written"]


@pytest.mark.parametrize("make", [written_aside, folder_written_aside, entries_written_aside])
def test_an_interruption_before_it_is_handed_over_leaves_nothing(make, tmp_path, monkeypatch):
    def interrupted(descriptor, operation):
        raise KeyboardInterrupt

    monkeypatch.setattr("fcntl.flock", interrupted)
    with pytest.raises(KeyboardInterrupt), make(tmp_path / "new" / "out.txt"):
        raise AssertionError("it is not to come so far")
    assert list(tmp_path.iterdir()) == []


def test_figures_are_written_as_json_that_every_reader_takes(tmp_path):
    told = {"a": math.inf, "b": [1.5, -math.inf, {"c": math.nan}], "d": (math.nan, "Infinity"), "e": True, "f": None}
    write_json(tmp_path / "report.json", told)

    def refuse(name):
        raise AssertionError(name)

    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None, {"c": None}], "d": [None, "Infinity"], "e": True, "f": None}

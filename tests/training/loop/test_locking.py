"""One writer a folder."""

import os
import signal
import socket
from contextlib import ExitStack

import pytest

from dtm_hf.training.loop.locking import written_alone


def hold(folder):
    """A process that writes the folder, with a child as those that read the data are; returns once it does."""
    told, tell = os.pipe()
    writer = os.fork()
    if writer == 0:
        stack = ExitStack()
        stack.enter_context(written_alone(folder))
        reader = os.fork()
        if reader == 0:
            signal.pause()
        os.write(tell, b"%d" % reader)
        signal.pause()
    reader = int(os.read(told, 20))
    return writer, reader


def test_another_process_is_named_and_a_killed_one_forgotten_though_its_children_live(tmp_path):
    folder = tmp_path / "run"
    writer, reader = hold(folder)
    try:
        for _ in range(2):
            with pytest.raises(ValueError) as error, written_alone(folder):
                pass
            assert f"process {writer} on {socket.gethostname()}" in str(error.value)
            assert f"`output_dir` {str(folder)!r} is being written by" in str(error.value)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        with written_alone(folder), written_alone(folder / ".." / "run"):
            assert [path.name for path in folder.iterdir()] == [".lock"]
    finally:
        os.kill(reader, signal.SIGKILL)
    assert list(folder.iterdir()) == []


def test_the_inner_of_two_in_one_process_does_not_give_it_free(tmp_path):
    with written_alone(tmp_path):
        with written_alone(tmp_path):
            pass
        other = os.fork()
        if other == 0:
            try:
                with written_alone(tmp_path):
                    os._exit(0)
            finally:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 3


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"^`output_dir` {place!r} cannot be written: "), written_alone(place):
        pass

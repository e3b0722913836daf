"""
Processes for the tests whose subject is one. They are forked from a server that has the libraries imported: to import
them takes longer than such a test. The server has one thread, and nothing of a test is in it.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["dtm_hf.training.trainer", "dtm_hf.pipelines.pipeline_dtm"])


class Forked:
    """
    `function(*arguments)` in a process of its own.

    Args:
        function (`Callable`): Of a module that can be imported. An exception makes the exit status 1.
        output (`Path`): Receives what the process writes to its standard output and error, behind what is there.
        environment (`dict[str, str]`, *optional*): Variables in the place of those of this process.
        file_size_limit (`int`, *optional*): Bytes past which a write into a file fails, as it does on a full disk.
    """

    def __init__(
        self,
        function: Callable,
        *arguments: object,
        output: Path,
        environment: dict[str, str] | None = None,
        file_size_limit: int | None = None,
    ):
        self.output = Path(output)
        environment = dict(os.environ if environment is None else environment)
        told = (function, arguments, self.output, environment, file_size_limit)
        self.process = CONTEXT.Process(target=_call, args=told)
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        """Exit status, below 0 after a signal; `None` while it runs."""
        return self.process.exitcode

    def wait(self, seconds: float = 300) -> int:
        """Exit status; an `AssertionError` if there is none by then."""
        self.process.join(seconds)
        if self.poll() is None:
            self.kill()
            raise AssertionError(f"no end after {seconds} s: {self.output.read_text()[-2000:]}")
        return self.poll()

    def kill(self) -> None:
        """SIGKILL to it, then to all that it started."""
        kill(self.pid)
        self.process.join()


def command(module: str, *arguments: object) -> None:
    """`python -m MODULE ARGUMENTS` in this process, for a [`Forked`]."""
    sys.argv = [module, *map(str, arguments)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def wait_until(running, condition: Callable[[], bool], seconds: float = 300) -> None:
    """Look often until `condition()` holds; an `AssertionError` if `running` (`poll`, `kill`, `output`) ends first."""
    end = time.monotonic() + seconds
    while not condition():
        if running.poll() is not None or time.monotonic() > end:
            running.kill()
            raise AssertionError(f"not reached: {running.output.read_text()[-2000:]}")
        time.sleep(0.0005)


def processes(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(pid: int) -> None:
    """SIGKILL to a process and all that it started; to the first first, lest it sees the others die."""
    for process in processes(pid):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass


def _call(
    function: Callable, arguments: tuple, output: Path, environment: dict[str, str], file_size_limit: int | None
) -> None:
    import torch

    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    # What a process of a fork server starts comes from another such server, which pays the imports again: about ten
    # seconds for each process that reads data. The command has the platform's way.
    multiprocessing.set_start_method(None, force=True)
    if file_size_limit is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, file_size_limit))
    function(*arguments)

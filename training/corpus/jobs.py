"""Work cut into files: what is there is kept, what is missing is made, in processes that end with their parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path


def progress_bar():
    """A `rich.progress.Progress` that counts files."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def process_pool(workers: int) -> Executor:
    """
    Raises:
        ValueError: if `workers` is not positive.
    """
    if workers < 1:
        raise ValueError(f"`workers` must be 1 or more, but got {workers}")
    if workers == 1:
        return ThreadPoolExecutor(1)
    # Spawned, not forked: a caller that has torch loaded is slow and unsafe to fork.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)


def run_missing(pool: Executor, progress, name: str, jobs: list[tuple[Path, Callable, tuple]]) -> None:
    """Call each function whose result, a file or folder, is not there yet. A job: result, function, arguments."""
    missing = [(function, arguments) for path, function, arguments in jobs if not path.exists()]
    task = progress.add_task(name, total=len(jobs), completed=len(jobs) - len(missing))
    try:
        for future in as_completed([pool.submit(function, *arguments) for function, arguments in missing]):
            future.result()
            progress.advance(task)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _end_with_parent() -> None:
    """In each process of the pool: it would wait for work for ever if its parent were killed."""
    # Ctrl-C reaches all processes: these end at once and without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

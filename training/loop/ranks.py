"""What the processes of a run decide together."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from dtm_hf.training.loop.errors import RunError

Result = TypeVar("Result")


def anywhere(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is up in any process; every process calls this."""
    if accelerator.num_processes == 1:
        return flag
    return accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum").item() > 0


def on_main(accelerator: Accelerator, call: Callable[..., Result], *arguments: object) -> Result:
    """
    What `call(*arguments)` returns in the main process, in every process; each calls this.

    Raises:
        RunError: in every process, if it raised a [`RunError`], `ValueError` or `OSError`; with the same message.
    """
    answer: list = [None, None]
    if accelerator.is_main_process:
        try:
            answer[0] = call(*arguments)
        except (RunError, ValueError, OSError) as error:
            answer[1] = str(error)
    result, problem = broadcast_object_list(answer)
    if problem is not None:
        raise RunError(problem)
    return result


def leave(accelerator: Accelerator) -> None:
    """
    End the trackers of a run, and its group of processes; every process calls this, with no reference of its own to
    the model that Accelerate has wrapped.

    Who drops the last reference to a group waits for the group's threads. DistributedDataParallel would do so holding
    the interpreter's lock, and a thread that is late wants that lock to free the last tensor that it has reduced, so
    that neither goes on. Hence the wrapper ends before the group does.
    """
    if accelerator.num_processes > 1:
        accelerator.free_memory()
        # Accelerate and the wrapper refer to each other.
        gc.collect()
    accelerator.end_training()

"""
What the training loop leaves to what is trained: batches, losses, samples and the result. The loop itself knows of
steps, optimizers, averages, checkpoints and logs alone.

Another kind of training is another subclass of `Task`, which the table in training/systems.py names.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dtm_hf.training.objectives.phases import Phase


class Task(ABC):
    """
    Attributes:
        module (`torch.nn.Module`): holds what is trained; checkpoints are its `state_dict`.
        groups_are_called (`bool`): whether losses call `model`, the module as Accelerate has wrapped it, so that
            DistributedDataParallel averages gradients. Else the loop averages them itself.
        decisive (`str`): figure of [`~Task.validate`] that tells the best checkpoint: the lowest.
        unit (`str`): what [`~Task.size`] counts, in the plural.
    """

    module: nn.Module
    groups_are_called = True
    decisive = "loss"
    unit: str

    @abstractmethod
    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        """
        The trainable parameters by group and name. The first group is what is averaged, validated and saved; its
        figures are logged under their own names, those of the others behind the name of the group.
        """

    def learning_rate(self, group: str) -> float | None:
        """Peak learning rate of a group, where it is not that of the run."""
        return None

    @abstractmethod
    def place(self, device: torch.device) -> None:
        """Bring all networks to their device, as they are to be trained; called once, before the optimizers are."""

    @abstractmethod
    def phases(self, step: int) -> Sequence[Phase]:
        """The phases of the step after `step` steps; the same for all of its batches."""

    # Data

    @abstractmethod
    def loader(self, split: str, *, seed: int, rank: int, world_size: int, endless: bool) -> Iterable[dict]:
        """
        Batches with `bad_rows`, `dropped` (reason -> count) and `bad_row_details`, a list of dictionaries that JSON
        can hold; `state_dict` and `load_state_dict` keep the place.
        """

    @abstractmethod
    def batch(self, raw: dict, device: torch.device) -> Any:
        """A batch of the loader as the losses want it."""

    @abstractmethod
    def size(self, raw: dict, batch: Any) -> tuple[int, int]:
        """Units in a batch, without padding and with it; without waiting for the device."""

    def prepare(self, batch: Any) -> Any:
        """What all phases of a step share, computed once before the first; draws from torch's generator."""
        return batch

    @abstractmethod
    def amount(self, units: int) -> dict[str, float]:
        """How much has been trained on, as it is logged: `{"hours": 1.5}`."""

    # Results

    def precision(self) -> AbstractContextManager:
        """Around each loss, inside of autocast."""
        return nullcontext()

    @abstractmethod
    def validate(self, batch: Any, generator: torch.Generator) -> Mapping[str, torch.Tensor | float]:
        """Figures of a fixed batch with fixed draws, for the averaged weights."""

    @abstractmethod
    def open_samples(self, folder: Path) -> bool:
        """Get ready to write samples into a folder; `False` if there are none to write. The main process alone."""

    @abstractmethod
    def write_samples(self, step: int, trackers: Sequence) -> None:
        """Samples of the weights as they are now. The state of the random number generators is left as it was."""

    @abstractmethod
    def save(self, folder: Path, step: int, units: int) -> None:
        """Write the finished result, with the weights as they are now."""

    @abstractmethod
    def save_repository(
        self, folder: Path, repo_id: str, step: int, units: int, results: dict[str, float] | None
    ) -> None:
        """Write what is pushed to the Hub, with its card; `results` are figures measured at this step."""

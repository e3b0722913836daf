"""What a step of training is made of: one loss after another, each for a group of parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dtm_hf.training.objectives.arguments import TDMArguments
from dtm_hf.training.objectives.losses import LossOutput


@dataclass(frozen=True)
class Phase:
    """
    One loss of a step. The phases of a step are done one after the other: forward, backward and the optimizer of one
    are over, for all batches of the step, before the next begins.

    Args:
        group (`str`): the parameters that it trains, of [`Task.groups`].
        loss (`Callable`): `loss(model, batch) -> LossOutput`; its gradient reaches no other group.
    """

    group: str
    loss: Callable[[nn.Module, Any], LossOutput]


def alternating_phases(arguments: TDMArguments, step: int, *, estimator: Callable, student: Callable) -> list[Phase]:
    """
    The phases of distillation after `step` steps, made of both losses: in every `update_estimator_every`-th step the
    estimator is updated `estimator_updates` times, and in each step the student once, after it.
    """
    updates = 0 if step % arguments.update_estimator_every else arguments.estimator_updates
    return [Phase("estimator", estimator)] * updates + [Phase("student", student)]

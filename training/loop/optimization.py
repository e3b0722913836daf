"""Optimizers and learning rate schedules."""

import re
from collections.abc import Mapping

import torch
from torch.optim.lr_scheduler import LambdaLR

from dtm_hf.training.config.arguments import OptimizationArguments

# Parameters of transformer blocks: ours, and those of transformers' SpeechT5.
_BLOCKS = re.compile(r"blocks\.|wrapped_(en|de)coder\.layers\.")


def build_optimizers(
    trainable: Mapping[str, torch.nn.Parameter],
    options: OptimizationArguments,
    learning_rate: float | None = None,
) -> list[torch.optim.Optimizer]:
    """
    AdamW over all parameters, with moments in 8 bits if asked for; or Muon over the weight matrices inside the
    transformer blocks with AdamW over the rest. Muon's step is scaled to the size of AdamW's, so both take one
    learning rate.

    Args:
        trainable (`dict[str, torch.nn.Parameter]`): what is trained, by name.
        options ([`OptimizationArguments`]): which, and how.
        learning_rate (`float`, *optional*): in place of the one in `options`.

    Raises:
        ValueError: if 8 bits are asked for and bitsandbytes cannot be imported.
    """
    learning_rate = options.learning_rate if learning_rate is None else learning_rate
    matrices = {}
    if options.optimizer == "muon":
        # The modulation of AdaLN starts at zero, where an orthogonalised step is as large as any: AdamW keeps it.
        matrices = {n: p for n, p in trainable.items() if p.ndim == 2 and _BLOCKS.search(n) and "norm" not in n}
    rest = [p for n, p in trainable.items() if n not in matrices]
    settings = {
        "lr": learning_rate,
        "betas": (options.adam_beta1, options.adam_beta2),
        "weight_decay": options.weight_decay,
    }
    optimizers: list[torch.optim.Optimizer]
    if options.optimizer == "adamw_8bit":
        optimizers = [_adamw_8bit()(rest, **settings)]
    else:
        optimizers = [torch.optim.AdamW(rest, fused=True, **settings)]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                list(matrices.values()),
                lr=learning_rate,
                weight_decay=options.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def _adamw_8bit():
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(f"`optimizer` 'adamw_8bit' needs bitsandbytes, but importing it failed: {error}") from error
    return AdamW8bit


def build_schedules(optimizers, options: OptimizationArguments) -> list[LambdaLR]:
    """One schedule an optimizer. It depends on the step alone, so a longer `max_steps` may continue a stable phase."""
    from transformers import get_scheduler

    extra = {}
    if options.lr_scheduler == "warmup_stable_decay":
        extra = {"num_decay_steps": options.decay_steps}
    return [
        get_scheduler(
            options.lr_scheduler,
            optimizer,
            num_warmup_steps=options.warmup_steps,
            num_training_steps=options.max_steps,
            scheduler_specific_kwargs=extra,
        )
        for optimizer in optimizers
    ]


def set_schedules(schedules: list[LambdaLR], step: int) -> None:
    """Put the schedules where they are after `step` optimizer steps."""
    for schedule in schedules:
        schedule.last_epoch = step
        rates = [base * factor(step) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates

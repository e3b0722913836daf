"""Scheduler of masked codes: which of them are decided after each cycle."""

import math
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput

from .solvers import check_num_steps

ORDERS = ("coarse_to_fine", "all")


@dataclass
class MaskingSchedulerOutput(BaseOutput):
    """
    Output of [`MaskingScheduler.step`].

    Args:
        prev_sample (`torch.LongTensor` of shape `(B, K, T)`): Codes that are decided by now, the mask elsewhere.
    """

    prev_sample: torch.Tensor


class MaskingScheduler(SchedulerMixin, ConfigMixin):
    r"""
    Decides codes in a few steps, those first of which the network is surest
    ([MaskGIT](https://huggingface.co/papers/2202.04200); over the books of a residual codec
    [SoundStorm](https://huggingface.co/papers/2305.09636)).

    After step i of N, of which the first S = floor(`silent_share` N) decide nothing, the share
    1 - cos(pi (i + 1 - S) / (2 (N - S))) of the codes is decided. A code that is decided stays.

    Args:
        num_inference_steps (`int`, defaults to 3): N.
        order (`str`, defaults to `"coarse_to_fine"`):
            `"coarse_to_fine"`: no book begins before the one above it is complete; within a book the surest frames
            first. `"all"`: the surest of all books.
        temperature (`float`, defaults to 1.0):
            Of the Gumbel noise on the confidence, which falls to 0 with the last step: the surest codes alone would
            say the same thing each time.
        silent_share (`float`, defaults to 0.0):
            Share of the steps, in [0, 1), that decide nothing: a recursive network knows little after its first
            cycle, and what is decided then stays.

    Raises:
        ValueError: for an argument outside its range.
    """

    _compatibles = []
    order = 1

    @register_to_config
    def __init__(
        self,
        num_inference_steps: int = 3,
        order: str = "coarse_to_fine",
        temperature: float = 1.0,
        silent_share: float = 0.0,
    ):
        if order not in ORDERS:
            raise ValueError(f"`order` must be one of {ORDERS}, but got {order!r}.")
        if not temperature >= 0:
            raise ValueError(f"`temperature` must be at least 0, but got {temperature}.")
        if not 0 <= silent_share < 1:
            raise ValueError(f"`silent_share` must lie in [0, 1), but got {silent_share}.")
        self.set_timesteps(num_inference_steps)

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        # diffusers looks for the class itself in its own package alone.
        return [cls]

    def set_timesteps(self, num_inference_steps: int | None = None, device: str | torch.device | None = None) -> None:
        """
        Sets `timesteps`, `(N,)`: 0, 1, ... N - 1.

        Raises:
            ValueError: for fewer than one step.
        """
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        check_num_steps(steps, 0)
        self.num_inference_steps = steps
        self.timesteps = torch.arange(steps, device=device)

    def decided_share(self, timestep: int) -> float:
        """Share of the codes that is decided after a step, in [0, 1]."""
        if timestep == self.num_inference_steps - 1:
            return 1.0
        silent = int(self.config.silent_share * self.num_inference_steps)
        return 1 - math.cos(math.pi / 2 * max(timestep + 1 - silent, 0) / (self.num_inference_steps - silent))

    @staticmethod
    def counts_of(share: torch.Tensor | float, num_codebooks: int, lengths: torch.Tensor) -> torch.Tensor:
        """How many codes of each book are decided, `(B, K)`, coarse to fine, at a share of all, `(B,)` or one."""
        share = torch.as_tensor(share, device=lengths.device, dtype=torch.float32).expand(len(lengths))
        books = torch.arange(num_codebooks, device=lengths.device)
        of_book = (share[:, None] * num_codebooks - books).clamp(0, 1)
        return (of_book * lengths[:, None]).ceil().long()

    def step(
        self,
        model_output: torch.Tensor,
        confidence: torch.Tensor,
        timestep: torch.Tensor | int,
        sample: torch.Tensor,
        mask_code: int,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> MaskingSchedulerOutput | tuple[torch.Tensor]:
        """
        Decide the next codes.

        Args:
            model_output (`torch.LongTensor` of shape `(B, K, T)`): codes drawn by the network at all places.
            confidence (`torch.Tensor` of shape `(B, K, T)`): its log-probability of each.
            timestep (`int`): entry of `timesteps`.
            sample (`torch.LongTensor` of shape `(B, K, T)`): codes decided before, `mask_code` elsewhere.
            mask_code (`int`): what stands for undecided ones.
            attention_mask (`torch.BoolTensor` of shape `(B, T)`, *optional*): valid frames; the others stay masked.
            noise (`torch.Tensor` of shape `(B, K, T)`, *optional*): uniform in (0, 1), for the Gumbel noise.

        Returns:
            [`MaskingSchedulerOutput`]. After the last step no valid code is masked.
        """
        index = int(timestep)
        if not 0 <= index < self.num_inference_steps:
            raise ValueError(f"`timestep` must be one of `timesteps`, but got {index}.")
        batch, books, frames = sample.shape
        if attention_mask is None:
            attention_mask = torch.ones(batch, frames, dtype=torch.bool, device=sample.device)
        valid = attention_mask[:, None].expand_as(sample)
        open_places = (sample == mask_code) & valid
        sureness = confidence.float()
        heat = self.config.temperature * (1 - (index + 1) / self.num_inference_steps)
        if noise is not None and heat > 0:
            sureness = sureness - heat * torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
        # What is decided already counts among the decided, and comes first.
        rank_by = sureness.masked_fill(~open_places, -torch.inf).masked_fill((sample != mask_code) & valid, torch.inf)
        if self.config.order == "coarse_to_fine":
            counts = self.counts_of(self.decided_share(index), books, attention_mask.sum(dim=1))
            chosen = _top(rank_by, counts)
        else:
            counts = (self.decided_share(index) * books * attention_mask.sum(dim=1)).ceil().long()
            chosen = _top(rank_by.flatten(1), counts).reshape(sample.shape)
        sample = torch.where(chosen & open_places, model_output, sample)
        return MaskingSchedulerOutput(prev_sample=sample) if return_dict else (sample,)

    def __len__(self) -> int:
        return self.num_inference_steps


def _top(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """`True` at the `counts` `(...)` largest of `values` `(..., N)`."""
    rank = values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return rank < counts[..., None]


__all__ = ["MaskingScheduler", "MaskingSchedulerOutput"]

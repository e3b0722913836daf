"""The random draws of a batch: noise, times, spans, dropped conditions, dropout."""

import numpy as np
import torch
from accelerate import Accelerator


def seed_draws(accelerator: Accelerator, seed: int, batch_number: int, draw: int = 0) -> None:
    """
    Begin the draws of the batch with this number in this process, so that they depend on nothing but it and the seed.

    The first phase has the `draw` 0, what precedes all phases 1, and later phases count on from there.
    """
    number = batch_number * accelerator.num_processes + accelerator.process_index
    entropy = (seed, number, draw) if draw else (seed, number)
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))

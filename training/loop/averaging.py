"""The average of the weights, which is what is validated and saved."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from dtm_hf.training.loop.sharding import sharded_like, whole

_FILE = "ema.safetensors"


class WeightAverage(EMAModel):
    """
    Args:
        module (`torch.nn.Module`): holds the parameters, and knows whether it trains.
        parameters (`list[torch.nn.Parameter]`): what is averaged.
        decay (`float`): of the average, once it is warm.
        device (`torch.device`): where it is kept.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        parameters: Sequence[torch.nn.Parameter],
        decay: float,
        device: torch.device,
    ):
        # 2/3: the warm-up that diffusers recommends for long runs; the decay itself caps it.
        super().__init__(parameters, decay=decay, use_ema_warmup=True)
        self.to(device)
        self.module, self.parameters, self.device = module, parameters, device

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the network holds the averaged weights and is in evaluation mode."""
        self.store(self.parameters)
        self.copy_to(self.parameters)
        self.module.eval()
        try:
            yield
        finally:
            self.module.train()
            self.restore(self.parameters)

    def save(self, folder: Path, main: bool) -> None:
        """Write the average into a checkpoint, `main` alone; every process calls this."""
        shadow = {str(i): p.contiguous() for i, p in enumerate(whole(self.shadow_params))}
        if main:
            save_file(shadow, folder / _FILE)

    def load(self, folder: Path, optimization_step: int) -> None:
        """Go on with the average of a checkpoint, and its number of steps."""
        # Not onto the device at once: safetensors refuses the `cpu:0` of several processes on a CPU.
        shadow = load_file(folder / _FILE)
        averaged = [shadow[str(i)].to(self.device) for i in range(len(shadow))]
        self.shadow_params = sharded_like(averaged, self.parameters)
        self.optimization_step = optimization_step

"""What the tiny components of the tests are made of."""

import numpy as np

VOCABULARY = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?'-"
SAMPLING_RATE = 24000
# With ends, whose frames depend on where a row of a batch ends.
MEAN_MEL = {"mean": [0.1] * 100, "edge": [-3.0] * 100, "first": [1.0, 0.5], "last": [0.8, 0.4, 0.1]}


def randomise(module, seed: int) -> None:
    """
    Move every parameter off its initial value, those that start at zero (AdaLN, output projections) farther: with its
    gates at zero a network's blocks are the identity, and a fault inside them would change nothing.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            std = 0.3 if not parameter.any() else 0.05
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))


def voice(seconds: float, pitch: float = 120.0, seed: int = 0) -> np.ndarray:
    """Harmonics with a slow envelope and a little noise: mono float32 at 24 kHz, never silent."""
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)
    tones = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.1 * envelope * tones + 0.002 * noise).astype(np.float32)

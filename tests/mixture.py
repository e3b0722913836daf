"""A mixture of Gaussians in the plane, its exact velocity, and a student distilled from it: the method, on its own."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dtm_hf.training.objectives.prediction import VelocityPrediction
from dtm_hf.training.objectives.tdm import TDM


@dataclass
class Mixture:
    """
    Equal isotropic Gaussians.

    Args:
        means (`torch.Tensor` of shape `(M, 2)`): their centres.
        std (`float`): their standard deviation.
    """

    means: torch.Tensor
    std: float

    def sample(self, size: int, generator: torch.Generator) -> torch.Tensor:
        """`(size, 2)`."""
        index = torch.randint(len(self.means), (size,), generator=generator)
        return self.means[index] + self.std * torch.randn(size, 2, generator=generator)

    def velocity(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """E[X_1 - X_0 | X_t = x] in closed form: `(B, 2)`, `(B,)` -> `(B, 2)`."""
        t = t[:, None]
        variance = (1 - t) ** 2 + (t * self.std) ** 2
        offset = x[:, None] - t[..., None] * self.means
        share = torch.softmax(-(offset**2).sum(dim=2) / (2 * variance), dim=1)[..., None]
        slope = ((t * self.std**2 - (1 - t)) / variance)[..., None]
        return (share * (self.means + slope * offset)).sum(dim=1)

    def mode_shares(self, x: torch.Tensor, radius: float = 4.0) -> torch.Tensor:
        """Share of the samples within `radius` standard deviations of each centre: `(M,)`."""
        distance, nearest = torch.cdist(x, self.means).min(dim=1)
        inside = nearest[distance < radius * self.std]
        return torch.bincount(inside, minlength=len(self.means)) / len(x)


def ring(modes: int = 6, radius: float = 1.4, std: float = 0.2) -> Mixture:
    """Modes on a circle; the data then have about unit variance."""
    angle = 2 * torch.pi * torch.arange(modes) / modes
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], dim=1), std)


class Corrected(nn.Module):
    """The teacher plus a small network that starts at zero: what adapters on a frozen base are."""

    def __init__(self, teacher: Callable[..., torch.Tensor], width: int = 128):
        super().__init__()
        self.teacher = teacher
        self.net = nn.Sequential(
            nn.Linear(10, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.out = nn.Linear(width, 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor, t: torch.Tensor, num_steps: torch.Tensor) -> torch.Tensor:
        waves = [wave(torch.pi * frequency * t) for frequency in (1, 2) for wave in (torch.sin, torch.cos)]
        velocity = self.teacher(x, t)
        inputs = torch.cat([2 * x, 2 * velocity, torch.stack([t, 1 / num_steps, *waves], dim=1)], dim=1)
        return velocity + self.out(self.net(inputs))


def distil(
    mixture: Mixture,
    step_counts: int | tuple[int, ...] = 4,
    *,
    seed: int = 0,
    steps: int = 1500,
    batch_size: int = 512,
    estimator_updates: int = 5,
    learning_rate: float = 2e-3,
) -> tuple[TDM, nn.Module]:
    """Train a student and an estimator, both [`Corrected`]; returns the algorithm and the student's weight average."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    # Most of the steps near the data, where the modes part.
    tdm = TDM(VelocityPrediction(shift=0.5), step_counts, huber_scale=1.0)
    student, estimator = Corrected(mixture.velocity), Corrected(mixture.velocity)
    average = copy.deepcopy(student)
    optimizers = [
        torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        for network in (student, estimator)
    ]
    for step in range(steps):
        for optimizer in optimizers:
            # Linear to zero: the student's gradient stays noisy where it is right.
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        noise = torch.randn(batch_size, 2, generator=generator)
        rollout = tdm.rollout(student, noise, generator=generator)
        for _ in range(estimator_updates):
            descend(optimizers[1], tdm.estimator_loss(estimator, rollout, generator=generator).loss)
        descend(
            optimizers[0], tdm.student_loss(student, estimator, mixture.velocity, rollout, generator=generator).loss
        )
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), student.parameters(), strict=True):
                mean.lerp_(parameter, 0.01)
    return tdm, average


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step, with the gradient clipped."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()


def walk(network: Callable[..., torch.Tensor], noise: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Euler's method along a grid of times."""
    x = noise
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        x = x + (s - t) * network(x, t.expand(len(x)))
    return x


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """
    sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|) (Székely and Rizzo, 2013) of two samples `(B, 2)`, over all pairs, as
    `scipy.stats.energy_distance` has it in one dimension. Two samples of one distribution are about
    sqrt(2 E|Y - Y'| / B) apart: what a perfect sampler reaches.
    """
    x, y = x.double(), y.double()
    return float((2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()).sqrt())


def exact_energy_distance(x: torch.Tensor, mixture: Mixture) -> float:
    """
    The square of it without what finite samples add: Y is integrated out, and the pairs of a point and itself are
    left out. 0 on average for samples of the mixture, so it may be negative.
    """

    def mean_length(offset: torch.Tensor, std: float) -> torch.Tensor:
        """Of Gaussian vectors: the mean of a Rice distribution."""
        q = (offset**2).sum(dim=-1) / (4 * std**2)
        bessel = (1 + 2 * q) * torch.special.i0e(q) + 2 * q * torch.special.i1e(q)
        return std * (torch.pi / 2) ** 0.5 * bessel.mean()

    x, means = x.double(), mixture.means.double()
    between = mean_length(x[:, None] - means, mixture.std)
    within = mean_length(means[:, None] - means, mixture.std * 2**0.5)
    return float(2 * between - within - torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)))


@dataclass
class Result:
    """
    Args:
        samples (`torch.Tensor` of shape `(B, 2)`): of one sampler.
        distance (`float`): their [`energy_distance`] to as many points of the data.
        excess (`float`): their [`exact_energy_distance`].
        fewest (`float`): share of the samples in the mode that has the fewest.
    """

    samples: torch.Tensor
    distance: float
    excess: float
    fewest: float


@torch.no_grad()
def compared(mixture: Mixture, tdm: TDM, student: nn.Module, size: int = 2000, seed: int = 1) -> dict[str, Result]:
    """The student in four steps and its teacher in 100 and in 4, from one noise, and a second sample of the data."""
    generator = torch.Generator().manual_seed(seed)
    data, noise = mixture.sample(size, generator), torch.randn(size, 2, generator=generator)
    grids = {count: tdm.prediction.grid(count) for count in (4, 100)}
    samples = {
        "data": mixture.sample(size, generator),
        "teacher, 100 steps": walk(mixture.velocity, noise, grids[100]),
        "teacher, 4 steps": walk(mixture.velocity, noise, grids[4]),
        "teacher, 4 even steps": walk(mixture.velocity, noise, torch.linspace(0, 1, 5)),
        "student, 4 steps": tdm.rollout(student, noise, 4).samples,
    }
    return {
        name: Result(
            x, energy_distance(x, data), exact_energy_distance(x, mixture), float(mixture.mode_shares(x).min())
        )
        for name, x in samples.items()
    }

"""
How far a student's samples are from what they should be: in the VAE's latents, for no other network is needed there.

The losses of TDM say little of a student's quality, since the estimator moves along. This decides which checkpoint is
the best.
"""

import torch

from dtm_hf.training.images.networks import LatentNetworks
from dtm_hf.training.objectives.tdm import TDM


def distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Root mean square differences of all pairs of rows: `(N, ...)`, `(M, ...)` -> `(N, M)`."""
    x, y = x.flatten(1).double(), y.flatten(1).double()
    return torch.stack([(row - y).square().mean(dim=1).sqrt() for row in x])


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """
    2 E|x - y| - E|x - x'| - E|y - y'| ([Székely and Rizzo](https://doi.org/10.1016/j.jspi.2013.03.018)), 0 for samples
    of one distribution and positive for those of two; a collapse to the mean raises it, and so does blur. Row i of
    both is of one prompt, so the pairs (i, i) are left out. Unbiased, hence at times a little below 0.

    Args:
        x, y (`torch.Tensor` of shape `(N, ...)`): samples; N at least 2.
    """
    count = len(x)
    others = ~torch.eye(count, dtype=torch.bool, device=x.device)
    cross, within_x, within_y = (distances(a, b)[others].mean() for a, b in ((x, y), (x, x), (y, y)))
    return float(2 * cross - within_x - within_y)


class SampleMetric:
    """
    Distances of the student's samples, from fixed noise, to pictures of the same prompts: those of the validation
    split, or the teacher's from other noise where there are none.

    Args:
        networks ([`LatentNetworks`]): student and teacher.
        prompts (`list[str]`): at least two.
        pixels (`torch.Tensor` of shape `(N, 3, R, R)`, *optional*): pictures of the prompts in [-1, 1].
        teacher_steps (`int`, defaults to 32): of the teacher, where it stands in for the pictures.
        seed (`int`, defaults to 0): of the noise.

    Raises:
        ValueError: for fewer than two prompts.
    """

    def __init__(
        self,
        networks: LatentNetworks,
        prompts: list[str],
        pixels: torch.Tensor | None = None,
        *,
        teacher_steps: int = 32,
        seed: int = 0,
    ):
        if len(prompts) < 2:
            raise ValueError(f"`prompts` must be at least two to compare samples, but got {len(prompts)}.")
        self.networks, self.prompts = networks, prompts
        # On the CPU: the same on every device.
        generator = torch.Generator().manual_seed(seed)
        self.noise = networks.model.noise(len(prompts), generator)
        if pixels is not None:
            self.reference = networks.model.encode_images(pixels)
        else:
            noise = networks.model.noise(len(prompts), generator)
            self.reference = networks.teacher_samples(prompts, noise, teacher_steps)

    def measure(self, tdm: TDM) -> dict[str, float]:
        """
        `sample_distance`, the mean over the student's numbers of steps, is what decides; `sample_distance_K` is that
        of K steps, and `prompt_ratio_K` the distance to the picture of the same prompt over that to others': below 1
        where prompts are followed.
        """
        figures, others = {}, ~torch.eye(len(self.prompts), dtype=torch.bool)
        for count in sorted(set(tdm.step_counts)):
            samples = self.networks.student_samples(tdm, self.prompts, self.noise, count)
            figures[f"sample_distance_{count}"] = energy_distance(samples, self.reference)
            pairs = distances(samples, self.reference).cpu()
            figures[f"prompt_ratio_{count}"] = float(pairs.diagonal().mean() / pairs[others].mean())
        of_counts = [value for name, value in figures.items() if name.startswith("sample_distance")]
        return {"sample_distance": sum(of_counts) / len(of_counts)} | figures

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


def sample_figures(
    networks: LatentNetworks, tdm: TDM, prompts: list[str], noise: torch.Tensor, reference: torch.Tensor
) -> dict[str, float]:
    """
    Distances of the student's samples to what they should be.

    Args:
        networks ([`LatentNetworks`]): holds the student.
        tdm ([`TDM`]): its numbers of steps.
        prompts (`list[str]`): at least two.
        noise (`torch.Tensor` of shape `(N, C, h, w)`): where the student starts.
        reference (`torch.Tensor` of shape `(N, C, h, w)`): latents of pictures of the prompts. The teacher's, where
            there are no others, are to be from other noise.

    Returns:
        `dict`: `sample_distance`, the mean of the energy distances over the student's numbers of steps, is what
        decides; `sample_distance_K` is that of K steps, and `prompt_ratio_K` the distance to the picture of the same
        prompt over that to others': below 1 where prompts are followed.
    """
    figures, others = {}, ~torch.eye(len(prompts), dtype=torch.bool)
    for count in sorted(set(tdm.step_counts)):
        samples = networks.student_samples(tdm, prompts, noise, count)
        figures[f"sample_distance_{count}"] = energy_distance(samples, reference)
        pairs = distances(samples, reference).cpu()
        figures[f"prompt_ratio_{count}"] = float(pairs.diagonal().mean() / pairs[others].mean())
    of_counts = [value for name, value in figures.items() if name.startswith("sample_distance")]
    return {"sample_distance": sum(of_counts) / len(of_counts)} | figures

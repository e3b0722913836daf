"""The oracle head against Gaussian data, where the backbone's velocity and the joint posterior have closed forms."""

import pytest
import torch

from dtm_hf.evaluation.oracle import joint_inner_velocity

BINS = 3
MEAN = torch.tensor([0.7, -1.2, 0.3], dtype=torch.float64)
_ROOT = torch.tensor([[1.1, 0.0, 0.0], [0.8, 0.4, 0.0], [-0.5, 0.3, 0.9]], dtype=torch.float64)
COVARIANCE = _ROOT @ _ROOT.T
EYE, ZERO = torch.eye(BINS, dtype=torch.float64), torch.zeros(BINS, BINS, dtype=torch.float64)


def gaussian_velocity(x, t):
    """E[X_1 - X_0 | X_t = x] for X_1 ~ N(MEAN, COVARIANCE): regression of Y on X_t, one time a row."""
    rows = []
    for row, time in zip(x, t, strict=True):
        variance = time**2 * COVARIANCE + (1 - time) ** 2 * EYE
        cross = time * COVARIANCE - (1 - time) * EYE
        rows.append(MEAN + (row - time * MEAN) @ torch.linalg.solve(variance, cross))
    return torch.stack(rows)


def joint_posterior_mean(x_t, y_s, t, s):
    """E[X_1 - X_0 | X_t, Y_s] by conditioning the Gaussian of (X_1, X_0, Y_0): no step of the derivation is shared."""
    prior = torch.block_diag(COVARIANCE, EYE, EYE)
    mean = torch.cat([MEAN, torch.zeros(2 * BINS, dtype=torch.float64)])
    wanted = torch.cat([EYE, -EYE, ZERO], dim=1)
    seen = torch.cat(
        [torch.cat([t * EYE, (1 - t) * EYE, ZERO], dim=1), torch.cat([s * EYE, -s * EYE, (1 - s) * EYE], dim=1)]
    )
    gain = wanted @ prior @ seen.T @ torch.linalg.inv(seen @ prior @ seen.T)
    return wanted @ mean + (torch.cat([x_t, y_s], dim=-1) - seen @ mean) @ gain.T


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 5, BINS, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.0, 0.05, 0.4, 0.9])
@pytest.mark.parametrize("s", [0.0, 0.1, 0.5, 0.95])
def test_equals_the_joint_posterior(states, t, s):
    x_t, y_s = states
    g = joint_inner_velocity(gaussian_velocity, x_t, y_s, t, s)
    expected = (joint_posterior_mean(x_t, y_s, t, s) - y_s) / (1 - s)
    torch.testing.assert_close(g, expected, atol=1e-10, rtol=1e-10)


def test_at_the_start_it_is_the_backbones_own_velocity(states):
    x_t, y_0 = states
    for t in (0.0, 0.3, 0.8):
        v = gaussian_velocity(x_t, torch.full((2,), t, dtype=torch.float64))
        torch.testing.assert_close(joint_inner_velocity(gaussian_velocity, x_t, y_0, t, 0.0), v - y_0)


def test_times_of_their_own_for_each_row(states):
    x_t, y_s = states
    t, s = torch.tensor([0.2, 0.7]), torch.tensor([0.6, 0.0])
    g = joint_inner_velocity(gaussian_velocity, x_t, y_s, t, s)
    for i in range(2):
        row = slice(i, i + 1)
        alone = joint_inner_velocity(gaussian_velocity, x_t[row], y_s[row], float(t[i]), float(s[i]))
        torch.testing.assert_close(g[row], alone)


def test_the_inner_flow_draws_from_the_posterior():
    """Integrated finely from Y_0 ~ N(0, I), g* gives the mean and the covariance of Y given X_t."""
    t, steps = 0.4, 200
    generator = torch.Generator().manual_seed(1)
    x_t = torch.tensor([0.5, -0.2, 1.0], dtype=torch.float64).expand(1, 20000, BINS)
    y = torch.randn(x_t.shape, generator=generator, dtype=torch.float64)
    for i in range(steps):
        half = y + joint_inner_velocity(gaussian_velocity, x_t, y, t, i / steps) / (2 * steps)
        y = y + joint_inner_velocity(gaussian_velocity, x_t, half, t, (i + 0.5) / steps) / steps
    variance = t**2 * COVARIANCE + (1 - t) ** 2 * EYE
    cross = t * COVARIANCE - (1 - t) * EYE
    posterior = COVARIANCE + EYE - cross @ torch.linalg.solve(variance, cross)
    v = gaussian_velocity(x_t[:, :1], torch.tensor([t], dtype=torch.float64))[0, 0]
    torch.testing.assert_close(y[0].mean(0), v, atol=0.03, rtol=0)
    torch.testing.assert_close(y[0].T.cov(), posterior, atol=0.05, rtol=0.03)


@pytest.mark.parametrize(("t", "s", "name"), [(1.0, 0.5, "`t`"), (0.5, 1.0, "`s`"), (-0.1, 0.5, "`t`")])
def test_times_outside_are_refused(states, t, s, name):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\)"):
        joint_inner_velocity(gaussian_velocity, *states, t, s)

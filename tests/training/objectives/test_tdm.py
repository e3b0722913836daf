"""Trajectory distribution matching: who gets a gradient, which way it points, and what it leads to."""

import pytest
import torch
from mixture import compared, distil, ring
from torch import nn

from dtm_hf.training.objectives.prediction import EpsilonPrediction, VelocityPrediction
from dtm_hf.training.objectives.tdm import TDM, guided

PREDICTIONS = {"f5": VelocityPrediction(), "flux": VelocityPrediction(0, shift=3.0), "sdxl": EpsilonPrediction()}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


class PerFrame(nn.Module):
    """A network that treats each frame on its own, and takes the conditions of a caller."""

    def __init__(self, size=3, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(size + 2, 16), nn.SiLU(), nn.Linear(16, size))

    def forward(self, x, t, num_steps=None, text=0.0):
        num_steps = torch.zeros_like(t) if num_steps is None else num_steps
        numbers = torch.stack([t / 1000 if t.abs().max() > 1 else t, num_steps.to(t)], dim=1)
        numbers = numbers.reshape(len(x), *[1] * (x.ndim - 2), 2).expand(*x.shape[:-1], 2).to(x.dtype)
        return self.net(torch.cat([x, numbers], dim=-1)) + text


class Constant(nn.Module):
    """Returns one value, and notes what it is called with."""

    def __init__(self, value):
        super().__init__()
        self.value, self.calls = nn.Parameter(torch.tensor(float(value))), []

    def forward(self, x, t, **kwargs):
        self.calls.append({"t": t, **kwargs})
        return self.value.expand_as(x)


def gradients(module):
    return [parameter.grad for parameter in module.parameters()]


# Gradient paths


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
@pytest.mark.parametrize("num_steps", [1, 4])
def test_each_loss_has_a_gradient_to_its_own_network_alone(prediction, num_steps):
    student, estimator, teacher = (PerFrame(seed=seed) for seed in range(3))
    tdm = TDM(prediction, num_steps)
    rollout = tdm.rollout(student, normal(8, 5, 3), conditions={"text": 0.1})
    assert not rollout.states.requires_grad

    tdm.student_loss(student, estimator, teacher, rollout, {"text": 0.1}, generator=seeded()).loss.backward()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients(student))
    assert gradients(estimator) == gradients(teacher) == [None] * 4

    student.zero_grad(set_to_none=True)
    tdm.estimator_loss(estimator, rollout, {"text": 0.1}, generator=seeded()).loss.backward()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients(estimator))
    assert gradients(student) == gradients(teacher) == [None] * 4


def test_the_student_keeps_its_gradient_inside_one_autocast():
    """Autocast's cache of cast weights would hand those of the rollout, which have no graph, to the step with one."""
    student, estimator, teacher = (PerFrame(seed=seed) for seed in range(3))
    tdm = TDM(VelocityPrediction(), 2)
    with torch.autocast("cpu", torch.bfloat16):
        rollout = tdm.rollout(student, normal(8, 5, 3))
        student_loss = tdm.student_loss(student, estimator, teacher, rollout, generator=seeded()).loss
        estimator_loss = tdm.estimator_loss(estimator, rollout, generator=seeded()).loss
    # Outputs come in bfloat16, but neither states nor losses are kept in it.
    assert rollout.states.dtype == student_loss.dtype == estimator_loss.dtype == torch.float32
    (student_loss + estimator_loss).backward()
    for network in (student, estimator):
        assert all(gradient is not None and gradient.any() for gradient in gradients(network))
    assert gradients(teacher) == [None] * 4


def test_the_student_moves_towards_the_teacher_and_away_from_its_own_score():
    """The squared difference of the scores would have no gradient to the student at all."""
    tdm = TDM(VelocityPrediction(), 1)
    for real, fake in ((1.0, -1.0), (-1.0, 1.0), (0.5, 0.2)):
        student = Constant(0.0)
        rollout = tdm.rollout(student, normal(16, 5, 3))
        output = tdm.student_loss(student, Constant(fake), Constant(real), rollout, generator=seeded())
        output.loss.backward()
        assert student.value.grad.sign() == -torch.tensor(real - fake).sign()
    student = Constant(0.0)
    output = tdm.student_loss(student, Constant(0.7), Constant(0.7), rollout, generator=seeded())
    output.loss.backward()
    # Where the scores agree there is nothing to learn, whatever the student's distance to the teacher.
    assert output.loss == 0 and student.value.grad == 0 and (output.row_gaps == 0).all()


def test_the_gradient_in_closed_form():
    """
    One step of one row with constant networks: x_hat = x_0 + a, and the difference d of the estimates is known, so the
    loss and its derivative by a are those of sqrt(d^2 + c^2) - c.
    """
    tdm = TDM(VelocityPrediction(), 1, huber_scale=0.5)
    student, noise = Constant(0.0), normal(1, 40, 3)
    rollout = tdm.rollout(student, noise)
    output = tdm.student_loss(student, Constant(-1.0), Constant(1.0), rollout, generator=seeded())
    output.loss.backward()

    tau = output.t.item()
    generator = seeded()
    for _ in range(2):
        torch.rand(1, generator=generator)  # the step and tau
    x_tau = tau * noise + (1 - tau) * torch.randn(noise.shape, generator=generator)
    error = (noise - (x_tau + (1 - tau))).abs().mean().item()
    d = 2 * (1 - tau) / error
    assert output.loss.item() == pytest.approx((d**2 + 0.25) ** 0.5 - 0.5, rel=1e-4)
    assert student.value.grad.item() == pytest.approx(-d / (d**2 + 0.25) ** 0.5, rel=1e-4)
    assert output.row_gaps.item() == pytest.approx(d, rel=1e-4)


def test_the_loss_does_not_depend_on_the_scale_of_the_data():
    """The normalisation is per row: one loud row cannot drown the others."""
    student, estimator, teacher = (PerFrame(seed=seed) for seed in range(3))
    tdm = TDM(VelocityPrediction(), 2)
    rollout = tdm.rollout(student, normal(6, 5, 3))
    plain = tdm.student_loss(student, estimator, teacher, rollout, generator=seeded())

    factor = torch.tensor([1.0, 1.0, 100.0, 1.0, 1.0, 1.0])[:, None, None]

    class Scaled(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x, t, **conditions):
            return factor * self.network(x / factor, t, **conditions)

    class LoudTDM(TDM):
        def _draw_noisier(self, t, s, x_s, generator):
            tau, eps = super()._draw_noisier(t, s, x_s, generator)
            return tau, factor * eps

    loud = LoudTDM(VelocityPrediction(), 2)
    rollout.states = factor * rollout.states
    scaled = loud.student_loss(Scaled(student), Scaled(estimator), Scaled(teacher), rollout, generator=seeded())
    torch.testing.assert_close(scaled.row_losses, plain.row_losses, rtol=1e-4, atol=1e-6)


# The estimator


def gaussian_student(x, t, num_steps):
    """Two steps of it take N(0, 1) to N(0.4, 0.75^2) and N(0.7, 0.5625^2)."""
    return 0.8 - 0.5 * x


def score_of_the_student(x, t):
    """The velocity that stands for the score of these states, diffused to t in their interval."""
    t = t[:, None]
    first = t < 0.5
    s, mean, std = (torch.where(first, a, b) for a, b in ((0.5, 1.0), (0.4, 0.7), (0.75, 0.5625)))
    scale = t / s
    variance = (scale * std) ** 2 + (1 - t) ** 2 - (scale * (1 - s)) ** 2
    noise = (1 - t) * (x - scale * mean) / variance
    return (x - (1 - t) * noise) / t - noise


def pull(estimator, size=400_000):
    """Derivatives of the estimator's loss by an offset and a slope added to what it says, in standard errors."""
    tdm = TDM(VelocityPrediction(), 2, margin=0.1)
    rollout = tdm.rollout(gaussian_student, normal(size, 1))
    change = torch.zeros(size, 2, requires_grad=True)

    def network(x, t, num_steps):
        return estimator(x, t) + change[:, :1] + change[:, 1:] * x

    tdm.estimator_loss(network, rollout, generator=seeded(1)).loss.backward()
    return change.grad.mean(dim=0) / change.grad.std(dim=0) * size**0.5


def test_the_estimator_becomes_the_score_of_the_students_samples():
    assert pull(score_of_the_student).abs().max() < 4
    # What the document has it regress on: not a score of anything.
    assert pull(lambda x, t: gaussian_student(x, t, 2)).abs().max() > 20


@pytest.mark.parametrize("weight", ["constant", "snr", "min_snr"])
def test_the_weight_is_that_of_tau_and_the_loss_is_the_mean_of_its_rows(weight):
    student, estimator, teacher = (PerFrame(seed=seed) for seed in range(3))
    mask = torch.arange(5)[None] < torch.tensor([5, 2, 4, 0, 1, 3])[:, None]
    outputs = []
    for name in ("constant", weight):
        tdm = TDM(VelocityPrediction(), 4, weight=name)
        rollout = tdm.rollout(student, normal(6, 5, 3))
        outputs.append(tdm.student_loss(student, estimator, teacher, rollout, mask=mask, generator=seeded()))
    plain, weighted = outputs
    expected = plain.row_losses * VelocityPrediction().weight(weight, plain.t)
    torch.testing.assert_close(weighted.row_losses, expected)
    assert weighted.row_frames.tolist() == [5, 2, 4, 0, 1, 3]
    mean = (weighted.row_losses * weighted.row_frames).sum() / 15
    torch.testing.assert_close(weighted.loss.detach(), mean)


# The trajectory


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
def test_tau_lies_in_the_interval_of_each_rows_own_step(prediction):
    student, estimator, teacher = Constant(0.1), Constant(0.2), Constant(0.3)
    tdm = TDM(prediction, (1, 2, 4))
    rollout = tdm.rollout(student, normal(600, 2, 1), generator=seeded())
    assert rollout.num_steps.unique().tolist() == [1, 2, 4]
    student.calls.clear()
    output = tdm.student_loss(student, estimator, teacher, rollout, generator=seeded())
    for count in (1, 2, 4):
        rows, grid = output.num_steps == count, prediction.grid(count)
        assert output.step[rows].unique().tolist() == list(range(count))
        start, end = grid[output.step[rows]], grid[output.step[rows] + 1]
        assert torch.equal(student.calls[0]["t"][rows], start) and torch.equal(output.s[rows], end)
        share = (output.t[rows] - start) / (end - start)
        assert (share >= 0).all() and (share < 1).all() and share.max() > 0.9 and share.min() < 0.1
    # Student and estimator are told the number of steps; the teacher knows of none, and all compare at one tau.
    assert torch.equal(student.calls[0]["num_steps"], rollout.num_steps)
    assert torch.equal(estimator.calls[0]["num_steps"], rollout.num_steps)
    assert "num_steps" not in teacher.calls[0]
    assert torch.equal(teacher.calls[0]["t"], output.t) and torch.equal(estimator.calls[0]["t"], output.t)


def test_a_row_walks_its_own_grid():
    """A batch of different numbers of steps gives what each gives alone; on a flow, that is Euler's method."""
    prediction, student, noise = VelocityPrediction(grid="sway"), PerFrame(), normal(3, 5, 3)
    tdm = TDM(prediction, (1, 2, 4))
    together = tdm.rollout(student, noise, torch.tensor([1, 2, 4]))
    for row, count in enumerate((1, 2, 4)):
        alone = tdm.rollout(student, noise[row : row + 1], count)
        x, grid = noise[row : row + 1], prediction.grid(count)
        for k in range(count):
            torch.testing.assert_close(alone.states[k], x)
            torch.testing.assert_close(together.states[k, row], x[0])
            with torch.no_grad():
                x = x + (grid[k + 1] - grid[k]) * student(x, grid[k : k + 1], torch.tensor([count]))
        torch.testing.assert_close(alone.samples, x)
        torch.testing.assert_close(together.samples[row], x[0])


# Masks


def test_masked_out_frames_change_nothing():
    mask = torch.arange(6)[None] < torch.tensor([6, 3, 4, 1])[:, None]
    noise, results = normal(4, 6, 3), []
    for filling in (0.0, 1e3, float("nan")):
        student, estimator, teacher = (PerFrame(seed=seed) for seed in range(3))
        tdm = TDM(VelocityPrediction(), 4)
        rollout = tdm.rollout(student, noise)
        clean = rollout.states
        rollout.states = clean.masked_fill(~mask[None, ..., None], filling)
        losses = (
            tdm.student_loss(student, estimator, teacher, rollout, mask=mask, generator=seeded()),
            tdm.estimator_loss(estimator, rollout, mask=mask, generator=seeded()),
        )
        if filling == filling:
            sum(output.loss for output in losses).backward()
            found = [*gradients(student), *gradients(estimator)]
        results.append([*(output.row_losses for output in losses), *(output.loss.detach() for output in losses)])
        results[-1] += found
    for other in results[1:]:
        for value, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(value, expected)


def test_a_row_without_frames_has_no_loss():
    student, estimator, teacher = (PerFrame(seed=seed) for seed in range(3))
    tdm = TDM(VelocityPrediction(), 2)
    rollout = tdm.rollout(student, normal(2, 5, 3))
    mask = torch.zeros(2, 5, dtype=torch.bool)
    output = tdm.student_loss(student, estimator, teacher, rollout, mask=mask)
    output.loss.backward()
    assert output.loss == 0 and not any(gradient.any() for gradient in gradients(student))


# Other shapes, guidance, and what is refused


def test_images_with_text_and_a_guided_teacher():
    conv = nn.Conv2d(4, 4, 3, padding=1)

    def unet(x, t, num_steps=None, text=None):
        return conv(x) + text[:, :, None, None]

    null = {"text": torch.zeros(2, 4)}
    conditions, x, t = {"text": normal(2, 4)}, normal(2, 4, 8, 8), torch.zeros(2)
    expected = conv(x) + 7.5 * conditions["text"][:, :, None, None]
    teacher = guided(unet, 7.5, null)
    torch.testing.assert_close(teacher(x, t, **conditions), expected, rtol=1e-4, atol=1e-4)
    tdm = TDM(EpsilonPrediction(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"), 4)
    rollout = tdm.rollout(unet, x, conditions=conditions)
    tdm.student_loss(unet, unet, teacher, rollout, conditions).loss.backward()
    assert conv.weight.grad.isfinite().all() and conv.weight.grad.any()


@pytest.mark.parametrize("counts", [0, 5, (1, 2, 8), ()])
def test_steps_outside_one_to_four_are_refused(counts):
    with pytest.raises(ValueError, match="`step_counts` must be numbers of steps from 1 to 4, but got"):
        TDM(VelocityPrediction(), counts)
    tdm = TDM(VelocityPrediction())
    for count in (0, 5, torch.tensor([1, 5])):
        with pytest.raises(ValueError, match=r"`num_steps` must lie in \[1, 4\], but got"):
            tdm.rollout(PerFrame(), normal(2, 5, 3), count)


def test_networks_of_other_shapes_and_impossible_settings_are_refused():
    student, noise = PerFrame(), normal(2, 5, 3)
    tdm = TDM(VelocityPrediction(), 2)
    rollout = tdm.rollout(student, noise)

    def narrow(x, t, num_steps=None):
        return x[..., :2]

    with pytest.raises(ValueError, match=r"`student` must return .* \(2, 5, 3\), but got \(2, 5, 2\)"):
        tdm.rollout(narrow, noise)
    with pytest.raises(ValueError, match=r"`teacher` must return .* but got \(2, 5, 2\)"):
        tdm.student_loss(student, student, narrow, rollout)
    with pytest.raises(ValueError, match=r"`estimator` must return .* but got \(2, 5, 2\)"):
        tdm.student_loss(student, narrow, student, rollout)
    with pytest.raises(ValueError, match=r"`estimator` must return .* but got \(2, 5, 2\)"):
        tdm.estimator_loss(narrow, rollout)
    for mask in (torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 5)):
        with pytest.raises(ValueError, match=r"`mask` must be of bool .* \(2, 5, 3\), but got"):
            tdm.estimator_loss(student, rollout, mask=mask)
    with pytest.raises(ValueError, match="`weight` must be one of .* but got 'linear'"):
        TDM(VelocityPrediction(), weight="linear")
    with pytest.raises(ValueError, match="`huber_scale` must be greater than 0, but got 0"):
        TDM(VelocityPrediction(), huber_scale=0)
    with pytest.raises(ValueError, match=r"`margin` must lie in \[0, 1\), but got 1"):
        TDM(VelocityPrediction(), margin=1)


# What it leads to


@pytest.mark.slow
def test_four_steps_of_a_student_come_near_a_hundred_of_its_teacher():
    """
    Measured over all pairs of 2,000 samples each, whose own noise bounds what a sampler can reach; `excess` is free of
    it. The teacher's four steps are those of its better grid.
    """
    mixture = ring()
    tdm, student = distil(mixture, steps=900, batch_size=256)
    results = compared(mixture, tdm, student)
    ours, teacher = results["student, 4 steps"], results["teacher, 100 steps"]
    short = min((results["teacher, 4 steps"], results["teacher, 4 even steps"]), key=lambda result: result.distance)
    assert ours.distance < 1.2 * teacher.distance
    assert ours.distance < 0.5 * short.distance
    assert ours.excess < short.excess / 10
    assert ours.fewest > 0.8 * teacher.fewest

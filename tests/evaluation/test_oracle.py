"""The oracle head against Gaussian data, where the backbone's velocity and the joint posterior have closed forms."""

from types import SimpleNamespace

import pytest
import torch
from tiny import SAMPLING_RATE, voice

from dtm_hf import DTMScheduler, F5BackboneOutput
from dtm_hf.evaluation.oracle import joint_inner_velocity, oracle_head

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


# In the loop of the pipeline

TEXTS = ["what else is there to say", "a text that is longer than the other one is"]
SAID = "some words."


class GaussianBackbone(torch.nn.Module):
    """`F5Backbone` for mels whose values are independent draws of N(MEAN, STD^2), whatever the text."""

    MEAN, STD = 0.5, 1.3
    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(step_counts=None, text_alignment="uniform")

    def encode_text(self, text_ids, attention_mask, num_frames, with_null=True, durations=None):
        return SimpleNamespace()

    def forward(
        self, sample, timestep, cond, text_ids=None, attention_mask=None, branch="cond", text_embeds=None, **kwargs
    ):
        t = torch.as_tensor(timestep).reshape(-1, 1, 1)
        slope = (t * self.STD**2 - (1 - t)) / (t**2 * self.STD**2 + (1 - t) ** 2)
        return F5BackboneOutput(features=sample, velocity=self.MEAN + slope * (sample - t * self.MEAN))


def generators(count=2):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def speak(pipeline, audio, texts=TEXTS, *, generator=None, oracle=True, **kwargs):
    """Log-mels of the pipeline with the oracle for its head, or without a head."""
    kwargs = {"output_type": "mel", "generator": generator or generators(len(texts))} | kwargs
    if not oracle:
        return pipeline(texts, audio, SAID, num_head_steps=0, **kwargs).audios
    with oracle_head(pipeline.backbone) as pipeline.head:
        return pipeline(texts, audio, SAID, **kwargs).audios


def test_two_steps_keep_the_spread_of_the_data(tiny_pipeline, reference_audio):
    tiny_pipeline.backbone = GaussianBackbone()
    kwargs = {"num_inference_steps": 2, "guidance_scale": 1.0, "duration_s": 4.0}
    # The first frame is one of the prompt.
    ours = speak(tiny_pipeline, reference_audio, num_head_steps=16, **kwargs)[0][1:]
    euler = speak(tiny_pipeline, reference_audio, oracle=False, **kwargs)[0][1:]
    assert float(ours.mean()) == pytest.approx(GaussianBackbone.MEAN, abs=0.03)
    assert float(ours.std()) == pytest.approx(GaussianBackbone.STD, rel=0.02)
    assert float(euler.std()) < 0.6 * GaussianBackbone.STD


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_one_euler_call_is_plain_euler(tiny_pipeline, reference_audio, guidance_scale):
    tiny_pipeline.scheduler = DTMScheduler(num_inference_steps=3, num_head_steps=1, head_solver="euler")
    ours = speak(tiny_pipeline, reference_audio, guidance_scale=guidance_scale)
    euler = speak(tiny_pipeline, reference_audio, oracle=False, guidance_scale=guidance_scale)
    for mel, expected in zip(ours, euler, strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(mel, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_from_pure_noise_the_inner_flow_is_the_backbones_own(tiny_pipeline, reference_audio, guidance_scale):
    """
    At t=0 X_t says nothing of X_1, so W_s = Y_s + s X_0 follows dW/ds = v(W_s, s) from Y_0 to X_1: one global step
    with 2k midpoint calls is the backbone's flow with k midpoint steps, for any backbone, text and guidance. But the
    first slope is seen from X_0, not from Y_0: x + v(x, 0) is E[X_1] for any x only if v is exact.
    """
    prompts, backbone = [reference_audio, (voice(0.9, pitch=200), SAMPLING_RATE)], tiny_pipeline.backbone
    ours = speak(tiny_pipeline, prompts, num_inference_steps=1, num_head_steps=6, guidance_scale=guidance_scale)
    items = tiny_pipeline.prepare(TEXTS, prompts, SAID)
    drawing = generators()
    x_0, y_0 = (tiny_pipeline.prepare_latents(items, drawing) for _ in range(2))
    for row, (item, mel) in enumerate(zip(items, ours, strict=True)):
        prompt = len(item.reference.mel)
        cond = torch.nn.functional.pad(item.reference.mel, (0, 0, 0, item.num_frames - prompt))[None]
        text = item.token_ids[None]

        def velocity(x, s, cond=cond, text=text):
            v = backbone(x, s, cond, text).velocity
            null = backbone(x, s, cond, text, branch="null").velocity
            return v + (guidance_scale - 1) * (v - null)

        x, w = x_0[row : row + 1, : item.num_frames], y_0[row : row + 1, : item.num_frames]
        for i in range(3):
            slope = velocity(w, i / 3) if i else velocity(x, 0.0) + x - w
            w = w + velocity(w + slope / 6, (i + 0.5) / 3) / 3
        torch.testing.assert_close(mel[prompt - item.reference.num_frames :], w[0, prompt:], atol=2e-4, rtol=0)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_batch_equals_its_items(tiny_pipeline, reference_audio, guidance_scale):
    kwargs = {"num_inference_steps": 2, "num_head_steps": 4, "guidance_scale": guidance_scale}
    batch = speak(tiny_pipeline, reference_audio, **kwargs)
    assert len(batch[0]) != len(batch[1])
    for i, text in enumerate(TEXTS):
        alone = speak(tiny_pipeline, reference_audio, [text], generator=generators()[i : i + 1], **kwargs)[0]
        torch.testing.assert_close(batch[i], alone, atol=2e-4, rtol=0)


def test_it_does_not_listen_for_longer_than_its_block(tiny_pipeline):
    backbone = tiny_pipeline.backbone
    hooks = len(backbone._forward_pre_hooks)
    with pytest.raises(ZeroDivisionError), oracle_head(backbone) as head:
        assert len(backbone._forward_pre_hooks) == hooks + 1
        assert backbone not in head.modules()
        raise ZeroDivisionError
    assert len(backbone._forward_pre_hooks) == hooks


def test_without_a_call_of_the_backbone_there_is_no_answer(backbone):
    with oracle_head(backbone) as head, pytest.raises(RuntimeError, match="after a call of its backbone"):
        head(None, torch.zeros(1, 2, 100), 0.0, timestep=0.0)

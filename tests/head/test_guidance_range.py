"""A head that is told its guidance scale: one set of weights for all of them."""

import pytest
import torch
from transformers import AutoModel

from dtm_hf import DTMHead, DTMHeadConfig


@pytest.fixture
def head(make_head):
    return make_head(architecture="conv", guidance_scale=2.0, guidance_scale_range=[1.0, 3.0])


def inputs(size=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 9, width, generator=generator) for width in (64, 100, 100)]


def test_each_row_follows_its_own_scale_and_the_default_is_the_configurations(head):
    h, y, v = inputs()
    scales = torch.tensor([1.0, 2.0, 3.0])
    together = head(h, y, 0.3, timestep=0.2, velocity=v, guidance_scale=scales).velocity
    for i, scale in enumerate(scales.tolist()):
        row = slice(i, i + 1)
        alone = head(h[row], y[row], 0.3, timestep=0.2, velocity=v[row], guidance_scale=scale).velocity
        torch.testing.assert_close(together[row], alone)
    default = head(h, y, 0.3, timestep=0.2, velocity=v).velocity
    torch.testing.assert_close(default[1], together[1])
    assert (default[0] - together[0]).abs().max() > 1e-3


def test_prepared_schedules_follow_the_scale(head):
    h, y, v = inputs()
    timesteps, flow_times = torch.tensor([0.0, 0.4]), torch.tensor([0.0, 0.5])
    for scale in (None, 1.0, 2.7):
        modulations = head.prepare_schedule(timesteps, flow_times, scale)
        plain = head(h, y, 0.5, timestep=0.4, velocity=v, guidance_scale=scale).velocity
        given = {"prepared_states": head.prepare(h), "modulation": modulations[1, 1]}
        torch.testing.assert_close(head(None, y, 0.5, timestep=0.4, velocity=v, **given).velocity, plain)


def test_the_range_is_saved(head, tmp_path):
    head.save_pretrained(tmp_path)
    h, y, v = inputs()
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.config.guidance_scale_range == [1.0, 3.0]
    for scale in (1.0, 3.0):
        one, two = (m(h, y, 0.3, timestep=0.2, velocity=v, guidance_scale=scale).velocity for m in (head, loaded))
        torch.testing.assert_close(one, two, atol=0, rtol=0)


def test_a_head_without_a_range_has_no_weights_for_it(make_head):
    assert not any("guidance" in name for name, _ in make_head(guidance_scale=2.0).named_parameters())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"guidance_scale": 2.0, "guidance_scale_range": [3.0, 1.0]}, r"`guidance_scale_range`.*\[3.0, 1.0\]"),
        ({"guidance_scale": 2.0, "guidance_scale_range": [0.5, 3.0]}, r"`guidance_scale_range`.*\[0.5, 3.0\]"),
        ({"guidance_scale": 2.0, "guidance_scale_range": [1.0]}, "`guidance_scale_range`"),
        ({"guidance_scale_range": [1.0, 3.0]}, "`guidance_scale` must be the default within.*None"),
        ({"guidance_scale": 4.0, "guidance_scale_range": [1.0, 3.0]}, "`guidance_scale` must be .*4.0"),
    ],
)
def test_bad_ranges_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        DTMHead(DTMHeadConfig(**settings))

"""The mean of the data, from the unconditional branch."""

import pytest
import torch

from dtm_hf.backbone.null_mean import null_mean


def test_it_is_the_mean_of_what_the_null_branch_aims_at(tiny_pipeline):
    backbone = tiny_pipeline.backbone
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        x_0 = torch.randn(1, 64, backbone.config.mel_dim, generator=generator)
        ids = torch.arange(8)[None]
        with torch.no_grad():
            found.append(backbone(x_0, 0.0, torch.randn_like(x_0), ids, branch="null").velocity + x_0)
    expected = torch.cat(found).mean(dim=(0, 1))
    mean = null_mean(backbone, num_frames=64, num_draws=2)
    assert mean == pytest.approx(expected.tolist(), abs=1e-5)

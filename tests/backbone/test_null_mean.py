"""The mean of the data, from the unconditional branch."""

from types import SimpleNamespace

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
    # Without the quarter at either end.
    expected = torch.cat(found)[:, 16:-16].mean(dim=(0, 1))
    mean = null_mean(backbone, num_frames=64, num_draws=2)
    assert mean["mean"] == pytest.approx(expected.tolist(), abs=1e-4)
    assert [len(mean[name]) for name in ("edge", "first", "last")] == [100, 16, 16]


class Knows:
    """A null branch that is right: it aims at `by_frame` `(N, M)`, whatever the noise is."""

    config = SimpleNamespace(mel_dim=3, text_alignment="uniform")
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, by_frame):
        self.by_frame = by_frame

    def encode_text(self, *_):
        return None

    def __call__(self, x, *_, text_embeds):
        return SimpleNamespace(velocity=self.by_frame - x)


def test_it_knows_how_speech_begins_and_ends():
    first, last = torch.tensor([1.0, 0.4, -0.1]), torch.tensor([0.8, 0.3])
    inner, silence = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([-3.0, -2.0, -4.0])
    shares = torch.zeros(128)
    shares[:3], shares[-2:] = first, last.flip(0)
    mean = null_mean(Knows(inner + shares[:, None] * (silence - inner)), num_frames=128, num_draws=1)
    assert mean["mean"] == pytest.approx(inner.tolist(), abs=1e-4)
    assert mean["edge"] == pytest.approx(silence.tolist(), abs=1e-3)
    assert mean["first"][:4] == pytest.approx([*first.tolist(), 0.0], abs=1e-3)
    assert mean["last"][:3] == pytest.approx([*last.tolist(), 0.0], abs=1e-3)

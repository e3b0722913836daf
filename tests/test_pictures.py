"""Pictures of mels: read back, and compared with what was drawn."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from dtm_hf.pictures import save_mel_picture


def test_a_tone_is_drawn_at_its_height_and_time(tmp_path):
    mel = torch.full((200, 100), -10.0)
    mel[100:, 80:] = 2.0
    path = tmp_path / "new" / "mel.png"
    save_mel_picture(mel, path, titles=r"No formula: $\frac$")
    pixels = imread(path)[..., :3]
    bright = (pixels - np.array([252, 253, 191]) / 255).__abs__().max(-1) < 0.02
    # The colour bar at the right ends in the same colour.
    rows, columns = np.nonzero(bright[:, : int(0.8 * pixels.shape[1])])
    assert rows.max() < pixels.shape[0] / 2
    assert columns.min() > 0.4 * pixels.shape[1]
    assert [file.name for file in path.parent.iterdir()] == ["mel.png"]


def test_several_mels_share_a_picture(tmp_path):
    save_mel_picture(np.zeros((50, 100)), tmp_path / "one.png")
    save_mel_picture([np.zeros((50, 100)), torch.zeros(80, 100)], tmp_path / "two.png", titles=["true", "spoken"])
    assert imread(tmp_path / "two.png").shape[0] > 1.5 * imread(tmp_path / "one.png").shape[0]


@pytest.mark.parametrize(
    ("mels", "titles", "named"),
    [([], None, "`mels`"), (np.zeros((0, 100)), None, "`mels`"), (np.zeros((5, 100)), ["a", "b"], "`titles`")],
)
def test_what_cannot_be_drawn_is_refused_and_leaves_nothing(mels, titles, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        save_mel_picture(mels, tmp_path / "mel.png", titles=titles)
    assert list(tmp_path.iterdir()) == []

"""Pictures of mel spectrograms, for the command line and for training logs."""

import os
from collections.abc import Sequence
from typing import Any

from dtm_hf.files import written_aside


def save_mel_picture(
    mels: Any,
    path: str | os.PathLike,
    *,
    titles: str | Sequence[str] | None = None,
    sampling_rate: int = 24000,
    hop_length: int = 256,
) -> None:
    """
    Draw log-mels as a PNG, one below the other, with a shared colour scale and time axis.

    Args:
        mels (`torch.Tensor` or `np.ndarray` of shape `[N, M]`, or a list of them):
            Natural logarithm of mel magnitudes.
        path (`str` or `os.PathLike`):
            The PNG; replaced if it exists, and never left half-written.
        titles (`str` or a list with one a mel, *optional*):
            What stands above each.
        sampling_rate (`int`, defaults to 24000):
            Samples a second, in Hz.
        hop_length (`int`, defaults to 256):
            Samples between frames.

    Raises:
        ValueError: if there is no mel, a mel is not `[N, M]` with at least one frame, or the titles are not as many.
        OSError: if `path` cannot be written.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [mels] if getattr(mels, "ndim", None) == 2 else list(mels)
    rows = [np.asarray(mel.detach().float().cpu() if hasattr(mel, "detach") else mel) for mel in rows]
    if not rows or any(mel.ndim != 2 or mel.size == 0 for mel in rows):
        raise ValueError(f"`mels` must be of shape [N, M], but got {[list(mel.shape) for mel in rows]}.")
    titles = [titles] if isinstance(titles, str) else titles
    if titles is not None and len(titles) != len(rows):
        raise ValueError(f"`titles` must be {len(rows)}, one a mel, but got {len(titles)}.")

    seconds = [len(mel) * hop_length / sampling_rate for mel in rows]
    # The object interface: pyplot would keep global state, and may look for a display.
    figure = Figure(
        figsize=(min(max(4.0 + 1.5 * max(seconds), 6.0), 20.0), 0.6 + 2.6 * len(rows)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    low, high = min(float(mel.min()) for mel in rows), max(float(mel.max()) for mel in rows)
    all_axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True)[:, 0]
    for index, (axes, mel, length) in enumerate(zip(all_axes, rows, seconds, strict=True)):
        image = axes.imshow(
            mel.T,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(0.0, length, 0.0, mel.shape[1]),
            vmin=low,
            vmax=high,
            cmap="magma",
        )
        axes.set_ylabel("mel bin")
        if titles is not None:
            # A text may hold dollar signs, which would start a formula.
            axes.set_title(_shortened(titles[index]), fontsize="medium", parse_math=False)
    all_axes[-1].set_xlim(0.0, max(seconds))
    all_axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=all_axes.tolist(), label="log magnitude")
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)


def _shortened(title: str, most: int = 90) -> str:
    return title if len(title) <= most else title[: most - 1] + "…"

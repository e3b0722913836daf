"""When the tokens of a recording are said, and how long those of a new text are to last, in numpy on graphs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dtm_hf.frontend.monotonic import log_prior, monotonic_durations
from dtm_hf.runtime.manifest import RunGraph
from dtm_hf.runtime.noise import NoiseGenerator

# As in token_durations.py.
_STEPS = 8


class Aligner:
    """
    A [`TextAligner`].

    Args:
        config (`dict`): of the aligner that the graph was made of.
        graphs (`dict[str, Callable]`): `aligner`.
    """

    def __init__(self, config: Mapping[str, Any], graphs: Mapping[str, RunGraph]):
        self.config, self.graphs = config, graphs

    def align(self, mel: np.ndarray, text_ids: np.ndarray) -> np.ndarray:
        """Frames `(L,)` that each token takes of a mel `(N, M)`; ids `(L,)` without padding."""
        log_weights = self.graphs["aligner"](
            mel=mel[None].astype(np.float32),
            mel_mask=np.ones((1, len(mel)), dtype=bool),
            text_ids=text_ids[None].astype(np.int64),
        )["log_weights"]
        scores = log_weights + log_prior(len(mel), len(text_ids))
        return monotonic_durations(scores, np.array([len(mel)]), np.array([len(text_ids)]))[0]


class Durations:
    """
    A [`TokenDurations`].

    Args:
        config (`dict`): of the network that the graph was made of.
        graphs (`dict[str, Callable]`): `durations`.
    """

    def __init__(self, config: Mapping[str, Any], graphs: Mapping[str, RunGraph]):
        self.config, self.graphs = config, graphs

    def mean(self, text_ids: np.ndarray) -> np.ndarray:
        """Geometric means of the durations of tokens `(L,)`, which no noise enters, in frames."""
        return self.walk(np.zeros(len(text_ids), dtype=np.float32), text_ids, np.zeros_like(text_ids), 1)

    def sample(self, text_ids: np.ndarray, known_frames: np.ndarray, generator: NoiseGenerator) -> np.ndarray:
        """Durations `(L,)` of tokens `(L,)` in frames, not rounded; those that are known, above 0, as they came."""
        noise = generator.normal(1, len(text_ids))[0] * np.float32(self.config.get("noise_scale", 1.0))
        return self.walk(noise, text_ids, known_frames, _STEPS)

    def walk(self, x_t: np.ndarray, text_ids: np.ndarray, known_frames: np.ndarray, steps: int) -> np.ndarray:
        """[`TokenDurations`]'s own walk, for one row without padding."""
        mean, std = np.float32(self.config["log_mean"]), np.float32(self.config["log_std"])
        known_mask = known_frames > 0
        known = (np.log(np.maximum(known_frames, 1).astype(np.float32)) - mean) / std
        for step in range(steps):
            velocity = self.graphs["durations"](
                sample=x_t[None],
                timestep=np.float32([step / steps]),
                text_ids=text_ids[None].astype(np.int64),
                known=known[None],
                known_mask=known_mask[None],
            )["velocity"]
            x_t = x_t + velocity[0] / np.float32(steps)
        return np.where(known_mask, known_frames.astype(np.float32), np.exp(x_t * std + mean))


class TokenTiming:
    """
    [`~dtm_hf.pipelines.timing.TokenTiming`]: each token has a length of its own, drawn in the pace of the recording.

    Args:
        ids (`Callable`): a text to its token ids.
        aligner ([`Aligner`]), durations ([`Durations`]): the networks.
    """

    def __init__(self, ids: Callable[[str], list[int]], aligner: Aligner, durations: Durations):
        self.ids = lambda text: np.array(ids(text), dtype=np.int64)
        self.aligner, self.durations = aligner, durations

    def measure(self, text: str) -> float:
        """Frames that a text takes on average, where long text is cut."""
        return float(self.durations.mean(self.ids(text)).sum())

    def align(self, mel: np.ndarray, text: str) -> np.ndarray:
        """Frames of each token of a recording's text `(L,)`, for a mel `(N, M)`."""
        return self.aligner.align(mel, self.ids(text))

    def last(self, text, reference_text, reference_frames, reference_durations, frames, least, speed, generator):
        """See [`~dtm_hf.pipelines.proportional_timing.Timing.last`]; `generator` is a [`NoiseGenerator`]."""
        text_ids, first = self.ids(reference_text + text), len(reference_durations)
        known = np.zeros_like(text_ids)
        known[:first] = reference_durations
        drawn = self.durations.sample(text_ids, known, generator)[first:]
        said = whole_frames(drawn / np.float32(speed), frames)
        if said.sum() < least:
            said = whole_frames(drawn, least)
        return int(said.sum()), np.concatenate([reference_durations, said])


def whole_frames(durations: np.ndarray, total: int | None = None) -> np.ndarray:
    """Durations `(L,)` rounded to add up to `total`: `dtm_hf.frontend.token_durations.whole_frames`."""
    ends = durations.astype(np.float64).cumsum()
    total = max(round(float(ends[-1])), 1) if total is None else total
    ends = np.round(ends * (total / ends[-1])).astype(np.int64)
    return np.diff(ends, prepend=0)

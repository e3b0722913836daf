"""Algorithm 4 of Transition Matching in numpy: the loop of dtm_hf/pipelines/sampler.py on ported networks."""

from collections.abc import Callable, Sequence

import numpy as np

from dtm_hf.pipelines.guidance import Guidance
from dtm_hf.pipelines.rows import SpeechRow
from dtm_hf.runtime.networks import Backbone, Head
from dtm_hf.runtime.schedule import Schedule


def pad_rows(arrays: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Arrays `(N_i, ...)`, zeros behind their ends, as `(B, length, ...)`."""
    padded = np.zeros((len(arrays), length, *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def sample(
    backbone: Backbone,
    head: Head | None,
    schedule: Schedule,
    rows: Sequence[SpeechRow],
    guidance: Guidance,
    draw: Callable[[], np.ndarray],
) -> np.ndarray:
    """
    From noise X_0 to speech X_1.

    Args:
        backbone ([`Backbone`]), head ([`Head`], *optional*): the networks.
        schedule ([`Schedule`]): its times.
        rows (`list` of [`SpeechRow`]): of the batch.
        guidance ([`Guidance`]): of the call.
        draw (`Callable`): standard normal noise `(B, N, M)`: X_0, then Y_0 of each step.

    Returns:
        `np.ndarray` of shape `(B, N, M)`: the log-mels, prompts included.
    """
    lengths = [row.num_frames for row in rows]
    num_frames = max(lengths)
    cond = pad_rows([row.reference.mel for row in rows], num_frames)
    mask = None
    if min(lengths) < num_frames:
        mask = np.arange(num_frames)[None] < np.array(lengths)[:, None]
    times, with_head = schedule.timesteps.tolist(), len(schedule.flow_times) > 0
    text = backbone.encode_text(
        [row.token_ids for row in rows],
        lengths,
        num_frames,
        any(guidance.branch(t) == "both" for t in times),
        None if rows[0].durations is None else [row.durations for row in rows],
    )
    x_t = draw()
    reads = {}
    if with_head:
        if head.config["prediction"] == "guidance":
            reads = {"residual_layers": head.config["residual_layers"]}
        modulations = head.prepare_schedule(schedule.timesteps, schedule.flow_times, guidance.head_scale)
    for i, t in enumerate(times):
        branch = guidance.branch(t)
        output = backbone(x_t, t, cond, text, mask, branch, len(times), **reads)
        y = output.velocity
        if with_head and guidance.runs_head(t):
            guide = guidance if branch == "both" else None
            features = output.joined(x_t) if reads else output.features
            y = sample_displacement(head, schedule, features, y, modulations[i], guide, mask, draw())
        else:
            y = guidance.velocity(y, x_t, t, mask)
        x_t = x_t + (schedule.grid[i + 1] - schedule.grid[i]) * y
    return x_t


def sample_displacement(
    head: Head,
    schedule: Schedule,
    features: np.ndarray,
    velocity: np.ndarray,
    modulations: np.ndarray,
    guidance: Guidance | None,
    attention_mask: np.ndarray | None,
    y: np.ndarray,
) -> np.ndarray:
    """The inner flow: Y_0 ~ N(0, I) to Y. With guidance, features and velocity hold both branches."""
    states = head.prepare(features)
    if guidance is not None and attention_mask is not None:
        attention_mask = np.concatenate([attention_mask, attention_mask])

    def g(y_s: np.ndarray, call: int) -> np.ndarray:
        both = y_s if guidance is None else np.concatenate([y_s, y_s])
        s = float(schedule.flow_times[call])
        answer = head(states, both, s, velocity, modulations[call], attention_mask)
        return answer if guidance is None else guidance.combine(answer)

    return schedule.integrate(g, y)

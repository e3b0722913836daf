"""How near an arm is to the recording after each of its steps."""

from typing import TYPE_CHECKING

import numpy as np

from dtm_hf.evaluation.arms import Arm
from dtm_hf.evaluation.foreign_arms import ForeignArm
from dtm_hf.evaluation.metric import BenchmarkItem, Metric, Speech

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

# Arms whose displacement of a step is the difference of two states.
KINDS = ("euler", "uniform", "epss", "dtm", "oracle", "student")


def step_errors(
    pipe: "DTMPipeline",
    arms: list[Arm | ForeignArm],
    items: list[BenchmarkItem],
    sampling_rate: int,
    distance: Metric,
    student: "DTMPipeline | None" = None,
) -> dict[str, dict[str, list[float]]]:
    """
    Mel distance to the recording of where each step points: X_t + (1 - t) Y, which is X_1 if nothing changes any more.

    Args:
        items (`list[BenchmarkItem]`): With recordings; one at a time, seed 0.
        distance (`Metric`): Judges the log-mel.
        student ([`DTMPipeline`], *optional*): Runs the arms of a student.

    Returns:
        `{arm: {"times": [...], "distances": [...]}}`, one entry a step; arms of other kinds than `KINDS` are left out.
    """
    results = {}
    for arm in arms:
        if arm.kind not in KINDS:
            continue
        recorded = [item for item in items if item.recording is not None]
        rows = [_distances(pipe, arm, item, sampling_rate, distance, student) for item in recorded]
        if rows:
            results[arm.name] = {"times": rows[0][0], "distances": np.mean([row[1] for row in rows], axis=0).tolist()}
    return results


def _distances(
    pipe: "DTMPipeline",
    arm: Arm,
    item: BenchmarkItem,
    sampling_rate: int,
    distance: Metric,
    student: "DTMPipeline | None",
) -> tuple[list[float], list[float]]:
    import torch

    from dtm_hf.evaluation.samplers import run_arm, starts

    times, states = [], []

    def keep(pipe, step, timestep, tensors):
        times.append(float(timestep))
        states.append(tensors["latents"][0].float().cpu())
        return tensors

    mel = run_arm(pipe, arm, [item], sampling_rate, [0], "mel", callback=keep, student=student).audios[0]
    # The loop does not hand out X_0.
    states = [starts(pipe, [item], sampling_rate, [0])[1][0].cpu(), *states]
    ends, found = [*times[1:], 1.0], []
    for start, end, before, after in zip(times, ends, states, states[1:], strict=False):
        estimate = before + (1 - start) * (after - before) / (end - start)
        # What stands before the target is the prompt, whose last frame is the target's first.
        target = torch.cat([mel[:1].float().cpu(), estimate[len(estimate) - len(mel) + 1 :]])
        said = Speech(np.zeros(0, dtype=np.float32), sampling_rate, target.numpy())
        numerator, denominator = distance(said, item)
        found.append(numerator / denominator)
    return times, found

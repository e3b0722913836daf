"""Seconds of each arm, warm, in turns; the median of several."""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING

from dtm_hf.evaluation.arms import Arm
from dtm_hf.evaluation.foreign_arms import ForeignArm
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.systems import DTMSystem, ForeignSystem, System, system_of

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

_VOCODER = "vocoder"


def time_arms(
    pipe: "DTMPipeline",
    arms: list[Arm | ForeignArm],
    items: list[BenchmarkItem],
    sampling_rate: int,
    batch_sizes: tuple[int, ...] = (1, 8),
    repeats: int = 5,
    advance: Callable[[int], None] = lambda count: None,
    student: "DTMPipeline | None" = None,
    others: Sequence[ForeignSystem] = (),
) -> dict[str, dict[str, dict[str, float]]]:
    """
    Seconds of sampling a batch, from the text and the recording to the log-mel, and of the vocoder behind it.

    Args:
        items (`list[BenchmarkItem]`): A batch is the first of them, repeated where there are too few.
        repeats (`int`, defaults to 5): Counted runs of each arm, one of all arms after the other; one run of each
            before them is not counted.
        student ([`DTMPipeline`], *optional*): Runs the arms of a student.
        others (sequence of [`ForeignSystem`], *optional*): Run the arms of their kinds, each with its own vocoder.

    Returns:
        `{arm: {batch size: {"seconds", "fastest", "slowest", "audio_seconds", "real_time_factor"}}}`, the batch size
        as a string, as JSON has it. The real time factor counts the vocoder in. What the vocoder takes is the arm
        `"vocoder"`.
    """
    own = DTMSystem(pipe, student)
    taken: dict[tuple[str, int], list[float]] = {}
    heard: dict[tuple[str, int], list[float]] = {}
    audio_seconds: dict[tuple[str, int], float] = {}
    for batch_size in batch_sizes:
        batch = [items[i % len(items)] for i in range(batch_size)]
        seeds = list(range(batch_size))
        for repeat in range(repeats + 1):
            said: dict[str, tuple[System, list]] = {}
            for arm in arms:
                system = system_of(arm, own, others)
                began = _now(pipe)
                kept = [entry.kept for entry in system.say(arm, batch, sampling_rate, seeds)]
                seconds = _now(pipe) - began
                advance(1)
                if repeat:
                    taken.setdefault((arm.name, batch_size), []).append(seconds)
                said[_sound(arm)] = system, kept
            for name, (system, kept) in said.items():
                began = _now(pipe)
                speeches = system.hear(kept)
                if repeat:
                    heard.setdefault((name, batch_size), []).append(_now(pipe) - began)
                lengths = (len(speech.waveform) / speech.sampling_rate for speech in speeches)
                audio_seconds[name, batch_size] = sum(lengths)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for arm, batch_size in product(arms, batch_sizes if repeats else ()):
        sound = _sound(arm), batch_size
        spent = _figures(taken[arm.name, batch_size], audio_seconds[sound], statistics.median(heard[sound]))
        results.setdefault(arm.name, {})[str(batch_size)] = spent
    for (name, batch_size), seconds in heard.items():
        if name == _VOCODER:
            results.setdefault(name, {})[str(batch_size)] = _figures(seconds, audio_seconds[name, batch_size], 0.0)
    return results


def _sound(arm: Arm | ForeignArm) -> str:
    """Whose time it takes to hear an arm: all of DTM are of one length, and heard through one vocoder."""
    return _VOCODER if isinstance(arm, Arm) else arm.name


def _figures(seconds: list[float], spoken: float, heard: float) -> dict[str, float]:
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "fastest": min(seconds),
        "slowest": max(seconds),
        "audio_seconds": spoken,
        "real_time_factor": (median + heard) / spoken,
    }


def _now(pipe: "DTMPipeline") -> float:
    """The clock, once the device has done what it was asked to do."""
    import torch

    device = pipe._execution_device
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return time.perf_counter()

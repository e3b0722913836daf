"""Seconds of each arm, warm, in turns; the median of several."""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dtm_hf.evaluation.arms import Arm
from dtm_hf.evaluation.benchmark import vocode
from dtm_hf.evaluation.metric import BenchmarkItem

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline


def time_arms(
    pipe: "DTMPipeline",
    arms: list[Arm],
    items: list[BenchmarkItem],
    sampling_rate: int,
    batch_sizes: tuple[int, ...] = (1, 8),
    repeats: int = 5,
    advance: Callable[[int], None] = lambda count: None,
    student: "DTMPipeline | None" = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """
    Seconds of sampling a batch, from the text and the recording to the log-mel, and of the vocoder behind it.

    Args:
        items (`list[BenchmarkItem]`): A batch is the first of them, repeated where there are too few.
        repeats (`int`, defaults to 5): Counted runs of each arm, one of all arms after the other; one run of each
            before them is not counted.
        student ([`DTMPipeline`], *optional*): Runs the arms of a student.

    Returns:
        `{arm: {batch size: {"seconds", "fastest", "slowest", "audio_seconds", "real_time_factor"}}}`, the batch size
        as a string, as JSON has it. The real time factor counts the vocoder in. What the vocoder takes is the arm
        `"vocoder"`.
    """
    from dtm_hf.evaluation.samplers import run_arm

    taken: dict[tuple[str, int], list[float]] = {}
    audio_seconds: dict[int, float] = {}
    for batch_size in batch_sizes:
        batch = [items[i % len(items)] for i in range(batch_size)]
        seeds = list(range(batch_size))
        for repeat in range(repeats + 1):
            for arm in arms:
                began = _now(pipe)
                mels = run_arm(pipe, arm, batch, sampling_rate, seeds, "mel", student=student).audios
                seconds = _now(pipe) - began
                advance(1)
                if repeat:
                    taken.setdefault((arm.name, batch_size), []).append(seconds)
            began = _now(pipe)
            vocode(pipe, mels)
            if repeat:
                taken.setdefault(("vocoder", batch_size), []).append(_now(pipe) - began)
        hop, rate = pipe.feature_extractor.hop_length, pipe.feature_extractor.sampling_rate
        audio_seconds[batch_size] = sum((len(mel) - 1) * hop / rate for mel in mels)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for (name, batch_size), seconds in taken.items():
        median, spoken = statistics.median(seconds), audio_seconds[batch_size]
        whole = median + (0.0 if name == "vocoder" else statistics.median(taken["vocoder", batch_size]))
        results.setdefault(name, {})[str(batch_size)] = {
            "seconds": median,
            "fastest": min(seconds),
            "slowest": max(seconds),
            "audio_seconds": spoken,
            "real_time_factor": whole / spoken,
        }
    return results


def _now(pipe: "DTMPipeline") -> float:
    """The clock, once the device has done what it was asked to do."""
    import torch

    device = pipe._execution_device
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return time.perf_counter()

"""Every arm of a benchmark through the one loop of `DTMPipeline`, with another scheduler or head mounted in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dtm_hf.backbone.null_mean import null_mean
from dtm_hf.evaluation.arms import Arm
from dtm_hf.evaluation.controls import Callback, noisy_end, one_after_the_other, renoise
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.oracle import oracle_head
from dtm_hf.evaluation.schedulers import AdamsBashforthScheduler, DPMSolverScheduler, MidpointScheduler
from dtm_hf.mean_mel import MeanMel
from dtm_hf.pipelines.guidance import Guidance
from dtm_hf.pipelines.pipeline_dtm import DTMPipeline, DTMPipelineOutput
from dtm_hf.pipelines.rows import SpeechRow
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler

_MEANS: dict[str, tuple[float, ...]] = {}
_ONE_BATCH = 2**31
_SOLVERS = {"midpoint": MidpointScheduler, "ab2": AdamsBashforthScheduler, "dpmpp": DPMSolverScheduler}


def run_arm(
    pipe: DTMPipeline,
    arm: Arm,
    items: list[BenchmarkItem],
    sampling_rate: int,
    seeds: list[int],
    output_type: str = "np",
    callback: Callback | None = None,
    student: DTMPipeline | None = None,
) -> DTMPipelineOutput:
    """
    Speak the items as one batch; the pipeline is afterwards as it was.

    An item and its seed decide what is said, whatever else is in the batch; all arms of a seed start from the same
    X_0, and their durations are the same. The noise of a control comes from a generator of its own.

    Args:
        pipe ([`DTMPipeline`]): With a head where the arm needs one.
        arm ([`Arm`]): How to sample.
        items (`list[BenchmarkItem]`): What to say.
        sampling_rate (`int`): Of the items' recordings, in Hz.
        seeds (`list[int]`): Of the noise of each item; not negative.
        output_type (`str`, defaults to `"np"`): `"np"`, `"pt"` or `"mel"`, as in [`DTMPipeline`].
        callback (`Callable`, *optional*): The pipeline's `callback_on_step_end`.
        student ([`DTMPipeline`], *optional*): Runs the arms of a student.

    Raises:
        ValueError: if there is not one seed an item, or the pipeline cannot run the arm ([`mounted`]).
    """
    if len(seeds) != len(items):
        raise ValueError(f"`seeds` must have one entry for each of {len(items)} items, but got {len(seeds)}.")
    latents = control = None
    if arm.kind in ("renoise", "noise"):
        # What the loop is about to cut and measure: its noise has the rows' own lengths, as X_0 has.
        rows, latents = starts(pipe, items, sampling_rate, seeds)
        own = [_generator(int(np.random.SeedSequence((seed, 1)).generate_state(1, np.uint64)[0])) for seed in seeds]
        control = _control(pipe.scheduler, arm, latents, lambda: pipe.prepare_latents(rows, own))
    with mounted(pipe, arm, student) as mounted_pipe:
        return mounted_pipe(
            *_said(items, sampling_rate),
            num_inference_steps=arm.num_inference_steps,
            num_head_steps=arm.num_head_steps,
            guidance_scale=_guidance(pipe, arm),
            guidance_end=arm.guidance_end,
            duration_s=[item.duration_s for item in items],
            generator=[_generator(seed) for seed in seeds],
            latents=latents,
            output_type=output_type,
            callback_on_step_end=one_after_the_other(control, callback),
            # A control's noise is that of all rows, and arms are compared to the bit.
            max_batch_frames=_ONE_BATCH,
        )


def starts(
    pipe: DTMPipeline, items: list[BenchmarkItem], sampling_rate: int, seeds: list[int]
) -> tuple[list[SpeechRow], torch.Tensor]:
    """The rows that a call of [`run_arm`] cuts, and the X_0 `(B, N, M)` that its walk begins at."""
    # A call draws the lengths first, where they are drawn, and X_0 after them.
    generators = [_generator(seed) for seed in seeds]
    durations = [item.duration_s for item in items]
    rows = pipe.prepare(*_said(items, sampling_rate), duration_s=durations, generator=generators)
    return rows, pipe.prepare_latents(rows, generators)


def _said(items: list[BenchmarkItem], sampling_rate: int) -> tuple[list[str], list[Any], list[str]]:
    recordings = [
        item.reference_audio if isinstance(item.reference_audio, str) else (item.reference_audio, sampling_rate)
        for item in items
    ]
    return [item.text for item in items], recordings, [item.reference_text for item in items]


@contextmanager
def mounted(pipe: DTMPipeline, arm: Arm, student: DTMPipeline | None = None) -> Iterator[DTMPipeline]:
    """
    The pipeline with the scheduler and the head of an arm; the former ones come back when the block ends.

    `"dtm"`, `"oracle"` and `"student"` keep the grid and the solver of the pipeline's scheduler: a head and a student
    are trained for them.

    Args:
        pipe ([`DTMPipeline`]): Changed while the block lasts.
        arm ([`Arm`]): How to sample.
        student ([`DTMPipeline`], *optional*): With a distilled student; what a `"student"` arm gets.

    Raises:
        ValueError: for a `"dtm"` arm without a head, or with another guidance scale than the one baked into it; for
            head calls that the scheduler's solver cannot take; for a `"student"` arm without a student that serves its
            number of steps.
    """
    if arm.needs_student:
        pipe = _student_for(arm, student)
    _guidance_scale(pipe, arm)
    scheduler, head = pipe.scheduler, pipe.head
    swapped = _scheduler(scheduler, arm)
    try:
        pipe.scheduler = swapped
        if arm.kind == "oracle":
            with oracle_head(pipe.backbone) as oracle:
                pipe.head = oracle
                yield pipe
        else:
            yield pipe
    finally:
        pipe.scheduler, pipe.head = scheduler, head


def _scheduler(present: DTMScheduler, arm: Arm) -> DTMScheduler:
    steps = {"num_inference_steps": arm.num_inference_steps, "num_head_steps": arm.num_head_steps}
    if arm.kind in ("dtm", "oracle", "student"):
        return DTMScheduler.from_config(present.config, **steps)
    if arm.kind in _SOLVERS:
        return _SOLVERS[arm.kind](**steps)
    return DTMScheduler(time_grid=arm.time_grid, **steps)


def _control(present: DTMScheduler, arm: Arm, x_0: torch.Tensor, draw: Callable[[], torch.Tensor]) -> Callback:
    if arm.kind == "noise":
        return noisy_end(arm.parameter, arm.num_inference_steps, draw)
    return renoise(arm.parameter, [*_scheduler(present, arm).timesteps.tolist(), 1.0], x_0, draw)


def _student_for(arm: Arm, student: DTMPipeline | None) -> DTMPipeline:
    if student is None:
        raise ValueError(f"`arms` holds {arm.name!r}, but there is no student; name one, or leave it out.")
    served = student.backbone.config.step_counts
    if served is None or arm.num_inference_steps not in served:
        raise ValueError(f"`arms` holds {arm.name!r}, but the student serves {served} steps.")
    return student


def _guidance(pipe: DTMPipeline, arm: Arm) -> float | Guidance | None:
    """What an arm passes as the guidance of a call; without head or student a rule, whatever the pipeline's own is."""
    scale = _guidance_scale(pipe, arm)
    if arm.needs_head or arm.needs_student:
        return scale
    return arm.guidance(scale, _mean(pipe) if arm.kind == "analytic" else None)


def _mean(pipe: DTMPipeline) -> MeanMel:
    """The pipeline's mean log-mel, or that of its backbone, read off once."""
    if pipe.config.mean_mel is not None:
        return MeanMel.of(pipe.config.mean_mel)
    fingerprint = pipe.backbone.fingerprint
    if fingerprint not in _MEANS:
        _MEANS[fingerprint] = MeanMel.of(null_mean(pipe.backbone))
    return _MEANS[fingerprint]


def _guidance_scale(pipe: DTMPipeline, arm: Arm) -> float | None:
    """
    The guidance scale that an arm runs at in a pipeline, refused where the two do not go together.

    A head with guidance baked in follows its own scale unless the arm names one that it can follow.
    """
    if arm.needs_student:
        return None
    if not arm.needs_head:
        return arm.guidance_scale
    if pipe.head is None:
        raise ValueError(f"`arms` holds {arm.name!r}, but the pipeline has no head; it can run arms without one.")
    baked = pipe.head.config.guidance_scale
    if baked is None:
        return arm.guidance_scale
    if not arm.sets_guidance:
        return baked
    low, high = pipe.head.config.guidance_scale_range or (baked, baked)
    if not low <= arm.guidance_scale <= high:
        scales = f"the guidance scale {baked}" if low == high else f"guidance scales from {low} to {high}"
        raise ValueError(
            f"`arms` holds {arm.name!r}, but the head has {scales} baked in; leave out the @{arm.guidance_scale:g}."
        )
    return arm.guidance_scale


def _generator(seed: int) -> torch.Generator:
    # On the CPU: the noise is then the same on every machine.
    return torch.Generator().manual_seed(seed)


__all__ = ["mounted", "run_arm", "starts"]

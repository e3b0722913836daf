"""
What each choice of sampling with a head is worth: one change at a time, the same sentences and the same noise.

    python benchmarks/ablations.py MODEL SET [--steps 4] [--limit 48] [--split validation] [-o ablations.md]

The first row is the pipeline as it is, with two head calls a step; each other row changes one thing. Differences are
paired over sentences. The training's own choices are compared by training a head each and benchmarking it.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dtm_hf import DTMPipeline, DTMScheduler
from dtm_hf.evaluation.metric import Speech
from dtm_hf.evaluation.metrics import make_metrics
from dtm_hf.evaluation.schedulers import RenoiseScheduler
from dtm_hf.evaluation.sets import load_set
from dtm_hf.evaluation.statistics import paired_difference, ratio
from dtm_hf.evaluation.summary import badness

METRICS = "wer,mel,mos,pitch,difference"


class MeanOnLastStep(nn.Module):
    """A head that gives the mean of Y, its answer at s=0, where a step has no successor to mend its jitter."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head, self.config = head, head.config
        self.prepare = head.prepare
        self.device, self.dtype = head.device, head.dtype

    def prepare_schedule(self, timesteps, flow_times, guidance_scale=None):
        self.last = float(timesteps[-1])
        return self.head.prepare_schedule(timesteps, flow_times, guidance_scale)

    def forward(self, hidden_states, flow_state, flow_time, *, timestep, **kwargs):
        output = self.head(hidden_states, flow_state, flow_time, timestep=timestep, **kwargs)
        if float(timestep) == self.last:
            if float(flow_time) == 0:
                self.mean = output.displacement
            remainder = max(1 - float(flow_time), self.config.min_flow_remainder)
            output.velocity = (self.mean - flow_state) / remainder
        return output


class PowerScheduler(DTMScheduler):
    """Global times (i / T)^p."""

    def __init__(self, power: float, **config):
        self.power = power
        super().__init__(**config)

    def set_timesteps(self, num_inference_steps=None, num_head_steps=None, device=None):
        super().set_timesteps(num_inference_steps, num_head_steps, device)
        self._grid = torch.linspace(0, 1, self.num_inference_steps + 1, device=device) ** self.power
        self.timesteps, self._deltas = self._grid[:-1], self._grid.diff().tolist()


def variants(pipe, steps: int) -> dict[str, Callable]:
    """Name -> context manager that changes the pipeline; each starts from midpoint with two calls."""
    base = {"num_inference_steps": steps, "num_head_steps": 2}

    @contextmanager
    def scheduled(scheduler) -> Iterator[None]:
        present, pipe.scheduler = pipe.scheduler, scheduler
        try:
            yield
        finally:
            pipe.scheduler = present

    @contextmanager
    def mean_on_last_step() -> Iterator[None]:
        head = pipe.head
        with scheduled(DTMScheduler(**base)):
            pipe.head = MeanOnLastStep(head)
            try:
                yield
            finally:
                pipe.head = head

    @contextmanager
    def temperature(tau: float) -> Iterator[None]:
        sample = pipe._sample_displacement
        pipe._sample_displacement = lambda *arguments: sample(*arguments[:-1], tau * arguments[-1])
        try:
            with scheduled(DTMScheduler(**base)):
                yield
        finally:
            del pipe._sample_displacement

    @contextmanager
    def renoised(jump: float) -> Iterator[None]:
        shape, generator = [], torch.Generator().manual_seed(1)
        handle = pipe.backbone.register_forward_pre_hook(lambda module, inputs: shape.append(inputs[0].shape))
        try:
            with scheduled(RenoiseScheduler(lambda: torch.randn(shape[-1], generator=generator), jump, **base)):
                yield
        finally:
            handle.remove()

    def with_scheduler(**changes):
        return lambda: scheduled(DTMScheduler(**base | changes))

    found = {"midpoint, 2 calls": with_scheduler()}
    found["no head: the backbone's mean, guidance 3"] = with_scheduler(num_head_steps=0)
    found["euler, 1 call: the head's mean"] = with_scheduler(head_solver="euler", num_head_steps=1)
    for solver, calls in (("euler", 2), ("euler", 4), ("midpoint", 4), ("midpoint", 8), ("heun", 2), ("heun", 4)):
        found[f"{solver}, {calls} calls"] = with_scheduler(head_solver=solver, num_head_steps=calls)
    found["mean on the last step"] = mean_on_last_step
    for tau in (0.8, 0.9, 1.1):
        found[f"Y_0 at {tau} of its spread"] = lambda tau=tau: temperature(tau)
    for jump in (0.1, 0.25):
        found[f"renoise, c = {jump}"] = lambda jump=jump: renoised(jump)
    found["uniform grid"] = with_scheduler(time_grid="uniform")
    found["sway coefficient -0.7"] = with_scheduler(sway_coefficient=-0.7)
    for power in (1.5, 2.5, 3.0):
        found[f"grid (i/T)^{power}"] = lambda power=power: scheduled(PowerScheduler(power, **base))
    if pipe.head.config.guidance_scale_range is not None:
        for scale in (1.0, 1.5, 2.0, 2.5, 3.0):
            found[f"guidance {scale}"] = lambda scale=scale: guided(pipe, scale, scheduled(DTMScheduler(**base)))
    return found


@contextmanager
def guided(pipe, scale: float, inner) -> Iterator[None]:
    """The head follows another guidance scale of its range."""
    present, pipe.head.config.guidance_scale = pipe.head.config.guidance_scale, scale
    try:
        with inner:
            yield
    finally:
        pipe.head.config.guidance_scale = present


def judge(pipe, items, metrics) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Numerators and denominators `(items, 1)` of each metric."""
    pairs = {metric.name: [] for metric in metrics}
    for index, item in enumerate(items.items):
        mel = pipe(
            item.text,
            (item.reference_audio, items.sampling_rate),
            item.reference_text,
            generator=torch.Generator().manual_seed(index),
            output_type="mel",
        ).audios[0]
        speech = Speech(pipe.vocoder(mel[None])[0].numpy(), pipe.vocoder.sampling_rate, mel.numpy())
        for metric in metrics:
            pairs[metric.name].append(metric(speech, item) or (np.nan, np.nan))
    return {name: tuple(np.array(values, dtype=float).T[:, :, None]) for name, values in pairs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("set")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--metrics", default=METRICS)
    parser.add_argument("--only", help="rows to run besides the first: those this pattern is found in")
    parser.add_argument("-o", "--output", type=Path, default=Path("ablations.md"))
    options = parser.parse_args()

    pipe = DTMPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    items = load_set(options.set, options.limit, options.split)
    metrics = make_metrics(options.metrics.split(","), items, pipe.feature_extractor)
    head = "| " + " | ".join(["change", *(f"{metric.title}, worse by" for metric in metrics)]) + " |"
    lines = [f"{items.name}, {len(items.items)} sentences, T={options.steps}, seed 0", "", head]
    lines.append("|" + " --- |" * (len(metrics) + 1))
    first = None
    for name, change in variants(pipe, options.steps).items():
        if first is not None and options.only and not re.search(options.only, name):
            continue
        with change():
            found = judge(pipe, items, metrics)
        first = first or found
        cells = []
        for metric in metrics:
            cell = f"{ratio(*found[metric.name]).value:.3f}"
            if found is not first:
                difference = paired_difference(
                    found[metric.name], first[metric.name], transform=partial(badness, metric)
                )
                star = "*" if difference.low > 0 or difference.high < 0 else ""
                cell += f" ({difference.value:+.3f}{star})"
            cells.append(cell)
        lines.append("| " + " | ".join([name, *cells]) + " |")
        print(lines[-1], flush=True)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

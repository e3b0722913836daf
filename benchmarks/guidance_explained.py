"""
Where guidance lives, and what a head or adapters know of it: at each step of a few-step sampler, how far w (v_c - v_u)
would move the state, and how much of it their answer explains on the states that the sampler with them reaches itself,
R^2 = 1 - ||y_hat - v - w d||^2 / ||w d||^2. The same for the closed form of t = 0, which needs neither.

    python benchmarks/guidance_explained.py --model FOLDER --dataset corpus/voice-kokoro [--steps 4] [--scale 3]
        [--student FOLDER]

Frames of the target alone are counted. Heads are asked once a step, at s = 0.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from dtm_hf import DTMPipeline
from dtm_hf.backbone.closed_form import guided_at_zero
from dtm_hf.backbone.null_mean import null_mean
from dtm_hf.evaluation.sets import load_set
from dtm_hf.pipelines import speech
from dtm_hf.pipelines.guidance import choose_guidance
from dtm_hf.scheduling.time_grids import time_grid
from dtm_hf.training.objectives.walk import explained_guidance


def head_answer(head, scale: float, mask, generator: torch.Generator) -> Callable:
    """y_hat of a head with guidance baked in, as the pipeline has it of one call."""
    config = head.config
    guidance = choose_guidance(scale, 1.0, config)
    told = None if config.guidance_scale_range is None else scale

    def answer(output, v, x_t, t) -> torch.Tensor:
        if not guidance.runs_head(t):
            return guidance.velocity(v, x_t, t)
        features = output.joined(x_t) if config.prediction == "guidance" else output.features[: len(x_t)]
        y_0 = torch.randn(x_t.shape, generator=generator)
        call = {"timestep": t, "velocity": v, "attention_mask": mask, "guidance_scale": told}
        return head(features, y_0, 0.0, **call).displacement

    return answer


def student_answer(student, cond, embeds, steps: int) -> Callable:
    """y_hat of a student: its own velocity, which the backbone's is to become."""

    def answer(output, v, x_t, t) -> torch.Tensor:
        # Adapters leave the text encoder as it is.
        return student(x_t, t, cond, None, None, "cond", text_embeds=embeds, num_steps=steps).velocity

    return answer


def measure(options: argparse.Namespace) -> str:
    pipe = DTMPipeline.from_pretrained(options.model)
    backbone, head = pipe.backbone, pipe.head
    student = None if options.student is None else DTMPipeline.from_pretrained(options.model)
    if student is not None:
        student = student.load_student(options.student).backbone
    items = load_set(options.dataset, options.limit, options.split)
    mean = pipe.config.mean_mel or null_mean(backbone)
    scale = options.scale
    if scale is None:
        scale = 3.0 if head is None or head.config.guidance_scale is None else head.config.guidance_scale
    grid = time_grid("sway", options.steps).tolist()
    closed = lambda output, v, x_t, t: guided_at_zero(v, x_t, scale, mean) if t == 0 else v  # noqa: E731
    found: dict[str, list[dict[str, float]]] = {}
    for index, item in enumerate(items.items):
        recording = (item.reference_audio, items.sampling_rate)
        generator = torch.Generator().manual_seed(index)
        rows = pipe.prepare(
            item.text, recording, item.reference_text, duration_s=item.duration_s, generator=generator
        )[:1]
        batch = speech.collate(rows, torch.device("cpu"))
        x_0, frames = pipe.prepare_latents(rows, generator), rows[0].num_frames
        with torch.no_grad():
            embeds = backbone.encode_text(batch.text_ids, None, frames, True, batch.durations)
        counted = torch.arange(frames)[None] >= rows[0].reference.num_frames
        answers = {"closed form": (closed, 0)}
        if head is not None and head.config.guidance_scale is not None:
            answers["head"] = (head_answer(head, scale, None, generator), head.config.residual_layers)
        if student is not None:
            answers["student"] = (student_answer(student, batch.cond, embeds, options.steps), 0)
        for name, (answer, layers) in answers.items():
            steps = explained_guidance(
                backbone, answer, x_0, batch.cond, embeds, None, counted, grid, scale, residual_layers=layers
            )
            sums = found.setdefault(name, [dict.fromkeys(("error", "guidance", "weight"), 0.0) for _ in steps])
            for total, step in zip(sums, steps, strict=True):
                total["weight"] += (weight := int(counted.sum()))
                for key in ("error", "guidance"):
                    total[key] += weight * float(step[key])
    lines = [f"{len(items.items)} sentences, guidance {scale:g}, {options.steps} steps", ""]
    lines += ["| t | step length x rms(d) | " + " | ".join(f"R^2, {name}" for name in found) + " |"]
    lines += ["|---|---|" + "---|" * len(found)]
    for k in range(options.steps):
        last = list(found.values())[-1][k]
        moved = (grid[k + 1] - grid[k]) * (last["guidance"] / last["weight"]) ** 0.5 / (scale - 1)
        cells = [f"{1 - sums[k]['error'] / sums[k]['guidance']:.3f}" for sums in found.values()]
        lines.append(f"| {grid[k]:.3f} | {moved:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="pipeline, with or without a head")
    parser.add_argument("--dataset", required=True, help="folder of sentences and prompts")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--limit", type=int, default=30, help="sentences, the first of the split")
    parser.add_argument("--steps", type=int, default=4, help="of the sway grid")
    parser.add_argument("--scale", type=float, default=None, help="guidance scale above 1; the head's by default")
    parser.add_argument("--student", help="folder or Hub name of adapters on the same backbone")
    options = parser.parse_args(argv)
    if options.scale is not None and options.scale <= 1:
        parser.error(f"`--scale` must be above 1, which is no guidance, but got {options.scale:g}.")
    print(measure(options))


if __name__ == "__main__":
    main()

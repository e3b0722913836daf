"""
What each choice of training a head is worth: one change at a time from a recipe, at equal cost of training.

    python benchmarks/trained_ablations.py --model dtm_hf/assets/dtm-f5-tiny --dataset corpus/closed-2v \\
        --variants all --seconds 240 --limit 32 -o runs/ablations

Each variant is trained from scratch beside the frozen backbone of --model, from the same seed and in the same order of
the data, for as many steps as --seconds of CPU time pay for; the schedule spans these steps. Then it speaks the first
sentences of the validation list. The folder holds a head and a record for each variant, the figures of each sentence,
`results.json` and `results.md`, with differences to the recipe paired over sentences. It can be killed: what is there
is not done again, and a variant or a number of steps more joins.

The choices of sampling are in `ablations.py`; a searched grid of global times is here, for it takes a list of its own.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ablation_variants import VARIANTS, Variant, make_trainer

if TYPE_CHECKING:
    from dtm_hf import DTMPipeline
    from dtm_hf.evaluation.arms import Arm
    from dtm_hf.evaluation.benchmark import Benchmark
    from dtm_hf.training.arguments import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
METRICS = "wer,mel,similarity,mos,pitch,difference"
# Steps whose seconds are measured, after others that compile kernels for the shapes that come.
_WARM, _TIMED = 4, 10
_COST_REPEATS = 7


class Ablations:
    """
    A folder of variants.

    Args:
        options (`argparse.Namespace`): The command line.
    """

    def __init__(self, options: argparse.Namespace):
        from dtm_hf.evaluation.metrics import make_metrics
        from dtm_hf.evaluation.records import Records
        from dtm_hf.evaluation.sets import load_set
        from dtm_hf.training.parsing import parse_config

        self.options, self.folder = options, options.output
        argv = ["--config", str(options.config), "--base_model", options.model, "--dataset", options.dataset]
        argv += ["--report_to", "none", "--torch_compile", str(options.torch_compile)]
        self.recipe = parse_config(argv)
        items = load_set(options.dataset, options.limit + options.search_limit, options.split)
        self.items = dataclasses.replace(items, items=items.items[: options.limit])
        self.search_items = dataclasses.replace(items, items=items.items[options.limit :])
        self.metrics = make_metrics(options.metrics.split(","), self.items)
        self.settings = {
            "model": options.model,
            "set": self.items.name,
            "split": options.split,
            "seconds": options.seconds,
            "recipe": {name: dataclasses.asdict(getattr(self.recipe, name)) for name in ("model", "data", "objective")}
            | {"optimization": dataclasses.asdict(self.recipe.optimization)},
        }
        self.records = Records(self.folder / "figures", self.settings)
        self.search_records = Records(self.folder / "search", self.settings)

    # Training

    def train(self, variant: Variant) -> None:
        """Train a variant, unless its record is there; the record is written last."""
        if self.record_path(variant).exists():
            return
        from safetensors.torch import save_file

        from dtm_hf.files import written_aside
        from dtm_hf.training.objectives.dtm import DTMObjective

        changed = variant.configured(self.recipe)
        pace = self._seconds_per_step(variant, changed)
        steps = max(1, round(self.options.seconds / pace))
        say(f"{variant.name}: {pace:.3f} s a step, {steps} steps")
        trainer = make_trainer(self._run(changed, steps), variant)
        every = max(1, steps // 5)
        began = time.process_time()
        for _ in trainer._steps():
            if trainer.step % every == 0 or trainer.step == steps:
                loss = trainer._window_figures()["loss"]
                say(f"  step {trainer.step}/{steps}, {time.process_time() - began:.0f} s, loss {loss:.3f}")
        seconds = time.process_time() - began

        # One yardstick: the draws of the recipe, whatever those of the variant are.
        baked = {name: value for name, value in vars(changed.objective).items() if name.startswith("baked_")}
        yardstick = dataclasses.replace(self.recipe.objective, **baked)
        trained_with = trainer.task.objective
        trainer.task.objective = DTMObjective(yardstick, trained_with.backbone, trained_with.grid)
        validated = trainer.validate()
        with trainer.averaged_weights():
            weights = {name: value.detach().clone() for name, value in trainer.module.state_dict().items()}
        with written_aside(self.weights_path(variant)) as aside:
            save_file(weights, aside)
        head_seconds, pass_seconds = self._head_cost(self.pipeline(variant), variant)
        record = {
            "variant": variant.name,
            "change": variant.change,
            "steps": steps,
            "cpu_seconds": seconds,
            "seconds_per_step": seconds / steps,
            "parameters": sum(p.numel() for p in trainer.parameters),
            "validation": validated,
            "head_seconds": head_seconds,
            "pass_seconds": pass_seconds,
            "head_cost": head_seconds / pass_seconds,
        }
        with written_aside(self.record_path(variant)) as aside:
            aside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _run(self, changed: "TrainingConfig", steps: int) -> "TrainingConfig":
        """The configuration of a run of `steps` steps: the schedule keeps its shape."""
        optimization, share = changed.optimization, steps / changed.optimization.max_steps
        optimization = dataclasses.replace(
            optimization,
            max_steps=steps,
            warmup_steps=max(1, round(optimization.warmup_steps * share)),
            output_dir=str(self.folder / "training"),
        )
        return dataclasses.replace(changed, optimization=optimization)

    def _seconds_per_step(self, variant: Variant, changed: "TrainingConfig") -> float:
        """Median CPU seconds of a warm step. The weights it is measured on are thrown away."""
        trainer = make_trainer(self._run(changed, _WARM + _TIMED), variant)
        times = [time.process_time()]
        for _ in trainer._steps():
            times.append(time.process_time())
        return statistics.median(b - a for a, b in zip(times[_WARM:], times[_WARM + 1 :], strict=False))

    # Speaking

    def pipeline(self, variant: Variant) -> "DTMPipeline":
        """The pipeline with the averaged weights of a trained variant."""
        from safetensors.torch import load_file

        components = variant.components(variant.configured(self.recipe))
        components.head.load_state_dict(load_file(self.weights_path(variant)))
        # Without its check of the head: features of several layers are wider than the backbone.
        pipe = dataclasses.replace(components, head=None).pipeline()
        pipe.head = components.head.eval()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def judge(self, variant: Variant, steps: int) -> None:
        """Let a trained variant speak with `steps` global steps; what is judged already is not spoken again."""
        arm, names, seeds = self.arm(variant, steps), [m.name for m in self.metrics], self.options.seeds
        if not any(self.records.missing(arm.name, i.id, seed, names) for i in self.items.items for seed in seeds):
            return
        say(f"{arm.name}: {len(self.items.items)} sentences")
        pipe = self.pipeline(variant)
        self._benchmark(pipe, arm, variant).run()

    def _benchmark(self, pipe: "DTMPipeline", arm: "Arm", variant: Variant) -> "Benchmark":
        from dtm_hf.evaluation.benchmark import Benchmark

        common = (pipe, self.items, [arm], self.options.seeds, self.metrics, self.records)
        if not variant.searches_grid:
            return Benchmark(*common)
        from grid_search import SCORED, GridBenchmark, search_grid

        scored = [metric for metric in self.metrics if metric.name in SCORED]

        def search(arm: "Arm", grid: tuple[float, ...]) -> GridBenchmark:
            return GridBenchmark(pipe, self.search_items, [arm], [0], scored, self.search_records, grid=grid)

        grid = search_grid(search, arm.num_inference_steps, arm.num_head_steps, say)
        say(f"  searched grid: {grid}")
        return GridBenchmark(*common, grid=grid)

    def arm(self, variant: Variant, steps: int) -> "Arm":
        """How a variant is sampled; the name is the key of its figures."""
        from dtm_hf.evaluation.arms import Arm

        calls = self.options.head_calls
        return Arm(f"{variant.name}-{steps}x{calls}", "dtm", steps, calls, **variant.sampling)

    def _head_cost(self, pipe: "DTMPipeline", variant: Variant) -> tuple[float, float]:
        """
        Median CPU seconds of the head in one global step, its projection of the features and its calls, and of one
        backbone pass; one branch of the first sentence.
        """
        from dtm_hf.evaluation.samplers import run_arm

        arm = self.arm(variant, self.options.steps[0])
        if pipe.head.config.guidance_scale is None:
            arm = dataclasses.replace(arm, guidance_scale=1.0)
        head: list[float] = []
        passes: list[float] = []
        sample = pipe._sample_displacement

        def timed(*arguments):
            began = time.process_time()
            result = sample(*arguments)
            head.append(time.process_time() - began)
            return result

        began: list[float] = []
        # Instance attributes and hooks of a pipeline that is thrown away afterwards.
        pipe._sample_displacement = timed
        pipe.backbone.register_forward_pre_hook(lambda *_: began.append(time.process_time()), prepend=True)
        pipe.backbone.register_forward_hook(lambda *_: passes.append(time.process_time() - began.pop()))
        for _ in range(_COST_REPEATS):
            run_arm(pipe, arm, self.items.items[:1], self.items.sampling_rate, [0], "mel")
        # The first run compiles kernels for the shape.
        steps = arm.num_inference_steps
        return statistics.median(head[steps:]), statistics.median(passes[steps:])

    # Results

    def weights_path(self, variant: Variant) -> Path:
        return self.folder / "heads" / f"{variant.trained_as}.safetensors"

    def record_path(self, variant: Variant) -> Path:
        return self.folder / "heads" / f"{variant.trained_as}.json"

    def write_results(self, steps: list[int]) -> dict:
        """`results.json` and `results.md` of all variants in the folder whose figures are complete; returned too."""
        from dtm_hf.evaluation.summary import Summary
        from dtm_hf.files import written_aside

        results = {"settings": self.settings | vars_of(self.options), "steps": {}}
        names, ids = [metric.name for metric in self.metrics], [item.id for item in self.items.items]
        for count in steps:
            arms = {}
            for variant in VARIANTS.values():
                arm = self.arm(variant, count)
                seeds = self.options.seeds
                if not any(self.records.missing(arm.name, i, seed, names) for i in ids for seed in seeds):
                    arms[variant.name] = arm
            if "reference" not in arms:
                continue
            every = list(arms.values())
            summary = Summary(
                self.items, every, seeds, self.metrics, self.records, {}, True, arms["reference"].name
            ).results()
            rows = {}
            for name, arm in arms.items():
                variant = VARIANTS[name]
                record = json.loads(self.record_path(variant).read_text(encoding="utf-8"))
                entry = summary["arms"][arm.name]
                baked = variant.configured(self.recipe).objective.baked_guidance_scale is not None
                rows[name] = record | {
                    "variant": name,
                    "change": variant.change,
                    "backbone_passes": arm.backbone_passes(baked),
                    "head_calls": arm.head_calls(baked),
                    "metrics": entry["metrics"],
                    "against_reference": entry["against_reference"],
                }
            results["steps"][str(count)] = {"variants": rows, "controls": summary["controls"]}
        with written_aside(self.folder / "results.json") as aside:
            aside.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        with written_aside(self.folder / "results.md") as aside:
            aside.write_text(markdown(results, self.metrics), encoding="utf-8")
        return results


def markdown(results: dict, metrics: list) -> str:
    """A table for each number of global steps: what a variant costs, its figures, and how much worse they are."""
    settings, lines = results["settings"], []
    for count, found in results["steps"].items():
        lines += [
            f"{settings['seconds']:g} CPU seconds of training each; T={count}, {settings['head_calls']} head calls a "
            f"step, {settings['limit']} {settings['split']} sentences, seeds {', '.join(map(str, settings['seeds']))}:"
            " the figure, and in brackets how much worse it is than the reference (below 0: better; an asterisk: the "
            "paired 95% interval excludes 0). The head's cost is its seconds a step over those of a backbone pass.",
            "",
        ]
        heads = ["variant", "change", "steps", "s a step", "parameters", "head's cost", "passes"]
        lines.append("| " + " | ".join([*heads, *(metric.title for metric in metrics)]) + " |")
        lines.append("|" + " --- |" * (len(heads) + len(metrics)))
        for name, row in found["variants"].items():
            cells = [f"`{name}`", row["change"], str(row["steps"]), f"{row['seconds_per_step']:.2f}"]
            cells += [f"{row['parameters'] / 1e6:.2f} M", f"{row['head_cost']:.2f}", str(row["backbone_passes"])]
            cells += [_cell(row["metrics"].get(m.name), row["against_reference"].get(m.name)) for m in metrics]
            lines.append("| " + " | ".join(cells) + " |")
        for name in ("recording", "vocoded"):
            if name in found["controls"]:
                figures = found["controls"][name]["metrics"]
                cells = [name, *[""] * (len(heads) - 1), *(_cell(figures.get(m.name), None) for m in metrics)]
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(figure: dict | None, difference: dict | None) -> str:
    if figure is None:
        return ""
    if difference is None:
        return f"{figure['value']:.3f}"
    star = "*" if difference["low"] > 0 or difference["high"] < 0 else ""
    return f"{figure['value']:.3f} ({difference['value']:+.3f}{star})"


def vars_of(options: argparse.Namespace) -> dict:
    """The command line as JSON holds it."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def say(line: str) -> None:
    print(line, flush=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="pipeline folder that gives the backbone")
    parser.add_argument("--dataset", required=True, help="folder with a train split and the list to judge on")
    parser.add_argument("--config", type=Path, default=ROOT / "training/configs/dtm_tiny.yaml", help="the recipe")
    parser.add_argument("--variants", default="all", help=f"all, or some of {','.join(VARIANTS)}")
    parser.add_argument("--seconds", type=float, default=240.0, help="CPU seconds of training a variant")
    parser.add_argument("--steps", default="4", help="numbers of global steps, with commas between")
    parser.add_argument("--head_calls", type=int, default=2, help="head calls a global step")
    parser.add_argument("--seeds", default="0", help="of the noise, with commas between")
    parser.add_argument("--limit", type=int, default=32, help="sentences to judge on, the first of the split")
    parser.add_argument("--search_limit", type=int, default=16, help="sentences after these to search a grid on")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--metrics", default=METRICS)
    parser.add_argument("--torch_compile", action="store_true", help="compile the blocks while training")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(argv)
    options.variants = list(VARIANTS) if options.variants == "all" else options.variants.split(",")
    unknown = [name for name in options.variants if name not in VARIANTS]
    if unknown:
        parser.error(f"`--variants` must be all or among {', '.join(VARIANTS)}, but got {', '.join(unknown)}.")
    for name in ("steps", "seeds"):
        try:
            setattr(options, name, [int(number) for number in getattr(options, name).split(",")])
        except ValueError:
            parser.error(f"`--{name}` must be numbers with commas between, but got {getattr(options, name)!r}.")
    for name in ("seconds", "limit", "search_limit"):
        if not getattr(options, name) > 0:
            parser.error(f"`--{name}` must be greater than 0, but got {getattr(options, name)}.")
    # All others are compared with it.
    options.variants = list(dict.fromkeys(["reference", *options.variants]))
    return options


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    # What is measured is CPU time.
    os.environ["ACCELERATE_USE_CPU"] = "true"
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    ablations = Ablations(options)
    for name in options.variants:
        ablations.train(VARIANTS[name])
        for steps in options.steps:
            ablations.judge(VARIANTS[name], steps)
        ablations.write_results(options.steps)
    say((options.output / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

"""
Two configurations of a head side by side: trained on one backbone, then saying the same sentences from the same noise.

    python benchmarks/compare_heads.py A.yaml B.yaml --model FOLDER --dataset corpus/closed-2v -o OUT

A configuration is one of training/train.py; its name is that of its file. A run that was killed goes on. Prints the
CPU seconds that each took, each metric with its 95% interval over sentences, and how much worse B is than A, paired.
"""

import argparse
import dataclasses
import time
from pathlib import Path

from dtm_hf import DTMPipeline
from dtm_hf.evaluation.arms import parse_arm
from dtm_hf.evaluation.benchmark import Benchmark
from dtm_hf.evaluation.metrics import make_metrics
from dtm_hf.evaluation.records import Records
from dtm_hf.evaluation.sets import load_set
from dtm_hf.evaluation.summary import Summary
from dtm_hf.training.systems import parse_config
from dtm_hf.training.trainer import Trainer


def train(config: Path, options: argparse.Namespace) -> tuple[DTMPipeline, float]:
    """The trained pipeline, and the CPU seconds that training took."""
    folder = options.output / config.stem
    argv = ["--config", str(config), "--base_model", options.model, "--dataset", options.dataset]
    began = time.process_time()
    Trainer(parse_config([*argv, "--output_dir", str(folder)])).train()
    seconds = time.process_time() - began
    pipe = DTMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe, seconds


def compare(options: argparse.Namespace) -> str:
    items = load_set(options.dataset, options.limit, options.split)
    metrics = make_metrics(options.metrics.split(","), items)
    seeds = list(range(options.seeds))
    settings = {name: str(value) for name, value in vars(options).items()}
    records, arms, lines, baked = Records(options.output / "figures", settings), [], [], False
    for config in options.configs:
        pipe, seconds = train(config, options)
        arm = dataclasses.replace(parse_arm(options.arm), name=config.stem)
        Benchmark(pipe, items, [arm], seeds, metrics, records).run()
        baked = pipe.head.config.guidance_scale is not None
        arms.append(arm)
        lines.append(f"{arm.name}: {seconds:.0f} s of CPU time, {pipe.head.num_parameters():,} parameters")
    first, second = (arm.name for arm in arms)
    found = Summary(items, arms, seeds, metrics, records, {}, baked, first).results()["arms"]
    for metric in metrics:
        cells = [f"{name} {_interval(found[name]['metrics'][metric.name])}" for name in (first, second)]
        cells.append(f"worse by {_interval(found[second]['against_reference'][metric.name])}")
        lines.append(f"{metric.title}: " + ", ".join(cells))
    return "\n".join(lines)


def _interval(estimate: dict | None) -> str:
    if estimate is None:
        return "unknown"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs=2, type=Path, metavar="CONFIG", help="YAML of a training run")
    parser.add_argument("--model", required=True, help="pipeline that gives the backbone")
    parser.add_argument("--dataset", required=True, help="folder to train on, and to judge on")
    parser.add_argument("--split", default="validation", help="to judge on")
    parser.add_argument("--limit", type=int, default=48, help="sentences to judge on, the first of the split")
    parser.add_argument("--arm", default="dtm-4x1", help="how both are sampled")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--metrics", default="wer,mel,similarity,mos,pitch,difference")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(argv)
    if options.configs[0].stem == options.configs[1].stem:
        parser.error(f"`CONFIG` must be two files of different names, but got {options.configs[0].stem!r} twice.")
    print(compare(options))


if __name__ == "__main__":
    main()

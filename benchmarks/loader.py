"""
How fast the data loader is alone: nothing is trained.

    python benchmarks/loader.py --config training/configs/dtm_tiny.yaml [--num_workers 4] [--batches 200]
    python benchmarks/loader.py --dataset corpus/closed-2v --frames_per_batch 4000

Takes the options of the `data` section. Prints the time to the first batch, for which a window is read, and what came
afterwards: hours of audio and rows a second, the share of padding, and the rows that were left out. A trainer is fed
if its frames a second (93.75 a second of audio) are fewer.
"""

import time
from collections import Counter
from dataclasses import fields
from pathlib import Path

from transformers import HfArgumentParser

from dtm_hf import F5FeatureExtractor, F5Tokenizer
from dtm_hf.backbone.f5_checkpoint import default_vocab
from dtm_hf.training.arguments import DataArguments
from dtm_hf.training.data.loader import build_loader
from dtm_hf.training.parsing import read_yaml


def parse(argv: list[str] | None = None):
    """The data section, and the options of the benchmark."""
    parser = HfArgumentParser(DataArguments, description=__doc__.split("\n")[1], allow_abbrev=False)
    parser.add_argument("--config", type=Path, help="YAML file of a training run; its data section is used.")
    parser.add_argument("--batches", type=int, default=200, help="Batches to time.")
    config = parser.parse_known_args(argv)[0].config
    if config is not None:
        names = {entry.name for entry in fields(DataArguments)}
        parser.set_defaults(**{name: value for name, value in read_yaml(config).items() if name in names})
    return parser.parse_args_into_dataclasses(argv, look_for_args_file=False)


def main() -> None:
    data, options = parse()
    tokenizer, extractor = F5Tokenizer(default_vocab()), F5FeatureExtractor()
    began = time.perf_counter()
    loader = build_loader(data, data.train_split, tokenizer, extractor, seed=0)
    batches = iter(loader)
    left_out = Counter()
    next(batches)
    print(f"{data.num_workers} workers; first batch after {time.perf_counter() - began:.1f} s", flush=True)

    began = time.perf_counter()
    samples = rows = frames = padded_frames = 0
    for _ in range(options.batches):
        batch = next(batches)
        samples += int(batch["num_samples"].sum())
        rows += len(batch["num_samples"])
        count = extractor.num_frames(batch["num_samples"])
        frames += int(count.sum())
        padded_frames += len(count) * -(-int(count.max()) // data.frame_multiple) * data.frame_multiple
        left_out.update(batch["bad_rows"])
        left_out.update(batch["dropped"])
    seconds = time.perf_counter() - began
    hours = samples / extractor.sampling_rate / 3600
    print(f"{options.batches} batches in {seconds:.1f} s")
    print(f"audio     {hours / seconds:8.3f} hours/s  ({frames / seconds:,.0f} frames/s)")
    print(f"rows      {rows / seconds:8.0f} /s")
    print(f"padding   {1 - frames / padded_frames:8.1%}  of the frames")
    print(f"left out  {left_out.total():8d}  " + ", ".join(f"{n} {reason}" for reason, n in left_out.most_common()))


if __name__ == "__main__":
    main()

"""A kind of training that knows neither speech nor pictures: all that another system has to bring."""

from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from torch import nn

from dtm_hf.training.config.fields import option
from dtm_hf.training.data.batches import SizedBatches
from dtm_hf.training.data.loader import BatchLoader, open_sources
from dtm_hf.training.data.maker import Maker
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.loop.task import Task
from dtm_hf.training.objectives.losses import LossOutput
from dtm_hf.training.objectives.phases import Phase
from dtm_hf.training.systems import System


@dataclass
class StickArguments:
    """sticks: how much heavier than long a stick is."""

    density: float = option(2.0, "Weight of a stick of length 1.", above=0)


class Sticks(Maker):
    """A stick of each row, as long as it says; sticks of one colour may be joined."""

    def columns(self, source):
        return {"text": "length", "colour": "meta.colour"}

    def make(self, source, row):
        length = int(source.text(row))
        if length > 8:
            raise WrongLength("longer than 8")
        if length == 0:
            raise BadRow("no stick")
        return [(length, source.label(row, "colour"))]

    def collate(self, samples):
        return {"sticks": list(samples)}

    def size(self, sample):
        return sum(length for length, _ in sample)

    def group(self, source, row):
        return source.label(row, "colour")

    def join(self, first, second):
        return first + second


class StickTask(Task):
    """Learns to weigh sticks."""

    unit = "sticks"

    def __init__(self, config):
        self.config, self.module = config, nn.Linear(1, 1)

    def groups(self):
        return {"sticks": dict(self.module.named_parameters())}

    def place(self, device):
        self.module.to(device)

    def phases(self, step):
        return [Phase("sticks", self.loss)]

    def loader(self, split, *, seed, rank, world_size, endless):
        data, maker = self.config.data, Sticks()
        batches = SizedBatches(
            open_sources(data, split, maker.columns),
            maker,
            budget=data.frames_per_batch,
            max_samples=data.max_samples,
            bucket_size=data.bucket_size,
            max_bad_fraction=data.max_bad_fraction,
            seed=seed,
            rank=rank,
            world_size=world_size,
            endless=endless,
        )
        return BatchLoader(batches, data.num_workers if endless else 0)

    def batch(self, raw, device):
        return torch.tensor([[float(sum(n for n, _ in sample))] for sample in raw["sticks"]], device=device)

    def size(self, raw, batch):
        return len(batch), len(batch)

    def amount(self, units):
        return {"metres": units / 100}

    def loss(self, module, lengths):
        noisy = self.config.objective.density * lengths + 0.1 * torch.randn(lengths.shape)
        rows = (module(lengths) - noisy).square().mean(dim=1)
        return LossOutput(rows.mean(), {}, rows.detach(), torch.ones(len(rows)), torch.rand(len(rows)))

    def validate(self, batch, generator):
        return {"loss": (self.module(batch) - self.config.objective.density * batch).square().mean()}

    def open_samples(self, folder):
        return False

    def write_samples(self, step, trackers):
        raise AssertionError("there are none")

    def save(self, folder, step, units):
        save_file(self.module.state_dict(), folder / "sticks.safetensors")

    def save_repository(self, folder, repo_id, step, units, results):
        self.save(folder, step, units)


def check(config):
    if config.model.base_model is not None:
        raise ValueError(f"`base_model` must be none for sticks, but got {config.model.base_model!r}.")


# A short run that logs each step, and saves and validates every second.
LOOP = (
    "--frames_per_batch 24 --bucket_size 15 --num_workers 0 --warmup_steps 1 --max_bad_fraction 0.2 --report_to none "
    "--log_interval 1 --eval_interval 2 --save_interval 2 --learning_rate 0.05 --ema_decay 0.5 "
    "--lr_scheduler constant_with_warmup"
).split()


def arguments(corpus, output_dir, *more):
    return ["--objective", "sticks", "--dataset", str(corpus), "--output_dir", str(output_dir), *LOOP, *more]


LENGTHS = [*range(10), "many", *(1 + i % 8 for i in range(40))]
# The line in training/systems.py.
SYSTEM = System("toy_system:StickTask", StickArguments, check)


def write_sticks(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"length": str(n), "meta": {"colour": "red" if i % 3 else None}} for i, n in enumerate(LENGTHS)]
    for split in ("train", "validation"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    return folder

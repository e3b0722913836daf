"""
What training a head costs, in passes of the frozen backbone, as ratios within one run.

    python benchmarks/training_cost.py --model embedded|full [--head drawing] [--frames 9600] [--repeats 5]
    python benchmarks/training_cost.py --model full --count-memory

`embedded` is the embedded default, `full` the architecture of F5-TTS v1 Base, both with random weights and with the
head, the precision and the checkpointing of their recipes in training/configs. First an optimizer step against one
pass of the conditional branch on the same batch: of a head that says what guidance adds for walks of each of the
numbers of steps that it is trained for (each as often), of a head that draws for k = 1, 4 and 16 draws of (s, Y_0) a
pass. Every arm runs in turn, `--repeats` times after a warm-up, and medians are printed, on a CPU of its own time,
which other work does not lengthen; beside them the same ratio in the arithmetic that torch counts. Then `--run-steps`
steps of the training command itself on speech-like noise: its share of waiting for data and of padding. Peak memory is
the allocator's on a GPU, the resident set elsewhere (Linux).

`--count-memory` counts what is alive in each part of a step instead, of tensors that have a size and no content: on
any machine, in seconds.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import model_sizes
from counted_memory import count_memory

DRAWS = (1, 4, 16)


class Bench:
    """
    A backbone, a head that is trained on it, and what the trainer has around them.

    Args:
        model (`str`): `"embedded"` or `"full"`.
        head (`str`): `"guidance"` or `"drawing"`.
        device (`str`): where all of it lies.
        utterance_frames (`int`): of each utterance of a batch, about.
        counts (`list[int]`, *optional*): numbers of steps, or of draws, in place of the recipe's.
        place (`Callable`, *optional*): what is done to the networks in place of moving them to `device`, where they
            are to be made without content.
    """

    def __init__(
        self,
        model: str,
        head: str = "guidance",
        device: str = "cpu",
        utterance_frames: int = 600,
        counts: list[int] | None = None,
        place: Callable | None = None,
    ):
        import torch
        from diffusers.training_utils import EMAModel

        from dtm_hf import DTMScheduler, F5Tokenizer
        from dtm_hf.backbone.f5_checkpoint import default_vocab
        from dtm_hf.precision import multiplies_in
        from dtm_hf.training.loop.optimization import build_optimizers

        torch.manual_seed(0)
        self.torch, self.device, self.utterance_frames = torch, torch.device(device), utterance_frames
        self.config = model_sizes.recipe(model, head)
        # As in the trainer, but where memory is counted as of another machine.
        here = self.device.type != "cpu" or place is not None or multiplies_in(torch.bfloat16)
        self.autocasts = self.config.optimization.mixed_precision == "bf16" and here
        self.tokenizer = F5Tokenizer(default_vocab())
        with torch.device("meta") if place else contextlib.nullcontext():
            self.backbone = model_sizes.random_backbone(model, self.tokenizer.vocab_size)
            self.backbone.to(getattr(torch, self.config.model.backbone_dtype))
            self.head = model_sizes.random_head(model, self.backbone, head).train()
        for part in (self.backbone, self.head):
            place(part) if place else part.to(device)
        if self.config.optimization.gradient_checkpointing:
            self.head.gradient_checkpointing_enable()
        self.scheduler = DTMScheduler(**self.head.config.sampler)
        self.guides = head == "guidance"
        self.counts = counts or (self.config.objective.policy_step_counts if self.guides else list(DRAWS))
        self.parameters = list(self.head.parameters())
        self.optimizers = build_optimizers(dict(self.head.named_parameters()), self.config.optimization)
        self.ema = EMAModel(self.parameters, decay=self.config.optimization.ema_decay)

    def objectives(self) -> dict:
        """By what tells their steps apart."""
        from dtm_hf.training.objectives.dtm import DTMObjective
        from dtm_hf.training.objectives.policy import PolicyObjective

        draws, found = self.config.objective, {}
        for count in self.counts:
            if self.guides:
                told = dataclasses.replace(draws, policy_step_counts=[count])
                found[f"step, T={count}"] = PolicyObjective(told, self.backbone, self.head.config, draws.time_grid)
            else:
                told = dataclasses.replace(draws, head_batch_multiplier=count)
                found[f"step, k={count}"] = DTMObjective(told, self.backbone, self.scheduler.timesteps)
        return found

    def batch(self, utterances: int):
        """Utterances of about `utterance_frames` frames, as neighbours of a sorted bucket are."""
        from dtm_hf.training.objectives.conditioning import MelBatch

        torch, frames = self.torch, self.utterance_frames
        # One alone is padded as well: a mask takes memory.
        lengths = torch.linspace(0.95 * frames, frames, utterances).long()
        mask = (torch.arange(frames)[None] < lengths[:, None]).to(self.device)
        mel = torch.randn(utterances, frames, self.backbone.config.mel_dim, device=self.device) * mask[..., None]
        text_ids = torch.randint(1, self.tokenizer.vocab_size, (utterances, frames * 3 // 20), device=self.device)
        return MelBatch(mel, mask, text_ids, torch.zeros(utterances, dtype=torch.long, device=self.device))

    @contextlib.contextmanager
    def precision(self):
        from dtm_hf.precision import FasterFloat32

        # As in the task: neither a backbone in bfloat16 nor a recomputation gets it.
        faster = self.device.type == "cpu" and self.autocasts and not self.config.optimization.gradient_checkpointing
        faster = faster and self.backbone.dtype == self.torch.float32
        autocast = self.torch.autocast(self.device.type, self.torch.bfloat16, enabled=self.autocasts)
        with autocast, FasterFloat32() if faster else contextlib.nullcontext():
            yield

    def forward(self, batch) -> None:
        """One pass of the conditional branch."""
        from dtm_hf.precision import computing

        t, silent = self.torch.rand(len(batch.mel), device=self.device), self.torch.zeros_like(batch.mel)
        with self.torch.no_grad(), self.precision(), computing(self.backbone):
            self.backbone(batch.mel, t, silent, batch.text_ids, batch.attention_mask, "cond")

    def step(self, objective, batch) -> None:
        """One optimizer step, as the trainer takes it."""
        with self.precision():
            loss = objective.loss(self.head, batch).loss
        loss.backward()
        self.finish_step()

    def finish_step(self) -> None:
        self.torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(self.parameters)

    @contextlib.contextmanager
    def counting_passes(self, utterances: int):
        """Gives a list of how many passes a batch of so many utterances took in each call of the backbone."""
        passes: list[float] = []
        handle = self.backbone.register_forward_hook(
            lambda _, inputs, output: passes.append(len(output.velocity) / utterances)
        )
        yield passes
        handle.remove()

    def wait(self) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()


def reset_peak(device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib(device) -> float:
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20


# Steps against a pass


def operation_counts() -> dict:
    """What torch's counter of operations has to be told."""
    import torch
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    def convolution_backward(grad_out, sample, weight, *_, out_shape=None):
        # As many as forward for the sample's gradient and again for the weight's: torch's forgets the groups.
        return 2 * 2 * math.prod(grad_out) * math.prod(weight[1:])

    return {
        # The attention kernels that it does not know.
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
        torch.ops.aten.convolution_backward: convolution_backward,
    }


def measure_steps(bench: Bench, frames: int, repeats: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    utterances = max(frames // bench.utterance_frames, 1)
    batch = bench.batch(utterances)
    steps = {
        name: lambda objective=objective: bench.step(objective, batch)
        for name, objective in bench.objectives().items()
    }
    arms = {"one pass": lambda: bench.forward(batch)} | steps
    times, peaks, operations, passes = {name: [] for name in arms}, {}, {}, {}
    clock = time.perf_counter if bench.device.type == "cuda" else time.process_time
    for round_number in range(1 + repeats):
        for name, call in arms.items():
            reset_peak(bench.device)
            if round_number == 0:
                with bench.counting_passes(utterances) as seen:
                    with FlopCounterMode(display=False, custom_mapping=operation_counts()) as counter:
                        call()
                operations[name], passes[name] = counter.get_total_flops(), sum(seen)
                continue
            began = clock()
            call()
            bench.wait()
            times[name].append(clock() - began)
            peaks[name] = max(peaks.get(name, 0.0), peak_gib(bench.device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    if bench.guides:
        # Each number of steps is drawn as often.
        for figures in (medians, operations, passes, peaks):
            figures["a step, mean"] = statistics.mean(figures[name] for name in steps)
    for name, median in medians.items():
        ratio, counted = (figures[name] / figures["one pass"] for figures in (medians, operations))
        print(
            f"{name:14s} {passes[name]:5.2f} passes  {median:9.4f} s  {ratio:6.2f} x a pass, {counted:6.2f} x its "
            f"arithmetic ({operations[name] / 1e12:.3f} TFLOP)  {peaks[name]:6.2f} GiB peak"
        )


# The training command


def write_corpus(folder: Path, seconds: float) -> None:
    """Noise with the lengths of read speech, 2 to 12 s, of four speakers."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile

    random = np.random.default_rng(0)
    for split, wanted in (("train", seconds), ("validation", 20.0)):
        rows = []
        while wanted > 0:
            length = float(np.clip(random.lognormal(1.7, 0.4), 2.0, 12.0))
            buffer = io.BytesIO()
            samples = 0.05 * random.standard_normal(int(length * 24000))
            soundfile.write(buffer, samples, 24000, format="FLAC", subtype="PCM_16")
            text = " ".join(["word"] * max(int(2.5 * length), 1))
            audio = {"bytes": buffer.getvalue(), "path": None}
            rows.append({"audio": audio, "text": text, "speaker": f"speaker {len(rows) % 4}"})
            wanted -= length
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet", row_group_size=16)


def measure_run(bench: Bench, frames: int, steps: int, workers: int) -> None:
    import yaml

    from dtm_hf import DTMPipeline, F5FeatureExtractor, GriffinLimVocoder
    from dtm_hf.training.train import main

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_corpus(root, seconds=max(3 * frames * 256 / 24000, 120.0))
        DTMPipeline(
            backbone=bench.backbone,
            tokenizer=bench.tokenizer,
            feature_extractor=F5FeatureExtractor(),
            vocoder=GriffinLimVocoder(),
            scheduler=bench.scheduler,
        ).save_pretrained(root / "base")
        recipe = {
            "model": {"base_model": str(root / "base"), "backbone_dtype": bench.config.model.backbone_dtype},
            "data": {"dataset": str(root), "frames_per_batch": frames, "num_workers": workers, "bucket_size": 256},
            "dtm": dataclasses.asdict(bench.config.objective),
            # The first half warms up; the figures are those of the second.
            "optimization": dataclasses.asdict(bench.config.optimization)
            | {"output_dir": str(root / "run"), "max_steps": 2 * steps, "warmup_steps": 1},
            "logging": {"log_interval": steps, "eval_interval": 2 * steps, "save_interval": 2 * steps}
            | {"num_validation_batches": 1, "report_to": "none"},
        }
        (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        reset_peak(bench.device)
        with contextlib.redirect_stdout(io.StringIO()):
            main(["--config", str(root / "recipe.yaml")])
        log = [json.loads(line) for line in (root / "run" / "log.jsonl").read_text().splitlines()]
    figures = [line for line in log if "frames_per_second" in line][-1]
    print(
        f"training command, {steps} steps: {figures['frames_per_second']:,.0f} frames/s, padding "
        f"{figures['padding_share']:.1%}, waiting for data {figures['data_wait_share']:.1%}, "
        f"{peak_gib(bench.device):.2f} GiB peak"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model_sizes.add_options(parser)
    parser.add_argument("--head", choices=model_sizes.HEADS, default="guidance", help="what is trained")
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of steps, or of draws; the recipe's by default")
    parser.add_argument("--frames", type=int, help="of a batch; the recipe's by default")
    parser.add_argument("--utterance-frames", type=int, default=600, help="of an utterance; 600 are 6.4 s")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run-steps", type=int, default=10, help="of the training command; 0 to go without")
    parser.add_argument("--workers", type=int, default=2, help="processes that read and decode")
    parser.add_argument("--count-memory", action="store_true", help="count, instead of measuring")
    options = parser.parse_args(argv)

    import torch

    device = "cuda" if torch.cuda.is_available() and not options.count_memory else "cpu"

    if options.frames is None:
        options.frames = model_sizes.recipe(options.model, options.head).data.frames_per_batch
    build = functools.partial(Bench, options.model, options.head, device, options.utterance_frames, options.counts)
    if options.count_memory:
        count_memory(build, options.frames)
        return
    bench = build()
    place = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    optimization = bench.config.optimization
    print(
        f"{options.model}, {options.head} head, {sum(p.numel() for p in bench.parameters):,} parameters, "
        f"{options.frames:,} frames a batch, mixed precision {optimization.mixed_precision}, backbone in "
        f"{bench.config.model.backbone_dtype}, {place}"
        + (", gradient checkpointing" if optimization.gradient_checkpointing else "")
        + f", {options.repeats} repeats",
        flush=True,
    )
    measure_steps(bench, options.frames, options.repeats)
    if options.run_steps:
        measure_run(bench, options.frames, options.run_steps, options.workers)


if __name__ == "__main__":
    main()

"""
What training a head costs, as ratios within one run.

    python benchmarks/training_cost.py --model tiny|full [--frames 38400] [--dtype bf16] [--repeats 5]
    python benchmarks/training_cost.py --model full --count-memory

`tiny` is the embedded default, `full` the architecture of F5-TTS v1 Base with the head of its training configuration,
both with random weights. First an optimizer step with k = 1, 4 and 16 draws of (s, Y_0) a backbone pass, against the
frozen forward pass alone on the same batch: every arm runs in turn, `--repeats` times after a warm-up, and medians are
printed; beside them the same ratio in the arithmetic that torch counts, which no machine changes. Then `--run-steps`
steps of the training command itself on speech-like noise: its share of waiting for data and of padding. Peak memory is
the allocator's on a GPU, the resident set elsewhere (Linux).

`--count-memory` runs a few utterances on the CPU instead, counts what is alive in each part of a step, and extends the
count to `--frames`.
"""

import argparse
import contextlib
import io
import json
import re
import statistics
import tempfile
import time
import weakref
from pathlib import Path

DRAWS = (1, 4, 16)
GOALS = {1: 1.10, 4: 1.25, 16: 1.8}  # on a GPU, at full size in bfloat16
UTTERANCE_FRAMES = 600  # 6.4 s


class Bench:
    """A backbone, a head that is trained on it, and what the trainer has around them."""

    def __init__(self, options: argparse.Namespace, device: str):
        import torch
        from diffusers.training_utils import EMAModel

        from dtm_hf import DTMHead, DTMHeadConfig, DTMScheduler, F5Backbone, F5Tokenizer
        from dtm_hf.backbone.f5_checkpoint import default_vocab
        from dtm_hf.training.config.arguments import OptimizationArguments
        from dtm_hf.training.loop.optimization import build_optimizers

        torch.manual_seed(0)
        tiny = {"dim": 192, "depth": 6, "heads": 3, "text_dim": 128, "conv_layers": 2}
        head_size = {"tiny": {"hidden_size": 192, "num_hidden_layers": 4}, "full": {}}[options.model]
        self.tokenizer = F5Tokenizer(default_vocab())
        self.backbone = F5Backbone(
            **tiny if options.model == "tiny" else {}, text_num_embeds=self.tokenizer.vocab_size, license="mit"
        ).to(device)
        if options.backbone_dtype != "float32":
            self.backbone.to(getattr(torch, options.backbone_dtype))
        self.head = DTMHead(
            DTMHeadConfig(backbone_hidden_size=self.backbone.config.dim, architecture="conv", **head_size)
        ).to(device)
        self.head.train()
        self.scheduler = DTMScheduler()
        self.parameters = list(self.head.parameters())
        (self.optimizer,) = build_optimizers(dict(self.head.named_parameters()), OptimizationArguments())
        self.ema = EMAModel(self.parameters, decay=0.9999)
        self.options, self.device, self.torch = options, torch.device(device), torch

    def objective(self, draws: int):
        from dtm_hf.training.objectives.arguments import DTMArguments
        from dtm_hf.training.objectives.dtm import DTMObjective

        baked = 3.0 if self.options.baked else None
        arguments = DTMArguments(head_batch_multiplier=draws, baked_guidance_scale=baked)
        return DTMObjective(arguments, self.backbone, self.scheduler.timesteps)

    def batch(self, utterances: int):
        """Utterances of about `UTTERANCE_FRAMES` frames, as neighbours of a sorted bucket are."""
        from dtm_hf.training.objectives.conditioning import MelBatch

        torch, frames = self.torch, UTTERANCE_FRAMES
        lengths = (
            torch.linspace(0.95 * frames, frames, utterances).long() if utterances > 1 else torch.tensor([frames])
        )
        mask = (torch.arange(frames)[None] < lengths[:, None]).to(self.device)
        mel = torch.randn(utterances, frames, self.backbone.config.mel_dim, device=self.device) * mask[..., None]
        text_ids = torch.randint(1, self.tokenizer.vocab_size, (utterances, 90), device=self.device)
        return MelBatch(mel, mask, text_ids, torch.zeros(utterances, dtype=torch.long, device=self.device))

    @contextlib.contextmanager
    def precision(self):
        from dtm_hf.training.objectives.precision import FasterFloat32

        bf16 = self.options.dtype == "bf16"
        faster = bf16 and self.device.type == "cpu" and not self.options.count_memory
        # As in the trainer: a backbone in bfloat16 needs no help.
        faster = FasterFloat32() if faster and self.backbone.dtype == self.torch.float32 else None
        autocast = self.torch.autocast(self.device.type, self.torch.bfloat16, enabled=bf16)
        with autocast, faster or contextlib.nullcontext():
            yield

    def forward(self, batch) -> None:
        """The frozen pass alone."""
        torch = self.torch
        t, silent = torch.rand(len(batch.mel), device=self.device), torch.zeros_like(batch.mel)
        branch = "both" if self.options.baked else "cond"
        # As in the objective: autocast on a CPU would leave its norms with two dtypes.
        whole = self.backbone.dtype != torch.float32
        precision = torch.autocast(self.device.type, enabled=False) if whole else self.precision()
        with torch.no_grad(), precision:
            self.backbone(batch.mel, t, silent, batch.text_ids, batch.attention_mask, branch)

    def step(self, objective, batch) -> None:
        """One optimizer step, as the trainer takes it."""
        with self.precision():
            loss = objective.loss(self.head, batch).loss
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.parameters)

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


# Steps against the forward pass


def measure_steps(bench: Bench) -> None:
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    options = bench.options
    # The one attention kernel that the counter does not know.
    attention = {
        bench.torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
            q, k, v
        )
    }
    batch = bench.batch(max(options.frames // UTTERANCE_FRAMES, 1))
    arms = {"frozen forward": lambda: bench.forward(batch)}
    for k in DRAWS:
        objective = bench.objective(k)
        arms[f"dtm step, k={k}"] = lambda objective=objective: bench.step(objective, batch)
    times, peaks, operations = {name: [] for name in arms}, {}, {}
    for round_number in range(1 + options.repeats):
        for name, call in arms.items():
            reset_peak(bench.device)
            if round_number == 0:
                with FlopCounterMode(display=False, custom_mapping=attention) as counter:
                    call()
                operations[name] = counter.get_total_flops()
                continue
            began = time.perf_counter()
            call()
            bench.wait()
            times[name].append(time.perf_counter() - began)
            peaks[name] = max(peaks.get(name, 0.0), peak_gib(bench.device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for (name, median), k in zip(medians.items(), (None, *DRAWS), strict=True):
        ratio, counted = (figures[name] / figures["frozen forward"] for figures in (medians, operations))
        goal = f"  (goal on a GPU {GOALS[k]:.2f})" if k and options.model == "full" else ""
        print(
            f"{name:18s} {median:9.4f} s  {ratio:6.3f} x forward, {counted:6.3f} x its arithmetic "
            f"({operations[name] / 1e12:.3f} TFLOP)  {peaks[name]:7.2f} GiB peak{goal}"
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


def measure_run(bench: Bench) -> None:
    from dtm_hf import DTMPipeline, F5FeatureExtractor, GriffinLimVocoder
    from dtm_hf.training.train import main

    options, config = bench.options, bench.head.config
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_corpus(root, seconds=max(3 * options.frames * 256 / 24000, 120.0))
        DTMPipeline(
            backbone=bench.backbone,
            tokenizer=bench.tokenizer,
            feature_extractor=F5FeatureExtractor(),
            vocoder=GriffinLimVocoder(),
            scheduler=bench.scheduler,
        ).save_pretrained(root / "base")
        steps = options.run_steps
        argv = f"--base_model {root / 'base'} --dataset {root} --output_dir {root / 'run'} --report_to none"
        argv += f" --frames_per_batch {options.frames} --num_workers {options.workers} --bucket_size 256"
        argv += f" --mixed_precision {'bf16' if options.dtype == 'bf16' else 'no'}"
        argv += f" --backbone_dtype {options.backbone_dtype} --head_architecture conv"
        if options.baked:
            argv += " --baked_guidance_scale 3.0"
        argv += f" --head_hidden_size {config.hidden_size} --head_num_layers {config.num_hidden_layers}"
        # The first half warms up; the figures are those of the second.
        argv += f" --max_steps {2 * steps} --log_interval {steps} --eval_interval {2 * steps}"
        argv += f" --save_interval {2 * steps} --num_validation_batches 1 --warmup_steps 1"
        reset_peak(bench.device)
        with contextlib.redirect_stdout(io.StringIO()):
            main(argv.split())
        log = [json.loads(line) for line in (root / "run" / "log.jsonl").read_text().splitlines()]
    figures = [line for line in log if "frames_per_second" in line][-1]
    print(
        f"training command, {steps} steps, k=4: {figures['frames_per_second']:,.0f} frames/s, padding "
        f"{figures['padding_share']:.1%}, waiting for data {figures['data_wait_share']:.1%}, "
        f"{peak_gib(bench.device):.2f} GiB peak"
    )


# Counting memory


def live_bytes():
    """A mode that knows how many bytes of tensors made inside it are alive, and the most there were in each part."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.weak import WeakIdKeyDictionary

    class LiveBytes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.now, self.part, self.peaks, self.known = 0, "", {}, WeakIdKeyDictionary()

        def enter(self, part: str) -> None:
            self.part = part
            self.peaks[part] = max(self.peaks.get(part, 0), self.now)

        def forget(self, size: int) -> None:
            self.now -= size

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(result):
                storage = tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else None
                if storage is None or storage in self.known:
                    continue
                size = storage.nbytes()
                self.known[storage] = size
                weakref.finalize(storage, self.forget, size)
                self.now += size
            self.enter(self.part)
            return result

    return LiveBytes()


def as_on_cuda(bench: Bench) -> None:
    """CUDA's autocast computes layer norms in float32, that of the CPU does not: make it so here."""
    for module in (*bench.head.modules(), *bench.backbone.modules()):
        if isinstance(module, bench.torch.nn.LayerNorm):
            module.register_forward_pre_hook(lambda _module, inputs: (inputs[0].float(), *inputs[1:]))


def count_step(bench: Bench, objective, utterances: int) -> dict[str, int]:
    """Most bytes alive in each part of a step, beyond the weights and their averages; and what autograd keeps."""
    import torch

    batch = bench.batch(utterances)
    weights = {p.untyped_storage().data_ptr() for p in (*bench.parameters, *bench.backbone.parameters())}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with live_bytes() as live:
        live.enter("frozen forward")
        handles = [bench.backbone.register_forward_hook(lambda *_: live.enter("head forward"))]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), bench.precision():
            loss = objective.loss(bench.head, batch).loss
        live.enter("backward")
        loss.backward()
        live.enter("optimizer")
        del loss
        torch.nn.utils.clip_grad_norm_(bench.parameters, 1.0)
        bench.optimizer.step()
        bench.optimizer.zero_grad()
        bench.ema.step(bench.parameters)
    for handle in handles:
        handle.remove()
    # The batch was made before.
    mel = sum(tensor.untyped_storage().nbytes() for tensor in (batch.mel, batch.attention_mask, batch.text_ids))
    parts = {part: size + mel for part, size in live.peaks.items() if part}
    return parts | {"kept by autograd": sum(kept.values())}


def count_memory(bench: Bench) -> None:
    options = bench.options
    few, many = options.count_utterances, 2 * options.count_utterances
    as_on_cuda(bench)
    # Adam's moments and the gradients' layout exist from the first step on.
    bench.step(bench.objective(1), bench.batch(1))
    moments = [value for state in bench.optimizer.state.values() for value in state.values()]
    sizes = {
        f"backbone, {options.backbone_dtype}": sum(p.nbytes for p in bench.backbone.state_dict().values()),
        "head, float32": sum(p.nbytes for p in bench.parameters),
        "Adam's two moments": sum(value.nbytes for value in moments if value.ndim),
        "averaged weights": sum(p.nbytes for p in bench.ema.shadow_params),
    }
    fixed = sum(sizes.values())
    print(
        f"Counted at {few} and {many} utterances of {UTTERANCE_FRAMES} frames on the CPU, and extended as a straight "
        f"line to {options.frames:,} frames. Every tensor's storage is counted from the operation that makes it until "
        "it is freed, the gradients among them; what autograd keeps is the storages that saved_tensors_hooks saw, "
        "without weights. Not counted: the work space inside a kernel, the allocator's rounding, the CUDA context "
        "(about half a GB). Layer norms are in float32, as CUDA's autocast has them. GB are 10^9 bytes."
    )
    for name, size in sizes.items():
        print(f"{name:34s} {size / 1e9:7.2f} GB")
    for checkpointing in (False, True):
        if checkpointing:
            bench.head.gradient_checkpointing_enable()
        for k in DRAWS:
            objective, lines = bench.objective(k), {}
            low, high = (count_step(bench, objective, utterances) for utterances in (few, many))
            for part in low:
                slope = (high[part] - low[part]) / ((many - few) * UTTERANCE_FRAMES)
                lines[part] = high[part] + slope * (options.frames - many * UTTERANCE_FRAMES)
            kept = lines.pop("kept by autograd")
            worst = max(lines, key=lines.get)
            each = ", ".join(f"{part} {size / 1e9:.2f}" for part, size in lines.items())
            print(
                f"k={k:<2d} {'gradient checkpointing' if checkpointing else '':22s} peak "
                f"{(fixed + lines[worst]) / 1e9:6.2f} GB, in the {worst} (beyond the fixed {fixed / 1e9:.2f}: {each}; "
                f"kept by autograd {kept / 1e9:.2f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--frames", type=int, default=38400, help="of a batch")
    parser.add_argument("--dtype", choices=("float32", "bf16"), default="bf16", help="bf16: mixed precision")
    parser.add_argument("--backbone-dtype", choices=("float32", "bfloat16"), default="float32", help="frozen weights")
    parser.add_argument("--baked", action="store_true", help="guidance baked in: the frozen pass runs both branches")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run-steps", type=int, default=10, help="of the training command; 0 to go without")
    parser.add_argument("--workers", type=int, default=2, help="processes that read and decode")
    parser.add_argument("--count-memory", action="store_true", help="count, instead of measuring")
    parser.add_argument("--count-utterances", type=int, default=2)
    options = parser.parse_args()

    import torch

    device = "cuda" if torch.cuda.is_available() and not options.count_memory else "cpu"
    bench = Bench(options, device)
    place = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(
        f"{options.model}, {options.frames:,} frames a batch, {options.dtype}, backbone in {options.backbone_dtype}, "
        f"{'guidance baked in, ' if options.baked else ''}{place}"
        + ("" if options.count_memory else f", {options.repeats} repeats")
    )
    if options.count_memory:
        count_memory(bench)
        return
    measure_steps(bench)
    if options.run_steps:
        measure_run(bench)


if __name__ == "__main__":
    main()

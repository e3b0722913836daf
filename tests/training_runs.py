"""Small training runs: a corpus, the arguments, the real command as processes, and its log."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from speech_corpora import row, write_parquet
from tiny import VOCABULARY

ROOT = Path(__file__).parents[1]
SIZES = (
    "--backbone_dim 64 --backbone_depth 2 --backbone_heads 1 --backbone_text_dim 32 --backbone_conv_layers 1".split()
)
LOOP = "--frames_per_batch 200 --num_workers 0 --warmup_steps 1".split()
LOOP += "--log_interval 1 --eval_interval 2 --save_interval 2".split()
QUIET = "--report_to none --num_validation_batches 1 --min_seconds 0.1 --max_bad_fraction 0.2".split()


def write_corpus(folder: Path, train_rows: int = 8, shards: int = 1) -> Path:
    """Clips of one speaker from 0.3 s on, each longer than the last; the first to train on has no text and is bad."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{character}\n" for character in VOCABULARY), encoding="utf-8")
    train = [row(i, 0.3 + 0.05 * (i % 16), text=None if i else "") for i in range(train_rows)]
    write_parquet(folder, train, shards)
    write_parquet(folder, [row(i, 0.3 + 0.05 * i) for i in range(4)], split="validation")
    return folder


def flow_matching_arguments(corpus: Path, output_dir: Path, *more: str) -> list[str]:
    """A tiny backbone from scratch; its dropout makes every draw count."""
    argv = ["--objective", "flow_matching", "--t_sampling", "uniform", "--dataset", str(corpus), *SIZES, *LOOP, *QUIET]
    argv += ["--vocab_file", str(corpus / "vocab.txt"), "--output_dir", str(output_dir)]
    return [*argv, "--pair_probability", "0.5", *more]


def log(folder: Path, name: str) -> dict[int, float]:
    """A figure of the log by step."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


class Run:
    """
    The training command as a group of processes, started by Accelerate's launcher or, with several processes on a
    CPU, by torch's own.
    """

    def __init__(self, argv: list[str], processes: int = 1, file_size_limit: int | None = None, **variables: str):
        launcher = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
        launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        environment |= variables

        def limit() -> None:
            import resource

            # A write past the limit fails as one on a full disk does.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, file_size_limit))

        self.output_dir = Path(argv[argv.index("--output_dir") + 1])
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.output = self.output_dir.with_name(self.output_dir.name + ".out")
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, "training/train.py", *argv],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
                preexec_fn=limit if file_size_limit else None,
            )

    def wait(self, seconds: float = 300) -> int:
        """Exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end after {seconds} s: {self.output.read_text()[-2000:]}") from None

    def wait_until(self, condition, seconds: float = 300) -> None:
        """Look often until `condition()` holds; fails if the run ends first."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"not reached: {self.output.read_text()[-2000:]}")
            time.sleep(0.0005)

    def processes(self) -> list[psutil.Process]:
        """The launcher and all that it started; torch's gives each a session of its own."""
        try:
            launcher = psutil.Process(self.process.pid)
            return [launcher, *launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """SIGKILL to all of its processes at once; the launcher first, lest it sees the others die."""
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self.process.wait()

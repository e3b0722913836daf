"""Small training runs: a corpus, the arguments, the real command as processes, and its log."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

from processes import Forked, kill
from speech_corpora import row, write_parquet
from tiny import VOCABULARY

from dtm_hf.training.train import main

ROOT = Path(__file__).parents[1]
ON_CPU = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
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


def rank_variables(processes: int) -> list[dict[str, str]]:
    """What a launcher tells each of several processes of one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


class Run:
    """
    The training command in one process, or in several that a launcher would have started; or a `script` in its place.
    Further arguments are variables of the environment.
    """

    def __init__(
        self,
        argv: list[str],
        processes: int = 1,
        script: Path | None = None,
        file_size_limit: int | None = None,
        **variables: str,
    ):
        self.output_dir = Path(argv[argv.index("--output_dir") + 1])
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.output = self.output_dir.with_name(self.output_dir.name + ".out")
        self.output.touch()
        called = (main, argv) if script is None else (runpy.run_path, str(script))
        ranks = rank_variables(processes) if processes > 1 else [{}]
        self.ranks = [
            Forked(
                *called,
                output=self.output,
                environment=os.environ | ON_CPU | variables | rank,
                file_size_limit=file_size_limit,
            )
            for rank in ranks
        ]

    def wait(self, seconds: float = 300) -> int:
        """Exit status: 0 if each process has it."""
        return max(abs(rank.wait(seconds)) for rank in self.ranks)

    def poll(self) -> int | None:
        """Exit status of the first process; `None` while it runs."""
        return self.ranks[0].poll()

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        for rank in self.ranks:
            kill(rank.pid)
        for rank in self.ranks:
            rank.kill()


class Launched:
    """
    The training command as a user types it, in new processes: started by Accelerate's launcher or, with several
    processes on a CPU, by torch's own. To start them takes longer than a [`Run`].
    """

    def __init__(self, argv: list[str], processes: int = 1):
        launcher = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
        launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
        output_dir = Path(argv[argv.index("--output_dir") + 1])
        output_dir.mkdir(parents=True, exist_ok=True)
        self.output = output_dir.with_name(output_dir.name + ".out")
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, "training/train.py", *argv],
                cwd=ROOT,
                env=os.environ | ON_CPU,
                stdout=output,
                stderr=output,
            )

    def wait(self, seconds: float = 300) -> int:
        """Exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end after {seconds} s: {self.output.read_text()[-2000:]}") from None

    def poll(self) -> int | None:
        """Exit status; `None` while it runs."""
        return self.process.poll()

    def kill(self) -> None:
        """SIGKILL to the launcher and all that it started."""
        kill(self.process.pid)
        self.process.wait()

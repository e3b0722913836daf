"""
Throughput of `dtm_hf.synthesize`: rows at once, and processes, as ratios within one run.

    python benchmarks/synthesis.py [--rows 64] [--batches 1,8,32] [--processes 1,2] [--model org/dtm-f5] [--gpu]

Every run is launched by Accelerate and speaks the same texts; what is timed begins when the plan is written and ends
with the summary, so that imports and loading are not in it. Runs of one process must give the same bytes as those of
several.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TEXTS = (
    "The train leaves at half past nine.",
    "Please call two five one.",
    "Meet me on Monday.",
    "Today is Friday.",
    "The bus leaves from platform two.",
)
# About what a prompt and a sentence of these take together.
FRAMES_A_ROW = 450


def run(folder: Path, texts: Path, processes: int, batch: int, options: argparse.Namespace) -> dict:
    """Hours of speech a second, and a digest of what was written."""
    out = folder / f"{processes}x{batch}"
    launch = ["accelerate", "launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--num_processes", str(processes), *(["--multi_gpu"] if options.gpu and processes > 1 else [])]
    launch += [] if options.gpu else ["--cpu"]
    arguments = ["--texts", str(texts), "-o", str(out), "--num-shards", "4", "--steps", "4"]
    arguments += ["--max-batch-frames", str(1 if batch == 1 else batch * FRAMES_A_ROW)]
    arguments += ["--model", options.model] if options.model else []
    program = Path(sys.executable).with_name(launch[0])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [program, *launch[1:], "-m", "dtm_hf.synthesize", *arguments],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    summary = out / "summary.json"
    seconds = summary.stat().st_mtime - (out / ".work/plan/settings.json").stat().st_mtime
    hours = json.loads(summary.read_text())["hours"]
    content = b"".join(path.read_bytes() for path in sorted((out / "data").iterdir()))
    return {"hours_a_second": hours / seconds, "digest": hashlib.sha256(content).hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--model")
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    batches, processes = ([int(n) for n in text.split(",")] for text in (options.batches, options.processes))
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.txt"
        texts.write_text("".join(f"{TEXTS[i % len(TEXTS)]}\n" for i in range(options.rows)))
        first, digests = None, {}
        print("| processes | rows at once | hours of speech a second | of the first |\n|---|---|---|---|", flush=True)
        # All batches in one process, then the first of them in more.
        for count, batch in [(processes[0], b) for b in batches] + [(n, batches[0]) for n in processes[1:]]:
            figures = run(Path(folder), texts, count, batch, options)
            first = first or figures["hours_a_second"]
            speed = figures["hours_a_second"]
            print(f"| {count} | {batch} | {speed:.2e} | {speed / first:.2f} |", flush=True)
            if digests.setdefault(batch, figures["digest"]) != figures["digest"]:
                raise SystemExit(f"{count} processes wrote other bytes than {processes[0]}.")


if __name__ == "__main__":
    main()

"""
What a port costs beside its source: `python benchmarks/ports.py MODEL PORT [PORT ...]`.

Everything is taken in turns within one run and printed as ratios too, so that what else the machine does falls on all
sides. Processes are compared by the CPU time that they take, which waiting does not add to.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import venv
from pathlib import Path

import numpy as np

TEXT = "The train leaves at half past nine."


def reference_of(model: Path) -> tuple[str, str]:
    audio = sorted(model.glob("reference*.wav"))[0]
    return str(audio), audio.with_suffix(".txt").read_text(encoding="utf-8").strip()


def run_command(arguments: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak resident MB of `dtm-hf ARGUMENTS`."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "dtm_hf.commands.main", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"dtm-hf {' '.join(arguments)} failed")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def cold(model: Path, ports: list[Path], repeats: int) -> None:
    """From the command to a WAV, in processes of their own."""
    audio, said = reference_of(model)
    figures: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as folder:
        common = [TEXT, "--reference-audio", audio, "--reference-text", said, "-o", f"{folder}/speech.wav"]
        for _ in range(repeats):
            figures.setdefault("torch", []).append(run_command(["speak", *common, "--model", str(model)]))
            for port in ports:
                more = ["--model", str(port), "--runtime", "onnx"]
                figures.setdefault(port.name, []).append(run_command(["speak", *common, *more]))
    print("command to WAV, cold | wall s | CPU s | of torch's CPU | peak MB | of torch's")
    _, cpu, memory = np.median(figures["torch"], axis=0)
    for name, values in figures.items():
        wall, own, peak = np.median(values, axis=0)
        print(f"{name} | {wall:.2f} | {own:.2f} | {own / cpu:.2f} | {peak:.0f} | {peak / memory:.2f}")


def passes(model: Path, ports: list[Path], repeats: int) -> None:
    """One pass of the backbone, warm, in one process and at one number of threads."""
    import torch

    from dtm_hf import DTMPipeline
    from dtm_hf.ports.graphs_f5 import backbone_graphs
    from dtm_hf.runtime import Speaker

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    graph = {graph.name: graph for graph in backbone_graphs(DTMPipeline.from_pretrained(model).backbone)}["backbone"]
    runs = {"torch": graph} | {port.name: Speaker(port, threads).backbone.graphs["backbone"] for port in ports}
    print(f"a pass, {threads} thread(s) | rows x frames | ms | of torch's, median of the pairs")
    for rows, frames in ((1, 300), (2, 300), (1, 517)):
        arrays = {}
        for name, tensor in graph.inputs.items():
            shape = [rows if axis == 0 else frames if axis == 1 and 1 in graph.axes[name] else size
                     for axis, size in enumerate(tensor.shape)]  # fmt: skip
            arrays[name] = np.resize(tensor.numpy(), shape)
        arrays["attention_mask"][:] = True
        times = {name: [] for name in runs}
        for _ in range(repeats + 2):
            for name, run in runs.items():
                started = time.perf_counter()
                run(**arrays)
                times[name].append(time.perf_counter() - started)
        for name, values in times.items():
            ratio = np.median(np.array(values[2:]) / np.array(times["torch"][2:]))
            print(f"{name} | {rows} x {frames} | {1e3 * np.median(values[2:]):.1f} | {ratio:.2f}")


def clients(port: Path, reference: tuple[str, str], numbers: list[int], texts: int) -> None:
    """Speech a second of the machine, for clients that each wait for an answer before they ask again."""
    from dtm_hf.runtime import Batcher, Speaker

    speaker = Speaker(port, int(os.environ.get("OMP_NUM_THREADS", "1")))
    speaker(TEXT, *reference)
    print(f"clients of {port.name} | texts a second | s of speech a second | mean wait s")
    for number in numbers:
        waits, seconds, lock = [], [], threading.Lock()
        with Batcher(speaker, max_rows=number) as batcher:

            def client(share: int, batcher=batcher, waits=waits, seconds=seconds, lock=lock) -> None:
                for seed in range(share):
                    started = time.perf_counter()
                    speech = batcher.submit(TEXT, *reference, seed=seed).result()
                    with lock:
                        waits.append(time.perf_counter() - started)
                        seconds.append(len(speech.audio) / speech.sampling_rate)

            started = time.perf_counter()
            threads = [threading.Thread(target=client, args=(texts // number,)) for _ in range(number)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took = time.perf_counter() - started
        print(f"{number} | {len(waits) / took:.2f} | {sum(seconds) / took:.2f} | {np.mean(waits):.2f}")


def quality(
    model: Path, ports: list[Path], texts: str, arm: str, recognizer: str | None, limit: int, folder: Path
) -> None:
    """
    What rounding costs: word error, and where there are recordings the mel distance to them, of the same sentences
    from the same noise; and how far the mels are from the source's. `dtm-hf benchmark` judges, and goes on where it
    was.
    """
    command = ["benchmark", "--set", texts, "--arms", arm, "--repeats", "0", "--limit", str(limit)]
    command += ["--recognizer", recognizer] if recognizer else []
    command += ["--metrics", "wer" if texts.endswith(".txt") or texts == "typed" else "wer,mel"]
    figures, mels = {}, {}
    for path in (model, *ports):
        output = folder / path.name
        run_command([*command, "--model", str(path), "-o", str(output)])
        lines = [json.loads(line) for line in (output / "records.jsonl").read_text(encoding="utf-8").splitlines()]
        found: dict[str, dict[str, list[float]]] = {}
        for line in lines:
            if line["arm"] == arm:
                for name, pair in line["figures"].items():
                    found.setdefault(name, {}).update({line["item"]: pair} if pair is not None else {})
        figures[path.name] = found
        mels[path.name] = [np.load(file).astype(np.float32) for file in sorted(output.glob(f"mels/{arm}/*.npy"))]
    random = np.random.default_rng(0)
    print(
        f"{arm}, {limit} sentences | figure | value | less the source's, 95 % | in parts of the source's | "
        "distance of the mels to the source's"
    )
    for name, found in figures.items():
        away = [
            np.abs(mine - own).mean()
            for mine, own in zip(mels[name], mels[model.name], strict=True)
            if mine.shape == own.shape
        ]
        for figure, items in found.items():
            own = figures[model.name][figure]
            shared = sorted(items.keys() & own.keys())
            mine, theirs = (np.array([side[item] for item in shared]) for side in (items, own))
            chosen = random.integers(0, len(shared), (2000, len(shared)))
            value, drawn = _ratio(mine), [_ratio(mine[rows]) - _ratio(theirs[rows]) for rows in chosen]
            low, high = np.percentile(drawn, [2.5, 97.5])
            print(f"{name} | {figure} | {value:.4f} | {value - _ratio(theirs):+.4f} [{low:+.4f}, {high:+.4f}] | "
                  f"{value / _ratio(theirs) - 1 if theirs[:, 0].any() else float('nan'):+.1%} | "
                  f"{np.mean(away):.4f} over {len(away)}")  # fmt: skip


def _ratio(pairs: np.ndarray) -> float:
    """Of sums of numerators and denominators, `(n, 2)`."""
    return float(pairs[:, 0].sum() / pairs[:, 1].sum())


def first_audio(port: Path, reference: tuple[str, str]) -> None:
    """From a call of a warm speaker to the first chunk of its stream."""
    from dtm_hf.runtime import Speaker

    speaker = Speaker(port, int(os.environ.get("OMP_NUM_THREADS", "1")))
    text = "The train leaves at half past nine. " * 6
    waits = []
    for _ in range(5):
        started, cpu = time.perf_counter(), time.process_time()
        next(speaker.stream(text, *reference))
        waits.append((time.perf_counter() - started, time.process_time() - cpu))
    wall, own = np.median(waits, axis=0)
    print(f"first audio of {port.name}: {wall:.2f} s, of which {own:.2f} s CPU")


def installed(port: Path) -> None:
    """What a fresh environment takes that speaks without PyTorch, less what makes environments; and that it speaks."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        bare, bytecode = _bytes(Path(folder)), sum(path.stat().st_size for path in Path(folder).rglob("*.pyc"))
        pip = [f"{folder}/bin/pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "numpy", "onnxruntime", "soundfile", "soxr", "typer", "rich"], check=True)
        without = _bytes(Path(folder)) - bare
        subprocess.run([*pip, "--no-deps", str(root)], check=True)
        whole = _bytes(Path(folder)) - bare
        compiled = sum(path.stat().st_size for path in Path(folder).rglob("*.pyc")) - bytecode
        (packages,) = Path(folder).glob("lib/python*/site-packages")
        parts = sorted(((_bytes(part), part.name) for part in packages.iterdir() if part.is_dir()), reverse=True)
        say = ["speak", "Good morning.", "--runtime", "onnx", "--model", str(port.resolve()), "-o", "speech.wav"]
        # What stands in for packages of this process is not in the new environment.
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        spoken = subprocess.run([f"{folder}/bin/dtm-hf", *say], cwd=folder, env=clean, check=False)
    own = whole - without
    print(f"a fresh environment: {whole / 1e6:.0f} MB, {own / 1e6:.0f} of them this package; of all "
          f"{compiled / 1e6:.0f} bytecode, which pip need not compile; "
          f"speaks: {'yes' if spoken.returncode == 0 else 'NO'}; "
          + ", ".join(f"{name} {size / 1e6:.0f}" for size, name in parts[:8]))  # fmt: skip


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("ports", type=Path, nargs="+")
    parser.add_argument("--only", choices=("cold", "passes", "clients", "first", "install", "quality"), nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--set", default="typed", help="of quality, as of `dtm-hf benchmark`")
    parser.add_argument("--arm", default="dtm-4x2", help="of quality")
    parser.add_argument("--recognizer", help="of quality")
    parser.add_argument("--limit", type=int, default=100, help="sentences of quality")
    parser.add_argument("--output", type=Path, default=Path("runs/ports-quality"), help="of quality")
    arguments = parser.parse_args()
    wanted = arguments.only or ["cold", "passes", "clients", "first"]
    reference = reference_of(arguments.model)
    if "install" in wanted:
        installed(arguments.ports[0])
    if "cold" in wanted:
        cold(arguments.model, arguments.ports, arguments.repeats)
    if "passes" in wanted:
        passes(arguments.model, arguments.ports, arguments.repeats)
    if "quality" in wanted:
        quality(
            arguments.model,
            arguments.ports,
            arguments.set,
            arguments.arm,
            arguments.recognizer,
            arguments.limit,
            arguments.output,
        )
    for port in arguments.ports:
        if "clients" in wanted:
            clients(port, reference, [1, 4, 16], 32)
        if "first" in wanted:
            first_audio(port, reference)


if __name__ == "__main__":
    main()

"""What a port costs beside its source: size, speed, memory, and on which machine that was."""

import os
import platform
import re
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from dtm_hf.ports.ported import Ported
from dtm_hf.runtime.manifest import RunGraph


def cost_of(source: DiffusionPipeline, parts: Mapping[str, Ported]) -> dict[str, Any]:
    """Sizes, threads and the machine."""
    size = sum(path.stat().st_size for p in parts.values() for path in p.folder.iterdir() if path.suffix != ".json")
    return {
        "graph bytes": size,
        "parameter bytes": sum(
            parameter.nbytes for name in parts for parameter in source.components[name].parameters()
        ),
        "peak resident bytes of both": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "torch threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "cpu": cpu_name(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


def cpu_name() -> str:
    """As the system has it; where it has none, the kind of machine."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def seconds_in_turns(runs: Mapping[str, RunGraph], arrays: Mapping[str, np.ndarray], repeats: int) -> dict[str, float]:
    """Median seconds of each of several graphs, in turns, so that what else the machine does falls on all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run(**arrays)
            times[name].append(time.perf_counter() - started)
    # The first pass of each warms up.
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def speaking_cost(
    speak: Mapping[str, Callable[[], float]], first_chunk: Mapping[str, Callable[[], Any]] | None = None
) -> dict[str, dict[str, float | None]]:
    """
    What it costs to speak, warm, in this process.

    Args:
        speak (`dict[str, Callable]`): by side, `"source"` and `"port"`: speaks, and returns the seconds of speech.
        first_chunk (`dict[str, Callable]`, *optional*): by side: speaks until the first chunk of a stream is there.

    Returns:
        Of each side `real-time factor`, seconds it takes over seconds of speech; `peak resident bytes above those
        before`, which leaves the weights out, or `None` where the system does not tell; and `first audio seconds`,
        where there are streams.
    """
    found: dict[str, dict[str, float | None]] = {}
    for side, run in speak.items():
        before = _reset_peak()
        started = time.perf_counter()
        seconds = run()
        took = time.perf_counter() - started
        peak = None if before is None else max(_status("VmHWM") - before, 0)
        found[side] = {"real-time factor": took / seconds, "peak resident bytes above those before": peak}
        if first_chunk is not None:
            started = time.perf_counter()
            first_chunk[side]()
            found[side]["first audio seconds"] = time.perf_counter() - started
    return found


def _reset_peak() -> int | None:
    """Forget the highest memory so far; bytes that are resident now, `None` where this cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return _status("VmRSS")
    except OSError:
        return None


def _status(name: str) -> int:
    """Bytes of an entry of the process's status."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))[1])

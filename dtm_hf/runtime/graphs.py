"""The graphs of a ported component, in the runtime of their format."""

import os
from collections.abc import Callable
from pathlib import Path

from dtm_hf.runtime.manifest import Manifest, RunGraph
from dtm_hf.runtime.onnx_graphs import onnx_opener
from dtm_hf.runtime.openvino_graphs import openvino_opener

# By format: from a number of threads to what opens a file. They import their library when they are called.
RUNTIMES: dict[str, Callable[[int], Callable[[Path], RunGraph]]] = {"onnx": onnx_opener, "openvino": openvino_opener}


def open_graphs(
    folder: Path, manifest: Manifest, threads: int | None = None, runtime: str | None = None
) -> dict[str, RunGraph]:
    """
    The graphs of a ported component by name, ready to run on the CPU.

    Args:
        folder (`Path`): of the component.
        manifest ([`Manifest`]): read from it.
        threads (`int`, *optional*): of each graph; by default those of `OMP_NUM_THREADS`, else all cores that the
            process may use.
        runtime (`str`, *optional*): `"onnx"` or `"openvino"`, which the port must be of; by default that which it is.

    Raises:
        ImportError: if the runtime is not installed.
        ValueError: if the port is in another format, or a file is damaged.
    """
    if manifest.export_format not in RUNTIMES:
        raise ValueError(
            f"{str(folder)!r} is exported as {manifest.export_format!r}, and without PyTorch "
            f"{' and '.join(map(repr, RUNTIMES))} alone are read; `DTMPipeline.from_pretrained` loads it."
        )
    if runtime not in (None, manifest.export_format):
        raise ValueError(
            f"`runtime` must be {manifest.export_format!r} for {str(folder)!r}, which is exported as that, but got "
            f"{runtime!r}."
        )
    # The libraries would start a thread for each core of the machine, whatever the process may use.
    open_file = RUNTIMES[manifest.export_format](threads or _default_threads())
    graphs = {}
    for name, file in manifest.graphs.items():
        try:
            graphs[name] = open_file(folder / file)
        except Exception as error:
            # They raise classes of their own, which derive from Exception alone.
            raise ValueError(f"{str(folder / file)!r} cannot be opened: {' '.join(str(error).split())}") from error
    return graphs


def _default_threads() -> int:
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else len(os.sched_getaffinity(0))

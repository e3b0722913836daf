"""Graphs in ONNX Runtime."""

import os
from pathlib import Path

import numpy as np

from dtm_hf.runtime.manifest import Manifest, RunGraph


def open_graphs(folder: Path, manifest: Manifest, threads: int | None = None) -> dict[str, RunGraph]:
    """
    The graphs of a ported component by name, ready to run on the CPU.

    Args:
        folder (`Path`): of the component.
        manifest ([`Manifest`]): read from it.
        threads (`int`, *optional*): of each graph; by default those of `OMP_NUM_THREADS`, else all cores that the
            process may use.

    Raises:
        ImportError: if ONNX Runtime is not installed.
        ValueError: if the port is in another format, or a file is damaged.
    """
    if manifest.export_format != "onnx":
        raise ValueError(
            f"{str(folder)!r} is exported as {manifest.export_format!r}, and this runtime reads 'onnx' alone; "
            "`DTMPipeline.from_pretrained` loads it."
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("ONNX Runtime is not installed: `pip install onnxruntime`.") from error
    # Its warnings are for those who write graphs.
    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    # The library would start a thread for each core of the machine, whatever the process may use.
    options.intra_op_num_threads = threads or _default_threads()
    options.inter_op_num_threads = 1
    graphs = {}
    for name, file in manifest.graphs.items():
        try:
            session = onnxruntime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # It raises classes of its own, which derive from Exception alone.
            raise ValueError(f"{str(folder / file)!r} cannot be opened: {' '.join(str(error).split())}") from error
        graphs[name] = OnnxGraph(session)
    return graphs


def _default_threads() -> int:
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else len(os.sched_getaffinity(0))


class OnnxGraph:
    """
    One graph.

    Args:
        session (`onnxruntime.InferenceSession`): opened. Threads may share it.
    """

    def __init__(self, session):
        self.session = session
        self.inputs = [entry.name for entry in session.get_inputs()]
        self.outputs = [entry.name for entry in session.get_outputs()]

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays by name; those that the graph has no use for are left out, as the exporter left their inputs out."""
        results = self.session.run(None, {name: arrays[name] for name in self.inputs})
        return dict(zip(self.outputs, results, strict=True))

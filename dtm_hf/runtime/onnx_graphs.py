"""Graphs in ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np


def onnx_opener(threads: int) -> Callable[[Path], "OnnxGraph"]:
    """
    What opens a file of ONNX, ready to run on the CPU.

    Args:
        threads (`int`): of each graph.

    Raises:
        ImportError: if ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("ONNX Runtime is not installed: `pip install onnxruntime`.") from error
    # Its warnings are for those who write graphs.
    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1

    def open_file(path: Path) -> OnnxGraph:
        return OnnxGraph(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))

    return open_file


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

"""Graphs in OpenVINO."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np


def import_openvino() -> ModuleType:
    """
    OpenVINO without its telemetry, which tells its makers of every conversion unless a file in the user's home forbids
    it; to a process that has imported it before, nothing is done.

    Raises:
        ImportError: if it is not installed.
    """
    telemetry = "openvino_telemetry"
    # Absent for the time of the import: OpenVINO then takes a stub of its own in its place.
    hidden = "openvino" not in sys.modules and telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None
    try:
        import openvino
    except ImportError as error:
        raise ImportError('OpenVINO is not installed: `pip install "dtm-hf[openvino]"`.') from error
    finally:
        if hidden:
            del sys.modules[telemetry]
    return openvino


def openvino_opener(threads: int) -> Callable[[Path], "OpenVINOGraph"]:
    """
    What opens a file of OpenVINO, ready to run on the CPU in float32.

    Args:
        threads (`int`): of each graph.

    Raises:
        ImportError: if OpenVINO is not installed.
    """
    core = import_openvino().Core()
    options = {
        # A CPU that has bfloat16 computes in it unless told otherwise, which a network of this kind does not bear. The
        # file asks for float32 too, and is not heard.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Two processes would be pinned to the same core.
        "ENABLE_CPU_PINNING": False,
    }

    def open_file(path: Path) -> OpenVINOGraph:
        return OpenVINOGraph(core.compile_model(core.read_model(path), "CPU", options))

    return open_file


class OpenVINOGraph:
    """
    One graph.

    Args:
        compiled (`openvino.CompiledModel`): compiled. Threads may share it.
    """

    def __init__(self, compiled):
        self.compiled = compiled
        # An input has a set of names, and an output too.
        self.inputs = [port.get_names() for port in compiled.inputs]
        self.outputs = [port.get_any_name() for port in compiled.outputs]
        # A request serves one caller at a time; one that is not in use waits here for the next.
        self._idle: list = []

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays by name; those that the graph has no use for are left out, as the exporter left their inputs out."""
        # By place, and all of them: one that is not given would be taken for whatever its memory holds.
        given = [names & arrays.keys() for names in self.inputs]
        if missing := [sorted(names)[0] for names, found in zip(self.inputs, given, strict=True) if not found]:
            raise KeyError(missing[0])
        feed = {place: np.ascontiguousarray(arrays[names.pop()]) for place, names in enumerate(given)}
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        # Inputs are read where they lie; outputs are copied, for the next call writes over them.
        results = request.infer(feed, share_inputs=True, share_outputs=False)
        outputs = {name: results[place] for place, name in enumerate(self.outputs)}
        self._idle.append(request)
        return outputs

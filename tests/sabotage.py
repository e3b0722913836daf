"""Faults for a port, and what a gate says of it."""

import numpy as np
import onnx


def failed(report):
    """The graphs that failed, with `speech` for a free run and `sound` for what is heard in the end."""
    rungs = report["rungs"]
    names = {"free run": "speech", "end to end": "sound"}
    graphs = {name for name, graph in rungs["graphs"]["graphs"].items() if not graph["passed"]}
    return graphs | {name for rung, name in names.items() if not rungs[rung]["passed"]}


def edit_graph(path, change):
    """Rewrite a graph in ONNX in its place, whose `GraphProto` is handed to `change`."""
    model = onnx.load(path)
    change(model.graph)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    onnx.save(model, path)


def _rewrite(tensor, values):
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def transposed(size, every=False):
    """A change that transposes the first square matrix, or convolution's, of a size; or all of them."""

    def change(graph):
        found = [t for t in graph.initializer if list(t.dims[:2]) == [size, size] and len(t.dims) < 4]
        assert found, "nothing to transpose"
        for tensor in found if every else found[:1]:
            _rewrite(tensor, onnx.numpy_helper.to_array(tensor).swapaxes(0, 1))

    return change


def kernels_back_to_front(graph):
    """Turn the kernel of the first convolution over time round."""
    found = [t for t in graph.initializer if len(t.dims) == 3 and t.dims[2] > 1]
    _rewrite(found[0], onnx.numpy_helper.to_array(found[0])[..., ::-1])


def wrapped(graphs, name, run):
    """Put `run(graph, **arrays)` in the place of a graph."""
    graph = graphs[name]
    graphs[name] = lambda **arrays: run(graph, **arrays)


def without(graphs, name, dropped):
    """Drop an input of a graph: nothing of it arrives. Of a mask, that everything is valid."""

    def run(graph, **arrays):
        nothing = np.ones_like if dropped in ("attention_mask", "masks", "used", "text_mask") else np.zeros_like
        return graph(**arrays | {dropped: nothing(arrays[dropped])})

    wrapped(graphs, name, run)

"""The gate lets a port through, and stops one with a fault in it: each sabotage must be found."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from dtm_hf import DTMPipeline
from dtm_hf.ports.comparison import difference
from dtm_hf.ports.parity import check_parity
from dtm_hf.ports.tolerance import BARS

SAID = "What is said."


@pytest.fixture
def folder(port, tmp_path):
    return shutil.copytree(port, tmp_path / "port")


@pytest.fixture
def check(port_source, folder, reference_audio):
    """The report on the port in `folder`, or on a pipeline of it that a test has changed."""

    def run(pipeline=None):
        return check_parity(port_source, pipeline or DTMPipeline.from_pretrained(folder), reference_audio, SAID, 0)

    return run


def failed(report):
    graphs = {name for name, graph in report["rungs"]["graphs"]["graphs"].items() if not graph["passed"]}
    return graphs | ({"speech"} if not report["rungs"]["free run"]["passed"] else set())


def test_a_port_passes_and_says_what_was_compared(check):
    report = check()
    assert report["passed"] and failed(report) == set()
    assert set(report["rungs"]["graphs"]["graphs"]) == {
        "backbone/backbone", "backbone/text", "head/head", "head/modulation", "head/prepare", "vocoder/vocoder"
    }  # fmt: skip
    assert len(report["rungs"]["graphs"]["teacher forced"]) == 4
    assert json.loads(json.dumps(report)) == report


def edit_graph(path, change):
    model = onnx.load(path)
    change(model.graph)
    path.with_name(f"{path.name}.data").unlink()
    onnx.save(model, path)


def test_a_transposed_weight_is_found(check, folder):
    def transpose(graph):
        square = [t for t in graph.initializer if len(t.dims) == 2 and t.dims[0] == t.dims[1] == 64]
        weights = onnx.numpy_helper.to_array(square[0])
        square[0].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(weights.T), square[0].name))

    edit_graph(folder / "backbone" / "backbone.onnx", transpose)
    assert failed(check()) >= {"backbone/backbone", "speech"}


def test_a_position_off_by_one_is_found(check, folder):
    pipeline = DTMPipeline.from_pretrained(folder)
    text = pipeline.backbone.graphs["text"]
    pipeline.backbone.graphs["text"] = lambda token_ids, valid: {
        "embeds": np.roll(text(token_ids=token_ids, valid=valid)["embeds"], 1, axis=1)
    }
    assert failed(check(pipeline)) == {"backbone/text", "speech"}


@pytest.mark.parametrize("name", ["cond", "text_embeds", "attention_mask", "timestep"])
def test_a_dropped_input_of_the_backbone_is_found(check, folder, name):
    pipeline = DTMPipeline.from_pretrained(folder)
    backbone = pipeline.backbone.graphs["backbone"]
    nothing = np.ones_like if name == "attention_mask" else np.zeros_like
    pipeline.backbone.graphs["backbone"] = lambda **arrays: backbone(**arrays | {name: nothing(arrays[name])})
    assert "backbone/backbone" in failed(check(pipeline))


@pytest.mark.parametrize("name", ["velocity", "prepared_states", "flow_time", "modulation", "attention_mask"])
def test_a_dropped_input_of_the_head_is_found(check, folder, name):
    pipeline = DTMPipeline.from_pretrained(folder)
    head = pipeline.head.graphs["head"]
    nothing = np.ones_like if name == "attention_mask" else np.zeros_like
    pipeline.head.graphs["head"] = lambda **arrays: head(**arrays | {name: nothing(arrays[name])})
    assert "head/head" in failed(check(pipeline))


def test_swapped_branches_are_found(check, folder):
    pipeline = DTMPipeline.from_pretrained(folder)
    backbone = pipeline.backbone.graphs["backbone"]

    def swapped(**arrays):
        half = len(arrays["sample"]) // 2
        return {name: np.roll(value, half, axis=0) for name, value in backbone(**arrays).items()}

    pipeline.backbone.graphs["backbone"] = swapped
    assert failed(check(pipeline)) >= {"backbone/backbone", "speech"}


def test_a_state_fed_back_from_the_wrong_place_is_found(check, folder):
    pipeline = DTMPipeline.from_pretrained(folder)
    sample = pipeline.backbone.forward

    # As if the loop handed the velocity on in the place of X_t: no graph is wrong, and yet the speech is.
    def forward(x_t, *args, **kwargs):
        output = sample(x_t, *args, **kwargs)
        output.velocity = output.velocity + 0.5 * output.velocity.roll(1, dims=1)
        return output

    pipeline.backbone.forward = forward
    assert failed(check(pipeline)) == {"speech"}


def test_a_port_of_another_backbone_is_refused(make_backbone, port_source, folder, reference_audio):
    other = DTMPipeline(
        **port_source.components | {"backbone": make_backbone(seed=1, text_embedding_average_upsampling=True)},
        force_head=True,
    )
    with pytest.raises(ValueError, match="made of another backbone"):
        check_parity(other, DTMPipeline.from_pretrained(folder), reference_audio, SAID)


@pytest.mark.parametrize(
    ("output", "expected", "fault"),
    [
        (np.zeros(0), np.zeros(0), "is empty"),
        (np.ones(5), np.ones(5), "is constant"),
        (np.full(5, np.nan), np.arange(5.0), "no finite numbers"),
        (np.arange(4.0), np.arange(5.0), "has shape"),
    ],
)
def test_outputs_that_tell_nothing_fail(output, expected, fault):
    found = difference(output, expected)
    assert fault in found.fault and not any(found.within(bar) for bar in BARS.values())


def test_the_bars_rise_with_the_rounding():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).numpy()
    for weights, noise in (("fp32", 1e-6), ("fp16", 1e-4), ("int8", 1e-2)):
        close, far = values + noise * values[::-1], values + 100 * noise * values[::-1]
        assert difference(close, values).within(BARS[weights])
        assert not difference(far, values).within(BARS[weights]), weights

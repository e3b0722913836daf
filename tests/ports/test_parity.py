"""The gate lets a port through, and stops one with a fault in it: each sabotage must be found."""

import json
import shutil

import numpy as np
import pytest
import torch
from sabotage import edit_graph, failed, kernels_back_to_front, transposed, without, wrapped

from dtm_hf import DTMPipeline
from dtm_hf.ports.compared import BATCHES, TEXTS
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

    def run(pipeline=None, batches=((0, 1),), **options):
        pipeline = pipeline or DTMPipeline.from_pretrained(folder)
        return check_parity(
            port_source, pipeline, reference_audio, SAID, **{"time_passes": 0} | options, batches=batches
        )

    return run


def test_a_port_passes_and_says_what_was_compared(check):
    report = check(batches=BATCHES, time_passes=1, judges={"frames": lambda *given: (len(given[1]), 256)})
    assert report["passed"] and failed(report) == set()
    assert set(report["rungs"]["graphs"]["graphs"]) == {
        "backbone/backbone", "backbone/text", "head/head", "head/modulation", "head/prepare", "vocoder/vocoder"
    }  # fmt: skip
    assert len(report["rungs"]["graphs"]["teacher forced"]) == 4
    heard = report["rungs"]["end to end"]
    assert [row["text"] for row in heard["utterances"]] == list(TEXTS)
    assert set(heard["figures"]["frames"]) == {"source", "port", "another seed"}
    for cost in report["cost"]["speaking"].values():
        assert cost["real-time factor"] > 0 and cost["first audio seconds"] > 0
    assert report["cost"]["cpu"] and report["cost"]["torch threads"] > 0
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(("graph", "size"), [("backbone/backbone", 64), ("head/modulation", 32)])
def test_a_transposed_weight_is_found(check, folder, graph, size):
    edit_graph(folder / f"{graph}.onnx", transposed(size))
    assert failed(check()) >= {graph, "speech"}


def test_a_position_off_by_one_is_found(check, folder):
    pipeline = DTMPipeline.from_pretrained(folder)
    text = pipeline.backbone.graphs["text"]
    pipeline.backbone.graphs["text"] = lambda token_ids, valid: {
        "embeds": np.roll(text(token_ids=token_ids, valid=valid)["embeds"], 1, axis=1)
    }
    assert failed(check(pipeline)) == {"backbone/text", "speech", "sound"}


@pytest.mark.parametrize("name", ["sample", "cond", "text_embeds", "attention_mask", "timestep"])
def test_a_dropped_input_of_the_backbone_is_found(check, folder, name):
    pipeline = DTMPipeline.from_pretrained(folder)
    without(pipeline.backbone.graphs, "backbone", name)
    assert "backbone/backbone" in failed(check(pipeline))


HEAD = ("prepared_states", "flow_state", "flow_time", "velocity", "modulation", "attention_mask")


@pytest.mark.parametrize("name", HEAD)
def test_a_dropped_input_of_the_head_is_found(check, folder, name):
    pipeline = DTMPipeline.from_pretrained(folder)
    without(pipeline.head.graphs, "head", name)
    assert "head/head" in failed(check(pipeline))


@pytest.mark.parametrize(
    ("component", "graph", "name"),
    [
        ("backbone", "text", "token_ids"),
        ("backbone", "text", "valid"),
        ("head", "prepare", "features"),
        *(("head", "modulation", name) for name in ("timestep", "flow_time", "guidance_scale")),
    ],
)
def test_a_dropped_input_of_what_runs_once_is_found(check, folder, component, graph, name):
    pipeline = DTMPipeline.from_pretrained(folder)
    without(pipeline.components[component].graphs, graph, name)
    assert f"{component}/{graph}" in failed(check(pipeline, batches=((0,),)))


def test_swapped_branches_are_found(check, folder):
    pipeline = DTMPipeline.from_pretrained(folder)
    backbone = pipeline.backbone.graphs["backbone"]

    def swapped(**arrays):
        half = len(arrays["sample"]) // 2
        return {name: np.roll(value, half, axis=0) for name, value in backbone(**arrays).items()}

    pipeline.backbone.graphs["backbone"] = swapped
    assert failed(check(pipeline)) >= {"backbone/backbone", "speech"}


@pytest.mark.parametrize("fault", ["kernels", "off by one", "swapped", "dropped"])
def test_a_fault_of_the_vocoder_is_found(check, folder, fault):
    if fault == "kernels":
        edit_graph(folder / "vocoder" / "vocoder.onnx", kernels_back_to_front)
    pipeline = DTMPipeline.from_pretrained(folder)
    graphs = pipeline.vocoder.graphs
    if fault == "off by one":
        wrapped(graphs, "vocoder", lambda run, **arrays: {k: np.roll(v, 1, axis=1) for k, v in run(**arrays).items()})
    elif fault == "swapped":
        # Of the spectra, the real part and the other.
        wrapped(
            graphs,
            "vocoder",
            lambda run, **arrays: dict(zip(("imaginary", "real"), run(**arrays).values(), strict=True)),
        )
    elif fault == "dropped":
        without(graphs, "vocoder", "mel")
    # Mels are as they should be.
    assert failed(check(pipeline, batches=((0,),))) == {"vocoder/vocoder", "sound"}


def test_a_state_fed_back_from_the_wrong_place_is_found(check, folder):
    pipeline = DTMPipeline.from_pretrained(folder)
    sample = pipeline.backbone.forward

    # As if the loop handed the velocity on in the place of X_t: no graph is wrong, and yet the speech is.
    def forward(x_t, *args, **kwargs):
        output = sample(x_t, *args, **kwargs)
        output.velocity = output.velocity + 0.5 * output.velocity.roll(1, dims=1)
        return output

    pipeline.backbone.forward = forward
    assert failed(check(pipeline)) == {"speech", "sound"}


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

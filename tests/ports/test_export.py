"""Exporting a pipeline, and the pipeline that the port is."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dtm_hf import DTMPipeline
from dtm_hf.backbone.fingerprint import weights_fingerprint
from dtm_hf.commands.main import app
from dtm_hf.ports.export import check_format, export_pipeline

TEXTS, SAID = ["Hello there, good morning.", "Hi."], "What is said."


@pytest.fixture(scope="module")
def ported(port):
    pipeline = DTMPipeline.from_pretrained(port)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("settings", [{}, {"num_head_steps": 0, "guidance_scale": 2.5, "num_inference_steps": 4}])
def test_a_port_stands_where_its_source_stood(ported, port_source, reference_audio, settings):
    # Two lengths, so that the second is padded; solver, steps and guidance are chosen after the export.
    answers = [
        pipeline(
            TEXTS,
            reference_audio,
            SAID,
            generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
            output_type="mel",
            max_batch_frames=10_000,
            **settings,
        ).audios
        for pipeline in (ported, port_source)
    ]
    for mel, expected in zip(*answers, strict=True):
        assert mel.shape == expected.shape
        assert (mel - expected).abs().max() < 1e-3


def test_what_was_exported_is_recorded(port, port_source):
    for name, source, graphs in (
        ("backbone", port_source.backbone, {"backbone", "text"}),
        ("head", port_source.head, {"head", "modulation", "prepare"}),
        ("vocoder", port_source.vocoder, {"vocoder"}),
    ):
        content = json.loads((port / name / "port.json").read_text())
        assert content["fingerprint"] == weights_fingerprint(source)
        assert set(content["graphs"]) == graphs and content["weights"] == "fp32"
        assert content["source_class"] == type(source).__name__
    assert DTMPipeline.from_pretrained(port).backbone.fingerprint == port_source.backbone.fingerprint


def test_the_card_and_info_say_what_the_source_has(port, port_source):
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["info", str(port)])
    assert result.exit_code == 0, result.stderr
    assert "onnx, fp32" in result.stdout
    for count in (port_source.head.num_parameters(), port_source.backbone.num_parameters()):
        assert f"{count:,}" in result.stdout
    assert f"{port_source.head.num_parameters():,} parameters" in (port / "README.md").read_text()


def test_a_saved_port_is_a_port(ported, reference_audio, tmp_path):
    ported.save_pretrained(tmp_path / "again")
    again = DTMPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    mels = [
        pipeline(TEXTS[0], reference_audio, SAID, generator=torch.Generator().manual_seed(0), output_type="mel").audios
        for pipeline in (ported, again)
    ]
    np.testing.assert_array_equal(*(mel[0].numpy() for mel in mels))


def test_a_component_without_graphs_is_refused_before_anything_is_written(port_source, tmp_path):
    class Echo(torch.nn.Module):
        sampling_rate, hop_length = 24000, 256

    components = port_source.components | {"vocoder": Echo()}
    with pytest.raises(ValueError, match="`vocoder` cannot be exported: there are no graphs of Echo"):
        export_pipeline(DTMPipeline(**components), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_in_halves_is_refused(port_source, make_backbone, tmp_path):
    backbone = make_backbone(text_embedding_average_upsampling=True).to(torch.bfloat16)
    with pytest.raises(ValueError, match="float32 on the CPU"):
        export_pipeline(DTMPipeline(**port_source.components | {"backbone": backbone}), tmp_path / "out")


def test_a_graph_that_cannot_be_traced_is_named(port_source, make_backbone, tmp_path):
    backbone = make_backbone(text_embedding_average_upsampling=True)
    forward = backbone.dit.time_embed.forward
    # What leaves torch leaves the trace.
    backbone.dit.time_embed.forward = lambda time: forward(torch.from_numpy(time.numpy()))
    pipeline = DTMPipeline(**port_source.components | {"backbone": backbone, "head": None})
    with pytest.raises(ValueError, match="The graph 'backbone' cannot be exported as torch_export"):
        export_pipeline(pipeline, tmp_path / "out", "torch_export")
    assert list(tmp_path.iterdir()) == []


def test_formats_and_weights_that_there_are_not_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="`format` must be one of onnx, openvino, torch_export, but got 'tflite'"):
        check_format("tflite", "fp32")
    with pytest.raises(ValueError, match="`weights` must be one of fp32 for torch_export"):
        check_format("torch_export", "int8")
    with pytest.raises(ValueError, match="`weights` must be one of fp32, fp16 for openvino"):
        check_format("openvino", "int8")
    monkeypatch.setattr("dtm_hf.ports.export.find_spec", lambda name: None)
    for name, extra in (("onnx", "ports"), ("openvino", "openvino")):
        with pytest.raises(ImportError, match=rf"`format` '{name}' needs {name}.*dtm-hf\[{extra}\]"):
            check_format(name, "fp32")

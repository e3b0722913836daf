"""A TRM in rounded weights, exported and let through the gate as users do it; and what is refused."""

import json

import numpy as np
import onnx
import pytest
import tiny_trm
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from dtm_hf import TRMPipeline
from dtm_hf.commands.main import app
from dtm_hf.ports.tolerance import BARS

pytestmark = pytest.mark.slow  # each test exports


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def source(vocab_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("codes") / "source"
    tiny_trm.pipeline(vocab_file, max_text_length=90, max_audio_frames=90).save_pretrained(folder)
    return folder


def test_a_port_passes_the_gate(source, tmp_path):
    """By int8, whose convolutions are those of fp16: an export takes most of a minute."""
    port = tmp_path / "port"
    result = run("export", source, port, "--weights", "int8")
    assert result.exit_code == 0, result.stderr
    result = run("parity", source, port, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    graphs = report["rungs"]["graphs"]["graphs"]
    assert report["passed"] and report["weights"] == "int8"
    assert set(graphs) == {"codec/decoder", "model/begin", "model/cycle", "model/logits", "model/text"}
    # Rounded they are: by the bar of float32 they would not pass.
    for graph in ("model/cycle", "codec/decoder"):
        assert graphs[graph]["deviation"] > BARS["fp32"].deviation
    # Seven bits of each byte: with eight, sums of pairs overflow on a processor without dot products of bytes.
    tensors = [each for path in port.rglob("*.onnx") for each in onnx.load(path).graph.initializer]
    bytes_of = [numpy_helper.to_array(each) for each in tensors if each.data_type == onnx.TensorProto.INT8]
    assert max(int(np.abs(each.astype(int)).max()) for each in bytes_of) == 64
    pipeline = TRMPipeline.from_pretrained(port)
    for component in (pipeline.model, pipeline.codec):
        assert (component.manifest.export_format, component.manifest.weights) == ("onnx", "int8")
    pipeline.set_progress_bar_config(disable=True)
    (audio,) = pipeline("yes, that was said.", "bob", generator=torch.Generator().manual_seed(0)).audios
    assert np.isfinite(audio).all() and audio.std() > 0


@pytest.mark.parametrize(
    ("name", "weights"), [("torch_export", "int8"), ("torch_export", "fp16"), ("openvino", "int8")]
)
def test_weights_that_a_format_has_not_are_refused_before_anything_is_loaded(
    source, name, weights, tmp_path, monkeypatch
):
    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("dtm_hf.commands.exporting.load_pipeline", load)
    result = run("export", source, tmp_path / "out", "--format", name, "--weights", weights)
    assert result.exit_code == 2 and "`--weights` must be one of" in result.stderr, result.stderr
    assert f"for {name}, but got {weights!r}" in result.stderr and not (tmp_path / "out").exists()

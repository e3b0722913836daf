"""Ports in OpenVINO: exported, mounted in the pipeline and spoken without PyTorch, where OpenVINO is installed."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from tiny_speecht5 import tiny_speecht5_pipeline
from typer.testing import CliRunner

from dtm_hf import DTMPipeline, SpeechT5Pipeline
from dtm_hf.commands.main import app
from dtm_hf.ports.export import FORMATS, export_component, export_pipeline
from dtm_hf.ports.parity import check_parity
from dtm_hf.ports.parity_speecht5 import check_speecht5_parity
from dtm_hf.ports.ported import PortedBackbone
from dtm_hf.ports.recipes import RECIPES
from dtm_hf.ports.tolerance import BARS
from dtm_hf.runtime import Speaker
from dtm_hf.runtime.openvino_graphs import OpenVINOGraph, openvino_opener

# Not `importorskip`, which would import it, with its telemetry.
installed = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
TEXT, SAID = "Hello there, good morning.", "What is said."


@pytest.fixture(scope="module")
def openvino_port(port_source, reference_audio, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ports") / "openvino"
    export_pipeline(port_source, folder, "openvino")
    shutil.copyfile(reference_audio, folder / "reference.wav")
    (folder / "reference.txt").write_text(SAID)
    return folder


@installed
def test_every_graph_and_what_it_says_pass_the_gate(port_source, openvino_port, reference_audio):
    # Single rows, and padded batches of one and of two branches.
    ported = DTMPipeline.from_pretrained(openvino_port)
    report = check_parity(port_source, ported, reference_audio, SAID, time_passes=0)
    assert report["passed"] and report["weights"] == "fp32", report["rungs"]["graphs"]["graphs"]
    assert set(report["rungs"]["graphs"]["graphs"]) == {
        "backbone/backbone", "backbone/text", "head/head", "head/modulation", "head/prepare", "vocoder/vocoder"
    }  # fmt: skip


@installed
def test_a_row_of_a_padded_batch_is_what_it_is_alone(openvino_port, port_source):
    ported, source = (PortedBackbone.from_pretrained(openvino_port / "backbone"), port_source.backbone)
    generator, mask = torch.Generator().manual_seed(0), torch.arange(41)[None] < torch.tensor([[41], [30], [12]])
    x_t, cond = (torch.randn(3, 41, 100, generator=generator) * mask[..., None] for _ in range(2))
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1], [7, 8, 9, -1]])
    with torch.no_grad():
        text = source.encode_text(ids, mask, 41)
        expected = source(x_t, 0.3, cond, None, mask, text_embeds=text).velocity
    together = ported(x_t, 0.3, cond, None, mask, text_embeds=text).velocity
    scale = expected[mask].square().mean().sqrt()
    assert (together - expected)[mask].abs().max() < 1e-4 * scale
    for row, length in enumerate((41, 30, 12)):
        one = slice(row, row + 1), slice(length)
        embeds = type(text)(text.cond[one], text.null[one])
        alone = ported(x_t[one], 0.3, cond[one], None, None, text_embeds=embeds).velocity[0]
        assert (alone - together[row, :length]).abs().max() < 1e-4 * scale


@installed
@pytest.mark.slow
def test_halves_pass_the_gate_by_a_bar_of_their_own(port_source, reference_audio, openvino_port, tmp_path):
    source = port_source.backbone
    export_component(source, RECIPES[type(source)], tmp_path, FORMATS["openvino"], "fp16")
    halves = DTMPipeline(**port_source.components | {"backbone": PortedBackbone.from_pretrained(tmp_path)})
    report = check_parity(port_source, halves, reference_audio, SAID, time_passes=0, batches=((0, 1),))
    assert report["passed"] and report["weights"] == "fp16"
    assert report["rungs"]["graphs"]["graphs"]["backbone/backbone"]["deviation"] > BARS["fp32"].deviation
    sizes = [
        sum(path.stat().st_size for path in folder.glob("*.bin")) for folder in (tmp_path, openvino_port / "backbone")
    ]
    assert sizes[0] < 0.55 * sizes[1]


@installed
@pytest.mark.slow
def test_a_speecht5_passes_its_gate(tokenizer, tmp_path):
    source = tiny_speecht5_pipeline(tokenizer)
    export_pipeline(source, tmp_path / "port", "openvino")
    report = check_speecht5_parity(source, SpeechT5Pipeline.from_pretrained(tmp_path / "port"), time_steps=0)
    assert report["passed"], report["rungs"]["graphs"]["graphs"]


@installed
def test_the_same_seed_says_the_same_as_the_pipeline(openvino_port, port_source, reference_audio):
    speaker = Speaker.from_pretrained(openvino_port, threads=1, runtime="openvino")
    expected = port_source(TEXT, reference_audio, SAID, generator=torch.Generator().manual_seed(3)).audios[0]
    # Threads share the graphs, each with a state of its own.
    with ThreadPoolExecutor(4) as pool:
        spoken = list(pool.map(lambda seed: speaker(TEXT, reference_audio, SAID, seed=seed).audio, [3, 4] * 4))
    for audio in spoken[::2]:
        assert audio.shape == expected.shape and np.abs(audio - expected).max() < 1e-3 * np.abs(expected).max()
    for audio in spoken[1::2]:
        np.testing.assert_array_equal(audio, spoken[1])
    assert np.abs(spoken[1] - expected).max() > 0.01 * np.abs(expected).max()


@installed
def test_it_is_spoken_with_from_the_command_line_without_torch(openvino_port, tmp_path):
    script = (
        "import sys, dtm_hf.commands.main as m\n"
        f"sys.argv = ['dtm-hf', 'speak', {TEXT!r}, '--runtime', 'openvino', '--model', {str(openvino_port)!r},"
        " '-o', 'out.wav']\n"
        "try: m.main()\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "print({'torch', 'transformers', 'onnxruntime', 'openvino_telemetry'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "set()"
    samples, rate = soundfile.read(tmp_path / "out.wav")
    assert rate == 24000 and np.abs(samples).max() > 0


@installed
def test_an_export_tells_nobody_of_it(openvino_port):
    # In this process, which has exported.
    from openvino.tools.ovc import convert_impl

    assert convert_impl.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


@installed
@pytest.mark.parametrize(("file", "content"), [("openvino_prepare.xml", b"nothing"), ("openvino_prepare.bin", None)])
def test_a_damaged_graph_is_named(openvino_port, tmp_path, file, content):
    copy = shutil.copytree(openvino_port, tmp_path / "copy")
    if content is None:
        (copy / "head" / file).unlink()
    else:
        (copy / "head" / file).write_bytes(content)
    with pytest.raises(ValueError, match="openvino_prepare.xml' cannot be opened"):
        Speaker(copy)


def test_another_runtime_than_the_ports_is_refused(port, reference_audio, tmp_path):
    said = ["--reference-audio", str(reference_audio), "--reference-text", SAID, "-o", str(tmp_path / "a.wav")]
    result = CliRunner().invoke(app, ["speak", "Hi.", "--runtime", "openvino", "--model", str(port), *said])
    assert result.exit_code == 1 and "`--runtime` must be 'onnx'" in result.stderr, result.output
    assert not (tmp_path / "a.wav").exists()
    result = CliRunner().invoke(app, ["speak", "Hi.", "--runtime", "openvino"])
    assert result.exit_code == 2 and "`--runtime openvino` needs `--model`" in result.stderr
    with pytest.raises(ValueError, match="`runtime` must be 'onnx' .* but got 'openvino'"):
        Speaker(port, runtime="openvino")


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"pip install \"dtm-hf\[openvino\]\""):
        openvino_opener(1)


def test_it_is_told_to_compute_in_float32(monkeypatch, tmp_path):
    """On a CPU without bfloat16 no output would tell."""
    told = []

    class Core:
        def read_model(self, path):
            return path

        def compile_model(self, model, device, options):
            told.append((device, options["INFERENCE_PRECISION_HINT"], options["INFERENCE_NUM_THREADS"]))
            return SimpleNamespace(inputs=[], outputs=[])

    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=Core))
    openvino_opener(3)(tmp_path)
    assert told == [("CPU", "f32", 3)]


def test_an_input_that_is_not_given_is_missed():
    """OpenVINO itself would run on whatever the input's memory holds."""

    class Port:
        def __init__(self, *names):
            self.names = set(names)

        def get_names(self):
            return self.names

        def get_any_name(self):
            return min(self.names)

    class Request:
        def infer(self, feed, share_inputs, share_outputs):
            return [feed[0] - feed[1]]

    compiled = SimpleNamespace(
        inputs=[Port("a", "one"), Port("two")], outputs=[Port("c")], create_infer_request=Request
    )
    graph, one = OpenVINOGraph(compiled), np.ones(2)
    np.testing.assert_array_equal(graph(two=one, one=3 * one, unused=one)["c"], 2 * one)
    with pytest.raises(KeyError, match="two"):
        graph(one=one)

"""Ports that are not what they should be, as a user meets them: one line that says what is wrong, and nothing runs."""

import importlib.util
import json
import shutil
import sys

import pytest
import tiny_trm
from tiny_speecht5 import tiny_speecht5, tiny_speecht5_pipeline
from typer.testing import CliRunner

from dtm_hf import DTMPipeline, SpeechT5Pipeline, TRMPipeline
from dtm_hf.commands.main import app
from dtm_hf.runtime import Speaker

SAID = "What is said."


@pytest.fixture(scope="module")
def source(port_source, reference_audio, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources") / "source"
    port_source.save_pretrained(folder)
    shutil.copyfile(reference_audio, folder / "reference.wav")
    (folder / "reference.txt").write_text(SAID)
    return folder


@pytest.fixture
def folder(port, source, tmp_path):
    """A port with a voice, for a test to damage."""
    shutil.copytree(port, tmp_path / "port")
    for file in ("reference.wav", "reference.txt"):
        shutil.copyfile(source / file, tmp_path / "port" / file)
    return tmp_path / "port"


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    def run(*_args, **_kwargs):
        raise AssertionError("a network ran")

    for kind in (DTMPipeline, SpeechT5Pipeline, TRMPipeline, Speaker):
        monkeypatch.setattr(kind, "sample", run)
    monkeypatch.setattr("dtm_hf.ports.export._export_graphs", run)


def refused(*arguments, code=1):
    """The one line that a command ends with."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    assert not isinstance(result.exception, AssertionError), result.exception
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    return line


def spoken(folder, runtime, tmp_path, *more):
    said = ["speak", "Hi.", "--model", folder, *([] if runtime == "torch" else ["--runtime", runtime])]
    line = refused(*said, "-o", tmp_path / "out.wav", *more)
    assert not (tmp_path / "out.wav").exists()
    return line


def edit(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_component_that_cannot_be_exported(vocab_file, tmp_path):
    tiny_trm.pipeline(vocab_file, latent_dim=64).save_pretrained(tmp_path / "latents")
    line = refused("export", tmp_path / "latents", tmp_path / "out")
    assert "`model` cannot be exported: it speaks in latents" in line
    assert [path.name for path in tmp_path.iterdir()] == ["latents"]


def test_a_port_of_another_backbone(source, folder):
    edit(folder / "backbone" / "port.json", fingerprint="0123456789abcdef")
    line = refused("parity", source, folder)
    assert "`PORT` was made of another backbone: its fingerprint is 0123456789abcdef" in line


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_a_head_of_another_backbone(folder, runtime, tmp_path):
    edit(folder / "head" / "config.json", backbone_fingerprint="0123456789abcdef")
    assert "0123456789abcdef" in spoken(folder, runtime, tmp_path)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
@pytest.mark.parametrize(("component", "graph"), [("backbone", "text"), ("head", "prepare"), ("vocoder", "vocoder")])
def test_a_graph_that_is_missing(folder, component, graph, runtime, tmp_path):
    (folder / component / f"{graph}.onnx").unlink()
    line = spoken(folder, runtime, tmp_path)
    assert f"The graph '{graph}' is missing" in line and str(folder / component / f"{graph}.onnx") in line


def test_a_graph_that_is_missing_is_named_by_the_gate(source, folder):
    (folder / "head" / "prepare.onnx").unlink()
    assert "The graph 'prepare' is missing" in refused("parity", source, folder)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_a_runtime_that_is_not_installed(folder, runtime, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "`pip install onnxruntime`" in spoken(folder, runtime, tmp_path)


@pytest.mark.parametrize(("name", "extra"), [("onnx", "ports"), ("openvino", "openvino")])
def test_a_format_whose_packages_are_not_installed(source, name, extra, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    absent = {"onnx", "onnxscript", "onnxruntime", "openvino"}
    monkeypatch.setattr("dtm_hf.ports.export.find_spec", lambda one: None if one in absent else find_spec(one))
    line = refused("export", source, tmp_path / "out", "--format", name)
    assert f"`--format` '{name}' needs {name}" in line and f'`pip install "dtm-hf[{extra}]"`' in line
    assert list(tmp_path.iterdir()) == []


def test_a_word_beyond_the_positions_of_a_speecht5(tokenizer, tmp_path):
    model = tiny_speecht5(vocab_size=tokenizer.vocab_size + 3, max_text_positions=20)
    tiny_speecht5_pipeline(tokenizer, model=model).save_pretrained(tmp_path / "model")
    said = ["speak", f"hello {40 * 'a'}", "--model", tmp_path / "model", "-o", tmp_path / "out.wav"]
    line = refused(*said)
    assert "`TEXT`" in line and "cannot be cut into parts of at most the 20 tokens" in line
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_word_beyond_the_characters_of_a_trm(vocab_file, tmp_path):
    tiny_trm.pipeline(vocab_file, max_text_length=16).save_pretrained(tmp_path / "model")
    line = refused("speak", 40 * "a", "--model", tmp_path / "model", "-o", tmp_path / "out.wav")
    assert "`TEXT`" in line and "the model speaks at most" in line and "16 characters at once" in line
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_a_duration_beyond_the_frames_of_a_backbone(folder, runtime, tmp_path):
    line = spoken(folder, runtime, tmp_path, "--duration", "200")
    assert "`TEXT`" in line and "the model speaks at most" in line and "`--duration`" in line

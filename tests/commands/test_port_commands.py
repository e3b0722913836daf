"""`dtm-hf export`, `parity` and `speak --runtime onnx`."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from dtm_hf import DTMPipeline
from dtm_hf.commands.benchmarking import _settings
from dtm_hf.commands.main import app
from dtm_hf.evaluation.arms import parse_arms
from dtm_hf.evaluation.sets import BenchmarkSet

SAID = "What is said."


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def source(port_source, reference_audio, tmp_path_factory):
    """Folder of the pipeline that `port` is made of, with a packaged voice."""
    folder = tmp_path_factory.mktemp("sources") / "tiny"
    port_source.save_pretrained(folder)
    shutil.copyfile(reference_audio, folder / "reference.wav")
    (folder / "reference.txt").write_text(SAID)
    return folder


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["speak", "Hi.", "--runtime", "onnx"], "`--model`"),
        (["speak", "Hi.", "--runtime", "onnx", "--model", "{port}", "--device", "cpu"], "`--device`"),
        (["speak", "Hi.", "--runtime", "onnx", "--model", "{port}", "--dtype", "float16"], "`--dtype`"),
        (["speak", "Hi.", "--runtime", "onnx", "--model", "{port}", "--student", "x"], "`--student`"),
        (["speak", "Hi.", "--runtime", "onnx", "--model", "{port}", "--picture"], "`--picture`"),
        (["speak", " ", "--runtime", "onnx", "--model", "{port}"], "`TEXT`"),
        (["export", "{tmp}/absent", "{tmp}/out"], "`--model`"),
        (["export", "{source}", "{port}"], "`OUT`"),
        (["export", "{source}", "{tmp}/out", "--format", "torch_export", "--weights", "int8"], "`--weights`"),
        (["parity", "{source}", "{tmp}/absent"], "`PORT`"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(
    arguments, named, source, port, tmp_path, monkeypatch
):
    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    for module in ("exporting", "parity", "speaking"):
        monkeypatch.setattr(f"dtm_hf.commands.{module}.load_pipeline", load)
    places = {"source": source, "port": port, "tmp": tmp_path}
    result = run(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == 2 and named in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


def test_figures_of_a_port_are_not_those_of_its_source(port_source, port):
    """It has the fingerprint of its source: without its runtime a benchmark would take one for the other."""
    ported = DTMPipeline.from_pretrained(port)
    request, arms = SimpleNamespace(durations="bytes", dtype="float32"), parse_arms("dtm-2x2")
    settings = [
        _settings(request, pipeline, None, arms, BenchmarkSet("none", []), []) for pipeline in (port_source, ported)
    ]
    assert settings[0]["backbone"] == settings[1]["backbone"] and settings[0]["head"] == settings[1]["head"]
    assert [each["runtime"] for each in settings] == ["torch", "onnx fp32"]


def test_a_pipeline_that_is_no_port_is_named(source, tmp_path):
    result = run("speak", "Hi.", "--runtime", "onnx", "--model", source, "-o", tmp_path / "a.wav")
    assert result.exit_code == 1 and "dtm-hf export" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_port_is_made_checked_and_heard(source, tmp_path):
    port, report = tmp_path / "port", tmp_path / "report.json"
    result = run("export", source, port, "--weights", "int8")
    assert result.exit_code == 0, result.stderr
    result = run("parity", source, port, "--json", report)
    assert result.exit_code in (0, 1), result.stderr
    content = json.loads(report.read_text())
    assert content["weights"] == "int8" and content["passed"] == (result.exit_code == 0)
    assert content["cost"]["graph bytes"] > 0 and content["cost"]["pass ratio"] > 0
    # The recordings of the source came along.
    result = run("speak", "Good morning.", "--runtime", "onnx", "--model", port, "-o", tmp_path / "a.wav")
    assert result.exit_code == 0, result.stderr
    samples, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 24000 and np.abs(samples).max() > 0

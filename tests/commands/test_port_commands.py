"""`dtm-hf export`, `parity` and `speak --runtime onnx`."""

import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from dtm_hf import DTMPipeline, DurationPredictor
from dtm_hf.commands.benchmarking import _settings
from dtm_hf.commands.main import app
from dtm_hf.commands.parity import _distance
from dtm_hf.evaluation.arms import parse_arms
from dtm_hf.evaluation.sets import BenchmarkSet
from dtm_hf.training.speech.durations import install

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


def test_a_distance_that_there_is_none_of_is_null_in_the_report(source, port, tmp_path):
    shutil.copytree(port, tmp_path / "port")
    # Whatever it says lasts as long as the recording.
    install(DurationPredictor(1.0, 0.0, {}, 0.0), tmp_path / "port")
    result = run("parity", source, tmp_path / "port", "--json", tmp_path / "report.json")
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    for rung in ("speech", "sound"):
        (line,) = (line for line in result.stdout.splitlines() if line.startswith(f"FAIL {rung}: "))
        assert re.search(r"\d+ of \d+ utterances have none \(in the report null\), for they are longer", line), line

    def refuse(name):
        raise AssertionError(name)

    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    rows = report["rungs"]["free run"]["utterances"]
    assert not report["passed"] and any(row["mel distance"] is None for row in rows)
    assert all((row["mel distance"] is None) == (row["frames"][0] != row["frames"][1]) for row in rows)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([(1.0, 4.0), (1.0, 2.0)], "mel distance at most 5.0e-01 of that of two seeds"),
        ([(0.0, 0.0)], "mel distance at most 0.0e+00 of that of two seeds"),
        ([(1.0, 4.0), (math.inf, 2.0)], "at most 2.5e-01 of that of two seeds; 1 of 2 utterances have none"),
        ([(math.nan, 1.0), (1.0, 0.0)], "2 of 2 utterances have none"),
    ],
)
def test_the_largest_distance_is_that_of_those_that_there_are(pairs, said):
    assert said in _distance([{"mel distance": distance, "of two seeds": spread} for distance, spread in pairs])


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

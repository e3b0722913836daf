"""A port pushed to a Hub and pulled from it, by the pipeline and by the speaker."""

import json
import shutil

import numpy as np
import pytest
import torch
from hub_server import hub_of_this_process
from huggingface_hub import HfApi
from typer.testing import CliRunner

from dtm_hf import DTMPipeline, PortedBackbone
from dtm_hf.commands.main import app
from dtm_hf.runtime import Speaker

REPO, TEXT, SAID = "org/dtm-f5-onnx", "Good morning.", "What is said."


@pytest.fixture(scope="module")
def hub(port, tmp_path_factory):
    with hub_of_this_process(tmp_path_factory.mktemp("hub")) as server:
        DTMPipeline.from_pretrained(port).push_to_hub(REPO)
        yield server


def test_every_graph_is_pushed(hub, port):
    graphs = {path.relative_to(port).as_posix() for path in port.rglob("*") if ".onnx" in path.name}
    assert len(graphs) >= 6
    assert graphs <= set(HfApi(endpoint=hub.url).list_repo_files(REPO))


def test_what_is_pulled_speaks_as_before(hub, port, port_source, reference_audio, tmp_path):
    pipeline = DTMPipeline.from_pretrained(REPO, cache_dir=tmp_path / "one")
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "num_head_steps": 0}
    expected, pulled = (
        p(TEXT, reference_audio, SAID, generator=torch.Generator().manual_seed(0), **settings).audios[0]
        for p in (port_source, pipeline)
    )
    assert np.abs(pulled - expected).max() < 1e-3 * np.abs(expected).max()
    speaker = Speaker.from_pretrained(REPO, cache_dir=tmp_path / "two")
    said = speaker(TEXT, reference_audio, SAID, **settings).audio
    assert np.abs(said - expected).max() < 1e-3 * np.abs(expected).max()


def test_one_component_is_pulled_alone(hub, port_source, tmp_path):
    backbone = PortedBackbone.from_pretrained(REPO, subfolder="backbone", cache_dir=tmp_path)
    assert backbone.fingerprint == port_source.backbone.fingerprint
    assert not list(tmp_path.rglob("prepare.onnx"))


def test_the_gate_takes_what_is_on_the_hub(hub, port_source, reference_audio, tmp_path):
    port_source.save_pretrained(tmp_path / "source")
    shutil.copyfile(reference_audio, tmp_path / "source" / "reference.wav")
    (tmp_path / "source" / "reference.txt").write_text(SAID)
    asked = ["--recognizer", "pocketsphinx", "--similarity", "--json", str(tmp_path / "report.json")]
    result = CliRunner().invoke(app, ["parity", str(tmp_path / "source"), REPO, *asked])
    assert result.exit_code == 0 and "ok   speech" in result.stdout, result.stdout + result.stderr
    assert "ok   sound" in result.stdout and "word error: source" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    figures = report["rungs"]["end to end"]["figures"]
    assert figures["word error"]["port"] == figures["word error"]["source"] > 0
    # Hums: where no voice is found in the source, it has no figure.
    assert set(figures) == {"word error", "similarity to the source"}
    assert report["cost"]["load seconds"]["source"] > 0 and report["cost"]["cpu"] in result.stdout
    refused = CliRunner().invoke(app, ["parity", str(tmp_path / "source"), REPO, "--recognizer", "nobody"])
    assert refused.exit_code == 2 and "`--recognizer` must be" in refused.stderr

"""Heads pushed to and loaded from a Hub over HTTP: revisions, shards, bf16, a subfolder, and from the cache alone."""

import json
import pathlib
import subprocess
import sys

import pytest
from hub_server import HubServer

pytestmark = pytest.mark.slow  # starts a process that imports transformers


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub"), token="hf_test") as server:
        yield server


@pytest.fixture(scope="module")
def result(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("round_trip")
    script = pathlib.Path(__file__).with_name("round_trip_head.py")
    process = subprocess.run(
        [sys.executable, str(script), str(folder / "result.json")],
        env=hub.environment(folder / "home"),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "result.json").read_text())


def test_a_head_comes_back_as_it_was_pushed(result):
    assert result["heads differ"] > 1e-2
    # Weights mapped from a file sit at another alignment, which moves the last bits of a matrix product.
    assert max(result[key] for key in ("main", "old revision", "sharded", "nested")) < 1e-5
    assert result["config"] == ["0123456789abcdef", "org/dtm-f5", "cc-by-nc-4.0", "conv"]
    old, new, head = result["commits"]
    assert old != new == head


def test_the_auto_classes_find_the_head(result):
    assert result["auto class"] == "dtm_hf.head.modeling_dtm.DTMHead"
    assert result["auto config"] == "DTMHeadConfig"


def test_a_bf16_head_stays_bf16(result):
    assert result["bf16 dtypes"] == ["torch.bfloat16"]


def test_a_cached_head_loads_without_a_request(hub, result):
    assert max(result["local files only"], result["local old"]) < 1e-5
    start, end = hub.requests.index("GET /mark/offline"), hub.requests.index("GET /mark/online")
    assert hub.requests[start + 1 : end] == []


def test_an_absent_repository_or_revision_is_named(result):
    assert "org/absent" in result["absent"]
    assert "absent" in result["absent revision"]


def test_only_safetensors_is_written(result):
    for repo, files in result["files"].items():
        weights = [f for f in files if not f.endswith((".json", ".md", ".gitattributes"))]
        assert weights and all(f.endswith(".safetensors") for f in weights), (repo, files)
    assert sum(f.endswith(".safetensors") for f in result["files"]["org/dtm-head-sharded"]) > 1

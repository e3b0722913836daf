"""The load of benchmarks/serving.py, small: nothing is lost when clients hang up."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from served import serving

SCRIPT = Path(__file__).parents[2] / "benchmarks/serving.py"


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Figures of a load on the server at an address."""

    def load(url, *words):
        arguments = ["serving.py", "--url", url, "--steps", "1", "--json", str(tmp_path / "load.json"), *words]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return json.loads((tmp_path / "load.json").read_text())

    return load


def test_of_many_clients_none_is_lost_when_some_hang_up(speaker, voices, load):
    with serving(speaker, voices) as server:
        rows = load(server.url, "--clients", "1,4,16", "--requests", "24", "--hang-up", "0.4")
    assert [row["clients"] for row in rows] == [1, 4, 16]
    for row in rows:
        assert row["lost"] == row["left over"] == 0 and row["hung up"] > 0
        assert row["answered"] >= row["asked"] - row["hung up"] > 0
        assert 0 < row["p50 s"] <= row["p95 s"]


def test_one_request_has_figures_as_well(speaker, voices, load):
    with serving(speaker, voices) as server:
        (row,) = load(server.url, "--clients", "1", "--requests", "1", "--hang-up", "0")
    assert row["answered"] == 1 and row["p50 s"] == row["p95 s"]

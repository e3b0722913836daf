"""That nothing is left among the temporary files: by tests, killed or not, and by what is imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# As pytest does at its start; then a library and a page at work.
SESSION = """
import os, signal, sys, tempfile
sys.path.insert(0, sys.argv[1])
import conftest
open(tempfile.mkstemp()[1], "w").write("left")
assert os.path.isdir(os.environ["HF_HOME"])
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def session(temporary, how):
    """What a test session that ends so leaves, and its exit status."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    arguments = [sys.executable, "-c", SESSION, TESTS, how]
    done = subprocess.run(arguments, env=kept | {"TMPDIR": str(temporary)}, capture_output=True, text=True)
    return done.returncode, [path for path in temporary.rglob("*") if path.is_file()], done.stderr


def test_a_session_leaves_nothing_and_clears_up_behind_one_that_was_killed(tmp_path):
    code, left, _ = session(tmp_path, "killed")
    assert code == -signal.SIGKILL and left
    code, left, errors = session(tmp_path, "whole")
    assert (code, list(tmp_path.iterdir())) == (0, []), errors


def test_onnx_runtime_tells_nobody_that_it_runs(tmp_path):
    """It would write who it is into a file, `.ses`, to tell it to its makers."""
    pytest.importorskip("onnxruntime")
    script = "import dtm_hf, onnxruntime"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []

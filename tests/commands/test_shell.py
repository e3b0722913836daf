"""What a shell sees of the command line: completion, the version, exit codes."""

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dtm_hf.commands.main import app

PROGRAM = Path(sys.executable).with_name("dtm-hf")
PAGE = (Path(__file__).parents[2] / "docs/command-line.md").read_text(encoding="utf-8")


def test_the_version_is_that_of_the_package():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout.strip()) == (0, version("dtm-hf"))


@pytest.mark.parametrize(
    ("typed", "expected"), [("dtm-hf sp", {"speak"}), ("dtm-hf speak --guidance", {"--guidance", "--guidance-end"})]
)
def test_a_shell_completes_commands_and_options(typed, expected):
    words = typed.split()
    variables = {"_DTM_HF_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    # As the shell calls it: the program itself.
    done = subprocess.run([PROGRAM], env=os.environ | variables, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_the_script_of_completion_can_be_had_without_a_shell_above():
    """`--show-completion` looks for the shell that called it, and under `nohup` or in an image there is none."""
    (variable,) = re.findall(r"`(_DTM_HF_COMPLETE=\w+) dtm-hf`", PAGE)
    name, _, value = variable.partition("=")
    done = subprocess.run([PROGRAM], env=os.environ | {name: value}, capture_output=True, text=True, check=True)
    # In the words that the program itself understands: those of the tests above.
    assert "_DTM_HF_COMPLETE=complete_bash" in done.stdout and "COMP_WORDS" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--version"], 0), (["info", "{tmp}/damaged"], 1), (["info", "{tmp}"], 2), (["speak", "--no-such"], 2)],
    ids=["done", "failed", "refused", "unknown"],
)
def test_exit_codes_are_those_of_the_page(arguments, code, tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/model_index.json").write_text("{")
    result = CliRunner().invoke(app, [each.replace("{tmp}", str(tmp_path)) for each in arguments])
    assert result.exit_code == code, result.output
    assert str(code) in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)


def test_signals_are_on_the_page():
    codes = {int(found) for found in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert {128 + signal.SIGINT, 128 + signal.SIGTERM} <= codes

"""Ctrl-C in the middle of each command: the exit code of docs/command-line.md, and nothing half written is left."""

import os
import re
import signal
from functools import partial
from pathlib import Path

import httpx
import pytest
from loopback import free_port
from processes import Forked, command, wait_until
from synthesized import arguments

PAGE = (Path(__file__).parents[2] / "docs/command-line.md").read_text(encoding="utf-8")
INTERRUPTED = int(re.search(r"^\| (\d+) \| Ctrl-C", PAGE, re.MULTILINE)[1])


def interruptible(module, *words, reached=None):
    """
    A command as at a terminal: under `nohup` and behind `&`, where tests may run, SIGINT is ignored by default.
    `reached` is a file that it makes when the first step of sampling is done.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if reached is not None:
        from dtm_hf import DTMScheduler

        step = DTMScheduler.step

        def noted(*args, **kwargs):
            Path(reached).touch()
            return step(*args, **kwargs)

        DTMScheduler.step = noted
    command(module, *words)


def interrupt(running, condition):
    """Ctrl-C as soon as the condition holds; what the command has said when it has ended."""
    wait_until(running, condition)
    os.kill(running.pid, signal.SIGINT)
    code, said = running.wait(60), running.output.read_text()
    assert code == INTERRUPTED, said
    assert "Traceback" not in said and "Error" not in said
    return said


def speaking(sources, reference_audio, output):
    words = ["--model", sources / "tiny", "-o", output, "--steps", 32, "--reference-audio", reference_audio]
    return ["speak", "Hello there, all of you. " * 400, *words, "--reference-text", "What is said."]


def test_speaking_while_it_loads(sources, reference_audio, tmp_path):
    words = speaking(sources, reference_audio, tmp_path / "out/speech.wav")
    running = Forked(interruptible, "dtm_hf.commands.main", *words, output=tmp_path / "log")
    interrupt(running, lambda: (tmp_path / "out").is_dir() and any((tmp_path / "out").iterdir()))
    assert not (tmp_path / "out").exists()


def test_speaking_between_two_steps(sources, reference_audio, tmp_path):
    words, reached = speaking(sources, reference_audio, tmp_path / "out/speech.wav"), tmp_path / "reached"
    function = partial(interruptible, reached=reached)
    running = Forked(function, "dtm_hf.commands.main", *words, output=tmp_path / "log")
    interrupt(running, reached.exists)
    assert not (tmp_path / "out").exists()


def test_a_benchmark(sources, reference_audio, tmp_path):
    (tmp_path / "voice.wav").write_bytes(reference_audio.read_bytes())
    rows = "".join(f"voice.wav,What is said.,Item number {i}.\n" for i in "abcdefgh")
    (tmp_path / "list.csv").write_text("reference_audio,reference_text,text\n" + rows)
    words = ["--model", sources / "tiny", "--set", tmp_path / "list.csv", "--metrics", "difference", "--repeats", 0]
    words += ["--arms", "euler-32", "--seeds", "0,1,2,3", "--batch-size", 1, "-o", tmp_path / "run"]
    running = Forked(interruptible, "dtm_hf.commands.main", "benchmark", *words, output=tmp_path / "log")
    records = tmp_path / "run/records.jsonl"
    interrupt(running, lambda: records.exists() and records.read_text().count("\n") >= 2)
    # What is judged stays; there are no results of half of it.
    assert records.read_text().endswith("\n") and not (tmp_path / "run/results.json").exists()


def test_a_data_set_that_is_spoken(sources, tmp_path):
    words, reached = arguments(sources, tmp_path / "speech"), tmp_path / "reached"
    function = partial(interruptible, reached=reached)
    running = Forked(function, "dtm_hf.synthesize", *words, output=tmp_path / "log")
    interrupt(running, reached.exists)
    assert not (tmp_path / "speech/summary.json").exists() and not (tmp_path / "speech/data").exists()


@pytest.mark.parametrize("name", ["serve", "app"])
def test_what_lasts_until_it_is_told_to_end(name, sources, tmp_path):
    words = [name, "--model", sources / "tiny", "--voices", sources / "voices", "--port", free_port()]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    running = Forked(
        interruptible,
        "dtm_hf.commands.main",
        *words,
        output=tmp_path / "log",
        environment=os.environ | {"TMPDIR": str(temporary)},
    )
    said = interrupt(running, lambda: running.output.exists() and "Ctrl-C ends it" in running.output.read_text())
    with pytest.raises(httpx.ConnectError):
        httpx.get(re.search(r"http://127\.0\.0\.1:\d+", said)[0])
    assert list(temporary.iterdir()) == []

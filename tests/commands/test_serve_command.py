"""`dtm-hf serve` as a process, and what it and `dtm-hf app` refuse before they load."""

import re
import signal
import socket
from pathlib import Path

import httpx
import pytest
from loopback import free_port
from processes import Forked, command, wait_until
from typer.testing import CliRunner

from dtm_hf.commands.main import app


@pytest.fixture
def folder(port_source, reference_audio, tmp_path):
    folder = tmp_path / "tiny"
    port_source.save_pretrained(folder)
    (folder / "reference.wav").write_bytes(reference_audio.read_bytes())
    (folder / "reference.txt").write_text("What is said.\n")
    return folder


def test_it_serves_until_it_is_told_to_end(folder, reference_audio, tmp_path):
    voices = tmp_path / "voices"
    voices.mkdir()
    (voices / "anna.wav").write_bytes(reference_audio.read_bytes())
    (voices / "anna.txt").write_text("What is said.")
    arguments = ("--model", folder, "--voices", voices, "--port", free_port(), "--token", "word")
    running = Forked(command, "dtm_hf.commands.main", "serve", *arguments, output=tmp_path / "log")
    log = running.output
    wait_until(running, lambda: log.exists() and "Ctrl-C ends it" in log.read_text())
    url = re.search(r"http://127\.0\.0\.1:\d+/v1", log.read_text())[0]
    headers = {"Authorization": "Bearer word"}
    body = {"model": "tiny", "input": "Hi.", "voice": "anna", "response_format": "wav", "num_inference_steps": 1}
    answer = httpx.post(f"{url}/audio/speech", json=body, headers=headers, timeout=60)
    assert answer.content.startswith(b"RIFF"), answer.text
    listed = httpx.get(f"{url}/audio/voices", headers=headers).json()["voices"]
    assert [voice["id"] for voice in listed] == ["anna", "default"]
    running.process.terminate()
    # uvicorn ends what was asked for, and then as by the signal: for a shell 143.
    assert running.wait(60) == -signal.SIGTERM
    assert "Traceback" not in log.read_text()


def test_a_page_that_is_told_to_end_leaves_nothing_behind(folder, reference_audio, tmp_path):
    running = Forked(
        command, "dtm_hf.commands.main", "app", "--model", folder, "--port", free_port(), output=tmp_path / "log"
    )
    log = running.output
    wait_until(running, lambda: log.exists() and "Ctrl-C ends it" in log.read_text())
    url = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())[0]
    upload = {"files": ("voice.wav", reference_audio.read_bytes())}
    (stored,) = httpx.post(f"{url}/gradio_api/upload", files=upload, timeout=60).json()
    (page,) = [above for above in Path(stored).parents if above.name.startswith(".dtm-hf-app.")]
    assert Path(stored).is_file()
    running.process.terminate()
    assert running.wait(60) == 128 + signal.SIGTERM
    assert not page.exists()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--port", "{taken}"], "`--port` {taken}"),
        (["serve", "--host", "no.such.host.invalid"], "`--host`"),
        (["serve", "--voices", "{tmp}/absent"], "`--voices`"),
        (["serve", "--voices", "{tmp}"], "`--voices`"),
        (["serve", "--voices", "{tmp}/voices"], "`--voices`: 'carl' cannot be used"),
        (["serve", "--token", " "], "`--token`"),
        (["serve", "--model", "{tmp}/absent"], "`--model`"),
        (["serve", "--runtime", "onnx", "--student", "x"], "`--student`"),
        (["app", "--port", "{taken}"], "`--port` {taken}"),
        (["app", "--voices", "{tmp}"], "`--voices`"),
        (["app", "--voices", "{tmp}/voices"], "`--voices`: 'carl' cannot be used"),
        (["app", "--port", "0", "--recognizer", "nobody"], "`--recognizer`"),
    ],
)
def test_what_cannot_be_served_is_refused_before_loading(arguments, named, tmp_path, monkeypatch):
    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("dtm_hf.commands.serving.load_pipeline", load)
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices/carl.wav").write_bytes(b"RIFF and nothing else")
    (tmp_path / "voices/carl.txt").write_text("What is said.")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        places = {"{taken}": str(other.getsockname()[1]), "{tmp}": str(tmp_path)}
        for place, value in places.items():
            arguments = [argument.replace(place, value) for argument in arguments]
            named = named.replace(place, value)
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("Error: ") and named in lines[0]

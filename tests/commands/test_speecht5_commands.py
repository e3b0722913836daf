"""`dtm-hf speak | info | export | parity` for a SpeechT5."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_speecht5 import tiny_hifigan, tiny_speecht5, tiny_speecht5_pipeline
from transformers import SpeechT5Config, SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5HifiGanConfig
from typer.testing import CliRunner

from dtm_hf.commands.main import app
from dtm_hf.ports.tables import architecture


def run(*arguments):
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "speecht5"
    tiny_speecht5_pipeline(tokenizer).save_pretrained(folder)
    return folder


def test_it_speaks_by_name_and_by_vector(model, tmp_path):
    result = run("speak", "Hi.", "--model", model, "--voice", "bob", "--seed", 3, "-o", tmp_path / "a.wav")
    assert result.exit_code == 0, result.stderr
    assert "decoder steps" in result.stdout
    said, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 16000 and len(said) % 256 == 0 and np.abs(said).max() > 0
    vector = torch.randn(2, 16, generator=torch.Generator().manual_seed(7))[1]
    np.save(tmp_path / "bob.npy", vector.numpy())
    result = run("speak", "Hi.", "Yes.", "--model", model, "--reference-audio", tmp_path / "bob.npy", "--seed", 3,
                 "-o", tmp_path / "b.wav")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    np.testing.assert_allclose(soundfile.read(tmp_path / "b-1.wav")[0], said, atol=2 / 32768)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--steps", "4"], 2, "`--steps` is for another kind of model"),
        (["--speed", "2"], 2, "`--speed`"),
        (["--reference-text", "Hi."], 2, "`--reference-text`"),
        (["--voice", "ann", "--reference-audio", "a.wav"], 2, "exclude each other"),
        (["--reference-audio", "absent.npy"], 2, "absent.npy"),
        (["-o", "a.mp3"], 2, "`--output`"),
        (["--runtime", "onnx"], 2, "`--runtime onnx` is for a DTMPipeline"),
        (["--voice", "eve"], 1, "`--voice` must be one of ['ann', 'bob']"),
    ],
)
def test_what_it_cannot_do_is_refused_as_it_was_typed(model, tmp_path, monkeypatch, arguments, code, named):
    monkeypatch.chdir(tmp_path)
    result = run("speak", "Hi.", "--model", model, *arguments)
    assert result.exit_code == code and named in result.stderr, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_commands_for_another_kind_say_so(model, reference_audio, tmp_path):
    voice = ("--reference-audio", reference_audio, "--reference-text", "What is said.")
    result = run("benchmark", "--set", "typed", *voice, "--model", model, "-o", tmp_path / "out", "--metrics", "pitch")
    assert result.exit_code == 2 and "SpeechT5Pipeline" in result.stderr, result.stderr
    result = run("export", model, tmp_path / "out", "--student", "x")
    assert result.exit_code == 2 and "`--student`" in result.stderr, result.stderr


def test_info_shows_parts_and_graphs(model, tokenizer):
    result = run("info", model, "--graphs")
    assert result.exit_code == 0, result.stderr
    assert "ann, bob" in result.stdout and "16000 Hz" in result.stdout
    lines = architecture("model", tiny_speecht5(vocab_size=tokenizer.vocab_size + 3))
    assert "\n".join(lines) in result.stdout
    assert sum(f"| `{name}` |" in result.stdout for name in ("text", "step", "postnet", "vocoder")) == 4


def test_the_page_shows_the_official_shapes():
    page = (Path(__file__).parents[2] / "docs" / "speecht5.md").read_text(encoding="utf-8")
    with torch.device("meta"):
        model = SpeechT5ForTextToSpeech(SpeechT5Config(max_text_positions=600, max_speech_positions=1876))
        vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig())
    for name, component in (("model", model), ("vocoder", vocoder)):
        assert "\n".join(architecture(name, component)) in page, name
    assert re.search(r"381 parameters with 144,\d{3},\d{3} numbers", page)


@pytest.mark.slow
def test_a_port_is_made_checked_and_heard(model, tmp_path):
    port = tmp_path / "port"
    assert run("export", model, port, "--format", "torch_export").exit_code == 0
    result = run("parity", model, port, "--json", tmp_path / "report.json")
    assert result.exit_code == 0 and "ok   model/step" in result.stdout, result.stdout + result.stderr
    said = []
    for name in (model, port):
        assert run("speak", "Hi.", "--model", name, "-o", tmp_path / "a.wav").exit_code == 0
        said.append(soundfile.read(tmp_path / "a.wav")[0])
    np.testing.assert_allclose(*said, atol=2 / 32768)


def test_the_tiny_vocoder_speaks():
    # Else the tests above would compare silence.
    wave = tiny_hifigan()(torch.randn(1, 20, 80))
    assert wave.std() > 1e-4

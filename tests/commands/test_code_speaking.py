"""The command line with a pipeline of codes."""

import json
import shutil

import pytest
import soundfile
import tiny_trm
from typer.testing import CliRunner

from dtm_hf.commands.main import app


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(vocab_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trm") / "pipeline"
    tiny_trm.pipeline(vocab_file).save_pretrained(folder)
    return folder


def test_it_speaks_in_a_voice_that_the_model_knows(folder, tmp_path):
    heard = {}
    for voice in ("ann", "bob", "1"):
        result = run(
            "speak", "yes", "--model", folder, "--voice", voice, "--steps", 3, "--picture", "-o", tmp_path / "a.wav"
        )
        assert result.exit_code == 0, result.output
        assert "3 cycles" in result.stdout and (tmp_path / "a.png").is_file()
        heard[voice], rate = soundfile.read(tmp_path / "a.wav")
        assert rate == 24000 and len(heard[voice]) == 6 * 1920
    assert (heard["bob"] == heard["1"]).all() and (heard["ann"] != heard["bob"]).any()


def test_info_tells_of_cycles_codes_and_voices(folder):
    result = run("info", folder)
    assert result.exit_code == 0, result.output
    for said in (
        "TRMPipeline",
        "MimiModel",
        "2 cycles",
        "3 codebooks of 16",
        "ann, bob",
        "12.5 frames a second",
        "mit",
        "cycles see what is decided",
    ):
        assert said in result.stdout, said
    assert "decide nothing" not in result.stdout


@pytest.mark.parametrize(
    ("file", "name", "value", "said"),
    [
        ("scheduler/scheduler_config.json", "silent_share", 0.5, "the first 50% decide nothing"),
        ("model/config.json", "feedback", False, "cycles see none"),
    ],
)
def test_info_tells_when_codes_are_decided(folder, tmp_path, file, name, value, said):
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(content | {name: value}))
    assert said in " ".join(run("info", copy).stdout.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--voice", "eve"], "`--voice` must be one of ['ann', 'bob']"),
        (["--head-steps", "1"], "`--head-steps` is for F5-TTS's backbones"),
        (["--student", "x"], "`--student` is for F5-TTS's backbones"),
        (["--reference-text", "Hello."], "`--reference-audio`"),
        (["--speed", "0"], "`--speed` must lie in"),
        (["--guidance", "nan"], "`--guidance` must lie in"),
        (["--duration", "0.01"], "`--duration` must lie in"),
    ],
)
def test_what_it_cannot_is_refused_before_anything_is_loaded(folder, arguments, said, monkeypatch, tmp_path):
    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("dtm_hf.commands.code_speaking.load_pipeline", load)
    result = run("speak", "yes", "--model", folder, "-o", tmp_path / "a.wav", *arguments)
    assert result.exit_code == 2 and said in result.stderr, result.stderr
    assert not (tmp_path / "a.wav").exists()


def test_a_temperature_is_for_models_that_draw_codes():
    result = run("speak", "Meet me on Monday.", "--temperature", "0.5")
    assert result.exit_code == 2 and "`--temperature` is for a model that draws codes" in result.stderr


def test_a_benchmark_of_mels_says_so(folder, reference_audio, tmp_path):
    lines = tmp_path / "lines.csv"
    shutil.copy(reference_audio, tmp_path / "voice.wav")
    lines.write_text("reference_audio,reference_text,text\nvoice.wav,some words.,yes\n")
    result = run("benchmark", "--model", folder, "--set", lines, "-o", tmp_path / "figures", "--arms", "euler-4")
    assert result.exit_code == 2, result.output
    assert "is a TRMPipeline: name it by `--beside`" in result.stderr.replace("\n", " ")
    assert not (tmp_path / "figures").exists()


def test_a_duration_predictor_is_taken_in(folder, tmp_path):
    from dtm_hf import DurationPredictor, TRMPipeline
    from dtm_hf.training.speech.durations import install

    shutil.copytree(folder, tmp_path / "pipeline")
    install(DurationPredictor(1.0, 0.0, {}, 0.0), tmp_path / "pipeline")
    assert TRMPipeline.from_pretrained(tmp_path / "pipeline").duration_predictor("yes") == 1.0

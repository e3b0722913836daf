"""The scripts of examples/, run as they are, offline."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest
import soundfile
from hub_server import hub_of_this_process

from dtm_hf.commands.models import EMBEDDED
from dtm_hf.frontend.voices import packaged_voices

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path):
    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def seconds(path):
    return soundfile.info(path).duration


def test_speak_and_compare(run, tmp_path, capsys):
    run("speak_and_compare.py")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "F5-TTS-16-steps.wav",
        "F5-TTS-4-steps.wav",
        "head-2-steps.wav",
        "head-4-steps.wav",
        "mels.png",
    ]
    assert len({seconds(path) for path in (tmp_path / "out").glob("*.wav")}) == 1
    assert capsys.readouterr().out.count("s of speech in") == 4


def test_train_a_head_on_a_folder_of_clips(run, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    lines = ["file_name|text"]
    for name, voice in packaged_voices(EMBEDDED).items():
        for copy in range(4):
            shutil.copy(voice.audio, clips / f"{name}-{copy}.wav")
            lines.append(f"{name}-{copy}.wav|{voice.text}")
    (clips / "metadata.csv").write_text("\n".join(lines) + "\n")
    run("train_a_head.py", clips, "--steps", 2, "--out", "mine")
    assert (tmp_path / "mine/run/head/config.json").is_file()
    assert seconds(tmp_path / "mine/speech.wav") > 0.5


def test_push_pull_and_speak(run, tmp_path, capsys):
    with hub_of_this_process(tmp_path / "hub"):
        run("push_pull_speak.py", "org/mine")
    assert "DTMPipeline of org/mine" in capsys.readouterr().out
    assert seconds(tmp_path / "speech.wav") > 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        ("train_a_head.py", "clips", "--base", str(EMBEDDED / "backbone")),
        ("push_pull_speak.py", "org/mine", "--model", str(EMBEDDED / "backbone")),
        ("speak_and_compare.py", "--model", str(EMBEDDED / "backbone")),
        ("speak_and_compare.py", "--reference-audio", str(next(iter(packaged_voices(EMBEDDED).values())).audio)),
    ],
    ids=lambda arguments: " ".join(arguments[:-1]),
)
def test_a_voice_that_is_missing_is_told_before_anything_is_done(arguments, run, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2 and "`--reference-text`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_example_is_tested():
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in source for path in EXAMPLES.glob("*.py"))

"""
What the command line refuses before it loads anything, in the words of the one who typed it; and what it takes from
files, standard input and several texts. On the embedded pipeline.
"""

import os
import stat
import typing
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from dtm_hf.commands import models, requests
from dtm_hf.commands.main import app
from dtm_hf.commands.options import place

STUDENT = models.EMBEDDED / "student"


def run(*arguments: object, **kwargs):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **kwargs)


def one_error_line(result) -> str:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
    return lines[0]


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("dtm_hf.commands.speaking.load_pipeline", load)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # What the small files of a model tell is refused before the large ones are read.
        (["Hi.", "--guidance", "9"], "`--guidance` must lie in [1.0, 4.0]"),
        (["Hi.", "--student", STUDENT, "--steps", "3"], "`--steps` must be one of [2, 4]"),
        (["Hi.", "--student", STUDENT, "--guidance", "2"], "`--guidance` must be left out"),
        (["Hi.", "--guidance", "1e9"], "`--guidance` must lie in [0, 100]"),
        (["Hi.", "--guidance", "inf"], "`--guidance`"),
        (["Hi.", "--steps", "1000", "--head-steps", "1000"], "`--head-steps` must be at most 10"),
        (["Hi.", "--speed", "100"], "`--speed` must lie in [0.001, 10]"),
        (["Hi.", "--speed", "nan"], "`--speed` must lie in [0.001, 10]"),
        (["Hi.", "--duration", "0.01"], "`--duration` must lie in"),
        (["Hi.", "--duration", "-1"], "`--duration` must lie in"),
        (["Hi. " * 99, "--duration", "1"], "`--duration` must leave room for a text of 396 characters"),
        (["你好"], "`TEXT` must hold characters of the vocabulary"),
        (["Hi.", "..."], "`TEXT` must hold words"),
        (["Hi.", " "], "`TEXT` must not be empty"),
        (["Hi.", "--model", "dtm-f5-vioce"], "Did you mean 'dtm-f5-voice'?"),
        (["Hi.", "--model", "mine/tinny"], "Did you mean 'mine/tiny'?"),
        ([], "`TEXT` and `--text-file`"),
        (["Hi.", "--text-file", "lines.txt"], "`TEXT` and `--text-file`"),
        (["--text-file", "absent.txt"], "`--text-file` 'absent.txt' is no existing file"),
        (["--text-file", "latin.txt"], "`--text-file` 'latin.txt' must be text in UTF-8, but byte 1"),
        (["--text-file", "empty.txt"], "`--text-file` must not be empty"),
        (["--text-file", "mine"], "`--text-file` 'mine' is no existing file"),
        (["Hi.", "-o", "x.mp3"], "`--output` must end in .wav"),
    ],
)
def test_it_is_refused_before_loading_as_it_was_typed(arguments, said, nothing_is_loaded, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "tiny").mkdir(parents=True)
    (tmp_path / "lines.txt").write_text("Hi.\n")
    (tmp_path / "latin.txt").write_bytes(b"h\xe9llo")
    (tmp_path / "empty.txt").write_text("\n \n")
    before = sorted(tmp_path.rglob("*"))
    result = run("speak", *arguments)
    assert said in one_error_line(result)
    assert result.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "option",
    [
        *(
            ["--steps", "0"],
            ["--steps", "1000000000"],
            ["--steps", "four"],
            ["--head-steps", "-1"],
            ["--steps", "nan"],
        ),
        *(["--guidance", "x"], ["--guidance-end", "1.5"], ["--guidance-end", "x"], ["--speed", "fast"]),
        *(["--seed", "-1"], ["--seed", str(2**64)], ["--seed", "x"], ["--dtype", "int8"], ["--duration", "long"]),
    ],
)
def test_what_is_no_such_number_is_refused_by_its_option(option, nothing_is_loaded):
    result = run("speak", "Hi.", *option)
    assert result.exit_code == 2 and option[0] in result.stderr and "Traceback" not in result.stderr


def test_a_folder_that_is_not_there_is_not_looked_up_on_the_hub(nothing_is_loaded):
    for name in ("./absent", "a/b/c", "absent", "-", ""):
        result = run("speak", "Hi.", "--model", name)
        assert result.exit_code == 2 and "`--model`" in one_error_line(result)


def test_offline_every_file_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub = ("hf://org/name/model.safetensors", "hf://org/name/vocab.txt", tmp_path / "out")
    line = one_error_line(run("convert-f5", *hub, "--vocoder", "org/vocos"))
    for argument in ("`CHECKPOINT` 'hf://org/name/model.safetensors'", "`VOCAB` 'hf://org/name/vocab.txt'"):
        assert f"{argument} cannot be had" in line
    assert "`--vocoder` 'org/vocos' cannot be had" in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Samples of a sentence, spoken by itself."""
    path = tmp_path_factory.mktemp("spoken") / "x.wav"
    assert run("speak", "The train leaves.", "--steps", 1, "-o", path).exit_code == 0
    return soundfile.read(path)[0]


def test_text_comes_from_a_file_and_from_standard_input(spoken, tmp_path):
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfThe train leaves.\n")
    for arguments, given in (["--text-file", tmp_path / "text.txt"], None), (["-"], "The train leaves.\n"):
        result = run("speak", *arguments, "--steps", 1, "-o", tmp_path / "x.wav", input=given)
        assert result.exit_code == 0, result.stderr
        np.testing.assert_array_equal(soundfile.read(tmp_path / "x.wav")[0], spoken)


def test_several_texts_are_written_to_a_file_each_and_are_what_they_are_alone(spoken, tmp_path):
    (tmp_path / "lines.txt").write_text("It is nine.\n\nThe train leaves.\n")
    for number, arguments in enumerate(
        (["It is nine.", "The train leaves."], ["--text-file", tmp_path / "lines.txt"])
    ):
        output = tmp_path / f"{number}" / "speech.wav"
        options = ["--steps", 1, "--picture", "--split-lines", "-o", output]
        result = run("speak", *arguments, *options)
        assert result.exit_code == 0, result.stderr
        names = sorted(path.name for path in output.parent.iterdir())
        assert names == ["speech-1.png", "speech-1.wav", "speech-2.png", "speech-2.wav"]
        samples = soundfile.read(output.with_name("speech-2.wav"))[0]
        # In a batch the rounding may be another.
        assert len(samples) == len(spoken) and np.abs(samples - spoken).max() < 0.01


def test_duration_and_guidance_end_reach_the_pipeline(tmp_path):
    result = run("speak", "It is nine.", "--steps", 4, "--duration", 2, "-o", tmp_path / "x.wav")
    assert result.exit_code == 0, result.stderr
    assert soundfile.info(tmp_path / "x.wav").duration == pytest.approx(2, abs=0.03)
    # Without a head each step takes both branches until the time; of four sway steps two begin before 0.2.
    options = ["--steps", 4, "--head-steps", 0, "--guidance", 2]
    passes = []
    for end in (0, 0.2, 1):
        result = run("speak", "It is nine.", *options, "--guidance-end", end, "-o", tmp_path / "x.wav")
        passes.append(int(result.stdout.split(" backbone passes")[0].split()[-1]))
    assert passes[0] == 4 and passes[0] < passes[1] < passes[2] <= 8


def test_it_is_played_where_a_player_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    output = tmp_path / "x.wav"
    refused = run("speak", "It is nine.", "--play", "-o", output)
    assert refused.exit_code == 2 and "`--play` needs a program that plays: pw-play" in one_error_line(refused)
    player = tmp_path / "aplay"
    player.write_text('#!/bin/sh\nfor last; do :; done\n[ -s "$last" ] && echo "$last" > "$0.played"\n')
    player.chmod(player.stat().st_mode | stat.S_IXUSR)
    result = run("speak", "It is nine.", "--steps", 1, "--play", "-o", output)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "aplay.played").read_text().strip() == os.fspath(output)
    player.write_text("#!/bin/sh\necho no device >&2\nexit 1\n")
    requests.play(output)


def paths_of(function):
    """Parameters of a command that are paths, or may be, and what each is read with."""
    from dtm_hf.commands.options import path

    found = {}
    for name, hint in typing.get_type_hints(function, include_extras=True).items():
        if typing.get_origin(hint) is typing.Annotated:
            kind, option = typing.get_args(hint)[:2]
            if kind in (Path, Path | None) or (name in PLACES and kind is not int):
                found[name] = option.parser is (path if kind in (Path, Path | None) else place)
    return found


PLACES = ("model", "student", "port", "checkpoint", "vocab", "vocoder", "items", "texts")


def test_every_path_is_read_with_its_home():
    from dtm_hf.synthesize.__main__ import app as synthesize

    commands = [command.callback for command in app.registered_commands] + [synthesize.registered_callback.callback]
    read = {(command.__name__, name): well for command in commands for name, well in paths_of(command).items()}
    # A text to be said is none.
    del read["speak_text", "texts"]
    assert len(read) > 25 and [option for option, well in read.items() if not well] == []
    assert [place(name) for name in ("org/name", "hf://org/name/x", "./~x")] == ["org/name", "hf://org/name/x", "./~x"]


def test_what_is_written_goes_where_home_is(monkeypatch, tmp_path):
    from dtm_hf.synthesize.__main__ import app as synthesize

    (tmp_path / "texts.txt").write_text("Hi.\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    more = ("--num-shards", "1", "--steps", "1", "--head-steps", "0", "--device", "cpu")
    result = CliRunner().invoke(synthesize, ["--texts", "~/texts.txt", "--output=~/speech", *more])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "speech" / "summary.json").is_file() and not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["speak", "Hi.", "--model", "~no-such-user/x"],
        ["speak", "Hi.", "--output=~no-such-user/x.wav"],
        ["serve", "--voices", "~no-such-user/x"],
    ],
)
def test_a_home_that_there_is_not_is_refused_by_its_option(arguments, nothing_is_loaded):
    result = run(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert arguments[-2] in result.stderr or arguments[-1].startswith("--output") and "--output" in result.stderr
    assert "no-such-user" in result.stderr and isinstance(result.exception, SystemExit)


def test_a_gpu_whose_memory_is_full_is_told_in_one_line(monkeypatch):
    import torch

    def load(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("dtm_hf.commands.speaking.load_pipeline", load)
    result = run("speak", "Hi.")
    assert result.exit_code == 1 and one_error_line(result) == "Error: CUDA out of memory."
    # The way in which typer ends a command is none.
    assert run("speak", "--help").exit_code == 0

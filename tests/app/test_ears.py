"""Who writes what is said in a recording, where `--recognizer` names nobody: loaded late, and never unasked."""

import importlib.util

import gradio
import numpy as np
import pytest
from whispers import fake_whisper

from dtm_hf.commands.page import open_ears

WAVE = np.zeros(24_000, np.float32)


@pytest.fixture
def told(monkeypatch):
    """What the page is told to show."""
    told = []
    monkeypatch.setattr(gradio, "Info", lambda message, **_more: told.append(message))
    return told


def installed(monkeypatch, there):
    find = importlib.util.find_spec
    specs = {"faster_whisper": find("numpy") if there else None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: specs[name] if name in specs else find(name))


def test_where_faster_whisper_is_installed_it_is_loaded_with_the_first_recording(monkeypatch, told, capsys):
    asked = fake_whisper(monkeypatch, here=True)
    installed(monkeypatch, True)
    hear = open_ears(None, False)
    assert asked == [] and "`--recognizer none` turns it off" in capsys.readouterr().err
    assert hear(WAVE, 24_000) == hear(WAVE, 24_000) == "heard 1 s"
    # In the language that it hears; what is here is not looked for elsewhere, nor loaded twice.
    assert asked == [("base", None, True)] and told == []


def test_what_is_not_here_is_downloaded_and_said(monkeypatch, told, capsys):
    asked = fake_whisper(monkeypatch, here=False)
    installed(monkeypatch, True)
    hear = open_ears(None, False)
    assert "downloaded" in capsys.readouterr().err and told == []
    assert hear(WAVE, 24_000) == "heard 1 s"
    assert asked == [("base", None, True), ("base", None, False)]
    assert len(told) == 1 and "Downloading" in told[0] and "145 MB" in told[0]


def test_nothing_is_downloaded_where_that_is_not_wanted(monkeypatch, told, capsys, caplog):
    asked = fake_whisper(monkeypatch, here=False)
    installed(monkeypatch, True)
    hear = open_ears(None, True)
    assert "downloaded" not in capsys.readouterr().err
    with pytest.raises(ValueError, match="Write what is said in the recording yourself"):
        hear(WAVE, 24_000)
    assert asked == [("base", None, True)] and told == [] and "no such model" in caplog.text


def test_without_it_or_by_none_nobody_writes(monkeypatch, capsys):
    asked = fake_whisper(monkeypatch, here=True)
    installed(monkeypatch, False)
    assert open_ears(None, False) is None
    installed(monkeypatch, True)
    assert open_ears("none", False) is None
    assert asked == [] and capsys.readouterr().err == ""

"""`Speaker`: a port speaks without torch, and says what its source says."""

import json
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from tiny import voice

from dtm_hf import DTMPipeline
from dtm_hf.runtime import Speaker

TEXT, SAID = "Hello there, good morning.", "What is said."


@pytest.fixture(scope="module")
def speaker(port):
    return Speaker.from_pretrained(port, threads=1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_inference_steps": 2, "num_head_steps": 0},
        {"num_head_steps": 4, "guidance_scale": 1.5},
        {"num_head_steps": 0, "guidance_scale": 2.5, "guidance_end": 0.3, "speed": 1.5},
        {"duration_s": 0.8},
    ],
)
def test_the_same_seed_says_the_same_as_the_pipeline(speaker, port_source, reference_audio, settings):
    speech = speaker(TEXT, reference_audio, SAID, seed=3, **settings)
    expected = port_source(TEXT, reference_audio, SAID, generator=torch.Generator().manual_seed(3), **settings)
    assert speech.sampling_rate == expected.sampling_rate and speech.audio.dtype == np.float32
    assert speech.audio.shape == expected.audios[0].shape
    assert np.abs(speech.audio - expected.audios[0]).max() < 1e-3 * np.abs(expected.audios[0]).max()
    other = speaker(TEXT, reference_audio, SAID, seed=4, **settings)
    assert np.abs(speech.audio - other.audio).max() > 0.01 * np.abs(speech.audio).max()


def test_long_text_is_cut_and_joined_as_the_pipeline_does(speaker, port_source, reference_audio):
    text = "Good morning to you. " * 12
    recording = (voice(8.0), 24000)
    rows = speaker.prepare(text, recording, SAID)
    assert len(rows) > 1
    expected = port_source(text, recording, SAID, num_inference_steps=1, generator=torch.Generator().manual_seed(0))
    audio = speaker(text, recording, SAID, num_inference_steps=1).audio
    assert audio.shape == expected.audios[0].shape
    assert np.abs(audio - expected.audios[0]).max() < 1e-3 * np.abs(expected.audios[0]).max()


def test_neither_torch_nor_what_stands_on_it_is_imported(port, reference_audio, tmp_path):
    for name in ("reference.wav", "reference.txt"):
        (tmp_path / name).write_bytes(reference_audio.read_bytes() if name.endswith("wav") else SAID.encode())
    shutil.copytree(port, tmp_path, dirs_exist_ok=True)
    script = (
        "import sys, dtm_hf.commands.main as m\n"
        f"sys.argv = ['dtm-hf', 'speak', {TEXT!r}, '--runtime', 'onnx', '--model', '.', '-o', 'out.wav']\n"
        "try: m.main()\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "print({'torch', 'torchaudio', 'diffusers', 'transformers', 'f5_tts', 'scipy'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "set()"
    samples, rate = soundfile.read(tmp_path / "out.wav")
    assert rate == 24000 and np.abs(samples).max() > 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"text": " "}, "`text`"),
        ({"reference_text": ""}, "`reference_text`"),
        ({"speed": 0}, "`speed`"),
        ({"guidance_scale": 9.0}, "`guidance_scale`"),
        ({"num_head_steps": 3}, "`num_head_steps`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_what_cannot_be_spoken_is_refused(speaker, reference_audio, arguments, named):
    with pytest.raises(ValueError, match=named):
        speaker(**{"text": TEXT, "reference_audio": reference_audio, "reference_text": SAID} | arguments)


# Folders that are no port, or are damaged


@pytest.fixture
def copy(port, tmp_path):
    return shutil.copytree(port, tmp_path / "port")


def edit(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_missing_graph_is_named(copy):
    (copy / "head" / "prepare.onnx").unlink()
    for opened in (Speaker, DTMPipeline.from_pretrained):
        with pytest.raises(FileNotFoundError, match="'prepare' is missing"):
            opened(copy)


def test_a_damaged_graph_is_named(copy):
    (copy / "head" / "prepare.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="prepare.onnx' cannot be opened"):
        Speaker(copy)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model_index.json", {"backbone": ["dtm_hf"]}),
        ("model_index.json", {"text_normalizer": ["dtm_hf", "TextNormalizer"]}),
        ("vocoder/config.json", None),
        ("backbone/config.json", None),
    ],
)
def test_what_lacks_a_part_is_damaged(file, change, copy, reference_audio):
    (copy / "text_normalizer").mkdir()
    (copy / "text_normalizer/normalizer_config.json").write_text("{}")
    path = copy / file
    path.write_text(json.dumps({} if change is None else json.loads(path.read_text()) | change))
    # Some of it is missed when it is read, and some when it is used.
    with pytest.raises(ValueError, match="damaged") as error:
        Speaker(copy)("Hi.", reference_audio, "What is said.")
    assert str(copy) in str(error.value)


def test_a_head_of_another_backbone_is_refused(copy):
    edit(copy / "head" / "config.json", backbone_fingerprint="0123456789abcdef")
    with pytest.raises(ValueError, match="0123456789abcdef"):
        Speaker(copy)
    edit(copy / "model_index.json", force_head=True)
    Speaker(copy)


def test_a_later_version_and_another_format_are_refused(copy):
    edit(copy / "backbone" / "port.json", version=2)
    with pytest.raises(ValueError, match="version 2"):
        Speaker(copy)
    edit(copy / "backbone" / "port.json", version=1, export_format="dynamo")
    with pytest.raises(ValueError, match="'dynamo'"):
        Speaker(copy)


def test_a_pipeline_of_torch_is_no_port(copy):
    edit(copy / "model_index.json", backbone=["dtm_hf", "F5Backbone"])
    with pytest.raises(ValueError, match="holds no port"):
        Speaker(copy)


def test_a_missing_runtime_is_named(port, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for opened in (Speaker, DTMPipeline.from_pretrained):
        # A pipeline says first which folder it was to load.
        with pytest.raises((ImportError, ValueError), match="pip install onnxruntime"):
            opened(port)


def test_a_stream_is_its_sentences_cross_faded(speaker, reference_audio):
    text = "Good morning. Hello there."
    chunks = list(speaker.stream(text, reference_audio, SAID, num_inference_steps=2, num_head_steps=0, seed=1))
    assert len(chunks) >= 2 and all(chunk.dtype == np.float32 for chunk in chunks)
    first = speaker("Good morning.", reference_audio, SAID, num_inference_steps=2, num_head_steps=0, seed=1).audio
    held = int(0.15 * 24000)
    np.testing.assert_allclose(np.concatenate(chunks)[: len(first) - held], first[:-held], atol=1e-6)
    with pytest.raises(TypeError, match="`text`"):
        speaker.stream([text], reference_audio, SAID)


def test_a_stream_takes_no_more_memory_for_a_longer_text(speaker, reference_audio):
    settings = {"num_inference_steps": 1, "num_head_steps": 0}

    def peak(sentences):
        text = "Good morning to you. " * sentences
        tracemalloc.start()
        try:
            chunks = sum(1 for _ in speaker.stream(text, reference_audio, SAID, **settings))
            return tracemalloc.get_traced_memory()[1], chunks
        finally:
            tracemalloc.stop()

    peak(1)
    (few, _), (many, chunks) = peak(3), peak(12)
    assert chunks >= 12 and many < 1.05 * few, (few, many)

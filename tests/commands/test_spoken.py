"""Texts to WAVs while they are spoken: what a call makes of the whole, in no more memory for a long text."""

import shutil
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from tiny import voice
from typer.testing import CliRunner

from dtm_hf import DTMPipeline
from dtm_hf.commands.main import app
from dtm_hf.commands.spoken import write_wav
from dtm_hf.runtime import Speaker

# As long as the recording of eight seconds: what is said is not slower.
SAID = "What is said in the recording is of no matter, but that it lasts eight seconds."
LONG = "This is one of the sentences that make a long text. "


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def models(port_source, port, tmp_path_factory):
    """Options of either runtime, both with a voice of eight seconds: beside it chunks are short."""
    folder = tmp_path_factory.mktemp("models")
    port_source.save_pretrained(folder / "torch")
    shutil.copytree(port, folder / "onnx")
    for runtime in ("torch", "onnx"):
        soundfile.write(folder / runtime / "reference.wav", voice(8.0), 24000)
        (folder / runtime / "reference.txt").write_text(SAID)
    return {runtime: ["--model", folder / runtime, "--runtime", runtime] for runtime in ("torch", "onnx")}


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_it_is_what_a_call_of_the_whole_says(runtime, models, port_source, tmp_path):
    texts, recording = [LONG * 6, "Hi."], str(models[runtime][1] / "reference.wav")
    steps = ["--steps", 1, "--head-steps", 0, "--seed", 5]
    result = run("speak", *texts, *models[runtime], *steps, "-o", tmp_path / "a.wav")
    assert result.exit_code == 0, result.stderr
    sampling = {"num_inference_steps": 1, "num_head_steps": 0}
    if runtime == "onnx":
        speaker = Speaker(models[runtime][1])
        expected = [speaker(text, recording, SAID, **sampling, seed=5).audio for text in texts]
    else:
        generators = [torch.Generator().manual_seed(5) for _ in texts]
        # Read as the command reads it: where weights lie in memory decides the last bits on some processors.
        source = DTMPipeline.from_pretrained(models[runtime][1])
        expected = source(texts, recording, SAID, **sampling, generator=generators).audios
    # Chunks follow each other, and texts too.
    assert len(port_source.prepare(texts, recording, SAID)) > len(texts)
    for number, audio in enumerate(expected, start=1):
        said, _ = soundfile.read(tmp_path / f"a-{number}.wav")
        assert said.shape == audio.shape
        np.testing.assert_allclose(said, audio / max(1.0, float(np.abs(audio).max())), atol=1 / 32768)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_a_longer_text_takes_no_more_memory(runtime, models, tmp_path, monkeypatch):
    kind = DTMPipeline if runtime == "torch" else Speaker
    prepare, before = kind.prepare, []

    def prepared(*args, **kwargs):
        rows = prepare(*args, **kwargs)
        # What it takes to load a model is more, and not the matter here.
        tracemalloc.reset_peak()
        before.append(tracemalloc.get_traced_memory()[0])
        return rows

    monkeypatch.setattr(kind, "prepare", prepared)

    def peak(sentences):
        (tmp_path / "text.txt").write_text(LONG * sentences)
        tracemalloc.start()
        try:
            result = run(
                *["speak", "--text-file", tmp_path / "text.txt", *models[runtime], "--steps", 1, "--head-steps", 0],
                *["-o", tmp_path / "a.wav"],
            )
            assert result.exit_code == 0, result.stderr
            return tracemalloc.get_traced_memory()[1] - before[-1], soundfile.info(tmp_path / "a.wav").frames
        finally:
            tracemalloc.stop()

    peak(1)
    # Two chunks, which are joined, and six of the same length.
    (few, short), (many, long) = peak(4), peak(12)
    assert long > 2.5 * short
    # Of float samples alone, those that are more would take four bytes each; a chunk of them waits for the next.
    assert many - few < 0.5 * 4 * (long - short), (few, many, long - short)


def test_the_loudest_of_all_chunks_is_what_fits(tmp_path, capsys):
    quiet, loud = np.full(100, 0.5, np.float32), np.full(1 << 19, -2.0, np.float32)
    assert write_wav(tmp_path / "a.wav", iter([quiet, loud]), 8000) == 100 + (1 << 19)
    samples, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 8000 and soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    np.testing.assert_allclose(samples, np.concatenate([quiet, loud]) / 2, atol=1e-4)
    assert "lowered by 6.0 dB" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_chunk_without_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="NaN or infinite"):
        write_wav(tmp_path / "a.wav", [np.zeros(10, np.float32), np.full(3, np.nan, np.float32)], 8000)
    assert list(tmp_path.iterdir()) == []

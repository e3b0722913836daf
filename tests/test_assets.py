"""The embedded pipeline: complete, small, safe and understood."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import dtm_hf

ASSET = Path(dtm_hf.__file__).parent / "assets" / "dtm-f5-tiny"


@pytest.fixture(scope="module")
def pipeline():
    pipeline = dtm_hf.DTMPipeline.from_pretrained(ASSET, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_it_is_small_and_holds_nothing_that_can_run():
    files = [path for path in ASSET.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".wav"}


def test_nothing_names_the_machine_it_was_made_on():
    for path in ASSET.rglob("*.json"):
        assert not any(f'"{root}' in path.read_text() for root in ("/root", "/home", "/tmp", "/work")), path


def test_head_was_trained_on_this_backbone(pipeline):
    assert pipeline.head.config.backbone_fingerprint == pipeline.backbone.fingerprint
    assert pipeline.head.config.license == pipeline.backbone.config.license == "mit"


def test_it_has_the_mel_format_of_f5(pipeline):
    extractor = pipeline.feature_extractor
    assert (extractor.sampling_rate, extractor.hop_length, extractor.feature_size) == (24000, 256, 100)


def test_it_knows_how_long_its_words_take(pipeline):
    """Within a quarter of what the packaged recordings last: one voice is faster than the average, one slower."""
    said, seconds = {}, {}
    for voice in ("slt", "rms"):
        said[voice] = (ASSET / f"reference-{voice}.txt").read_text(encoding="utf-8").strip()
        seconds[voice] = soundfile.info(ASSET / f"reference-{voice}.wav").duration
    predictor = pipeline.duration_predictor
    # "six" has as many letters as "two" and takes longer; bytes cannot tell.
    assert predictor("six six six") > 1.1 * predictor("two two two")
    for voice, text in said.items():
        assert predictor(text) == pytest.approx(seconds[voice], rel=0.25)


@pytest.mark.parametrize("voice", ["slt", "rms"])
def test_packaged_voices_speak(pipeline, voice):
    said = (ASSET / f"reference-{voice}.txt").read_text(encoding="utf-8").strip()
    audio = pipeline(
        "The train leaves at half past nine.",
        ASSET / f"reference-{voice}.wav",
        said,
        generator=torch.Generator().manual_seed(0),
    ).audios[0]
    assert np.isfinite(audio).all()
    assert 1.0 < len(audio) / 24000 < 4.0
    assert np.sqrt(np.mean(audio**2)) > 0.01


SENTENCES = [
    "The train leaves at half past nine.",
    "Please call two five eight.",
    "The bus leaves from platform seven.",
    "My number is four nine one six.",
    "Meet me on Monday at ten.",
    "Room three hundred and twelve.",
    "Today is Friday.",
    "The train leaves at quarter past six.",
]
WORDS = "train bus platform leaves from at half past quarter to nine the please call two five eight seven my number is"
WORDS += " four one six meet me on monday ten room three hundred and twelve today friday"


def test_words_are_understood(pipeline):
    """Word error of a recogniser held to these words, both voices: noise has 1 and more, recordings under 0.1."""
    from dtm_hf.evaluation.metric import BenchmarkItem, Speech
    from dtm_hf.evaluation.metrics.words import WordErrorRate
    from dtm_hf.evaluation.recognizers import VocabularyRecognizer

    metric, errors, words = WordErrorRate(VocabularyRecognizer(WORDS.split())), 0.0, 0.0
    for voice in ("slt", "rms"):
        said = (ASSET / f"reference-{voice}.txt").read_text(encoding="utf-8").strip()
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(SENTENCES))]
        audios = pipeline(SENTENCES, ASSET / f"reference-{voice}.wav", said, generator=generators).audios
        for text, audio in zip(SENTENCES, audios, strict=True):
            item = BenchmarkItem(text, text, np.zeros(0, dtype=np.float32), said)
            found = metric(Speech(audio, 24000, np.zeros((0, 100))), item)
            errors, words = errors + found[0], words + found[1]
    assert errors / words < 0.5


def test_model_index_is_clean():
    index = json.loads((ASSET / "model_index.json").read_text())
    libraries = {value[0] for value in index.values() if isinstance(value, list)}
    assert libraries == {"dtm_hf"}


def test_the_embedded_student_speaks_in_its_steps(pipeline):
    student = dtm_hf.DTMPipeline(**pipeline.components | {"head": None}).load_student(ASSET / "student")
    student.set_progress_bar_config(disable=True)
    said = (ASSET / "reference-slt.txt").read_text(encoding="utf-8").strip()
    passes = []
    student.backbone.register_forward_hook(lambda _module, _inputs, output: passes.append(len(output.velocity)))
    audio = student("Please call two five eight.", ASSET / "reference-slt.wav", said).audios[0]
    assert passes == [1] * 4
    assert np.isfinite(audio).all() and np.sqrt(np.mean(audio**2)) > 0.01

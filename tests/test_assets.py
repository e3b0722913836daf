"""The embedded pipeline: complete, small, safe and understood."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import dtm_hf

ASSET = Path(dtm_hf.__file__).parent / "assets" / "dtm-f5-voice"


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
    assert pipeline.head.config.license == pipeline.backbone.config.license == "apache-2.0"


def test_it_has_the_mel_format_of_f5(pipeline):
    extractor = pipeline.feature_extractor
    assert (extractor.sampling_rate, extractor.hop_length, extractor.feature_size) == (24000, 256, 100)


def voice(name: str) -> tuple[Path, str]:
    return ASSET / f"reference-{name}.wav", (ASSET / f"reference-{name}.txt").read_text(encoding="utf-8").strip()


def test_it_knows_how_long_words_take(pipeline):
    """What one packaged voice says, in the pace of another: within two fifths of what it lasts."""

    def seconds(text: str, name: str) -> float:
        """The mean of some takes: each has a length of its own."""
        takes = [torch.Generator().manual_seed(seed) for seed in range(8)]
        rows = [pipeline.prepare(text, *voice(name), generator=take)[0] for take in takes]
        return np.mean([row.num_frames - row.reference.num_frames for row in rows]) * 256 / 24000

    for name, other in (("heart", "michael"), ("george", "emma")):
        assert seconds(voice(name)[1], other) == pytest.approx(soundfile.info(voice(name)[0]).duration, rel=0.4)
    # As many bytes, and more to say.
    assert seconds("Strengths stretched.", "heart") < 0.9 * seconds("A lively ivory idea.", "heart")


@pytest.mark.parametrize("name", ["emma", "george", "heart", "kathleen", "michael"])
def test_packaged_voices_speak(pipeline, name):
    audio = pipeline(
        "Purple elephants rarely drive taxis.",
        *voice(name),
        generator=torch.Generator().manual_seed(0),
    ).audios[0]
    assert np.isfinite(audio).all()
    assert 1.0 < len(audio) / 24000 < 4.0
    assert np.sqrt(np.mean(audio**2)) > 0.01


# Of no list and no training text: the recogniser may put any of their words in any place.
SENTENCES = [
    "Could you send me the address of the hotel, please?",
    "The quick brown fox jumps over the lazy dog.",
    "My sister plays the violin in a small orchestra.",
    "It will rain in the morning, and clear up before noon.",
    "Nobody told the captain about the broken engine.",
]
WORDS = re.findall("[a-z]+", " ".join(SENTENCES).lower())


def test_words_are_understood(pipeline):
    """Word error of a recogniser held to these words, both voices: noise has 1 and more, recordings under 0.1."""
    from dtm_hf.evaluation.metric import BenchmarkItem, Speech
    from dtm_hf.evaluation.metrics.words import WordErrorRate
    from dtm_hf.evaluation.recognizers import VocabularyRecognizer

    metric, errors, words = WordErrorRate(VocabularyRecognizer(sorted(set(WORDS)))), 0.0, 0.0
    for name in ("heart", "michael"):
        recording, said = voice(name)
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(SENTENCES))]
        audios = pipeline(SENTENCES, recording, said, generator=generators).audios
        for text, audio in zip(SENTENCES, audios, strict=True):
            item = BenchmarkItem(text, text, np.zeros(0, dtype=np.float32), said)
            found = metric(Speech(audio, 24000, np.zeros((0, 100))), item)
            errors, words = errors + found[0], words + found[1]
    assert errors / words < 0.5


def test_model_index_is_clean():
    index = json.loads((ASSET / "model_index.json").read_text())
    libraries = {value[0] for name, value in index.items() if isinstance(value, list)}
    assert libraries == {"dtm_hf"}


def test_the_mean_that_guidance_knows_is_one(pipeline):
    """With a head and without one, the first step is guided alike: the arms of a benchmark differ in their sampler."""
    assert pipeline.config.mean_mel == pipeline.head.config.mean_mel and len(pipeline.config.mean_mel["last"]) == 32


def test_the_embedded_student_speaks_in_its_steps(pipeline):
    student = dtm_hf.DTMPipeline(**pipeline.components | {"head": None}).load_student(ASSET / "student")
    student.set_progress_bar_config(disable=True)
    passes = []
    student.backbone.register_forward_hook(lambda _module, _inputs, output: passes.append(len(output.velocity)))
    audio = student("Please call two five eight.", *voice("heart")).audios[0]
    assert passes == [1] * 4
    assert np.isfinite(audio).all() and np.sqrt(np.mean(audio**2)) > 0.01

"""The embedded pipeline: complete, small, safe and understood."""

import json
from pathlib import Path

import numpy as np
import pytest
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


def test_model_index_is_clean():
    index = json.loads((ASSET / "model_index.json").read_text())
    libraries = {value[0] for value in index.values() if isinstance(value, list)}
    assert libraries == {"dtm_hf"}

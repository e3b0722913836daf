import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dtm_hf.f5_import import import_f5
from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor


def speech_like(seconds: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(int(seconds * 24000)) / 24000
    tone = sum(torch.sin(2 * torch.pi * 120 * k * t) / k for k in range(1, 20))
    return 0.05 * tone * torch.sin(3 * t) ** 2 + 1e-4 * torch.randn(len(t), generator=generator)


@pytest.fixture(scope="module")
def extractor():
    return F5FeatureExtractor()


@pytest.mark.parametrize("samples", [513, 1024, 24000, 24001, 25599, 25600])
def test_equals_f5(extractor, samples):
    waveform = torch.stack([speech_like(1.1)[:samples], speech_like(1.1, 1)[:samples]])
    expected = import_f5("f5_tts.model.modules").get_vocos_mel_spectrogram(waveform).transpose(1, 2)
    mel = extractor.log_mel(waveform)
    assert mel.shape == (2, samples // 256 + 1, 100)
    assert torch.equal(mel, expected)


def test_silence_sits_at_the_log_floor(extractor):
    mel = extractor.log_mel(torch.zeros(1, 2048))
    assert torch.equal(mel, torch.full_like(mel, 1e-5).log())


def test_padded_batch_equals_single_items(extractor):
    items = [speech_like(seconds, seed) for seed, seconds in enumerate((1.0, 0.37, 0.71))]
    batch = extractor(items, sampling_rate=24000)
    assert batch["attention_mask"].sum(1).tolist() == [len(item) // 256 + 1 for item in items]
    for row, mask, item in zip(batch["input_features"], batch["attention_mask"].bool(), items, strict=True):
        torch.testing.assert_close(row[mask], extractor.log_mel(item[None])[0], atol=1e-6, rtol=0)
        assert (row[~mask] == 0).all()
    waveform = torch.nn.utils.rnn.pad_sequence(items, batch_first=True)
    lengths = torch.tensor([len(item) for item in items])
    noisy = waveform + (torch.arange(waveform.shape[1])[None] >= lengths[:, None]) * torch.randn_like(waveform)
    assert torch.equal(extractor.log_mel(noisy, lengths), batch["input_features"])


def test_one_array_float64_and_bfloat16(extractor):
    item = speech_like(0.5)
    expected = extractor.log_mel(item[None])
    assert torch.equal(extractor(item)["input_features"], expected)
    assert torch.equal(extractor(item.numpy())["input_features"], expected)
    assert torch.equal(extractor(item.numpy().astype(np.float64))["input_features"], expected)
    assert extractor(item.bfloat16())["input_features"].dtype == torch.float32


def test_save_and_load(tmp_path):
    F5FeatureExtractor(feature_size=80, hop_length=128).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert config["sampling_rate"] == 24000 and config["feature_size"] == 80 and config["hop_length"] == 128
    loaded = F5FeatureExtractor.from_pretrained(tmp_path)
    assert loaded.log_mel(torch.zeros(1, 2048)).shape == (1, 17, 80)
    assert loaded.to_dict() == F5FeatureExtractor(feature_size=80, hop_length=128).to_dict()


def test_neither_it_nor_english_text_imports_f5_librosa_or_chinese():
    # F5-TTS's own, which has Chinese syllables.
    vocab_file = Path(importlib.util.find_spec("f5_tts").submodule_search_locations[0]) / "infer/examples/vocab.txt"
    code = (
        "import sys, torch; from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor\n"
        "from dtm_hf.frontend.tokenization_f5 import F5Tokenizer\n"
        "F5FeatureExtractor()(torch.zeros(2048))\n"
        f"F5Tokenizer({str(vocab_file)!r})('“Naïve” cafés — it’s £5.00; ok…')\n"
        "unwanted = ('f5_tts', 'librosa', 'diffusers', 'datasets', 'pypinyin', 'rjieba')\n"
        "print([m for m in unwanted if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_bad_input(extractor):
    with pytest.raises(ValueError, match="`mel_spec_type`.*'bigvgan'.*BigVGAN"):
        F5FeatureExtractor(mel_spec_type="bigvgan")
    with pytest.raises(ValueError, match="`sampling_rate` must be 24000, but got 16000"):
        extractor(torch.zeros(2048), sampling_rate=16000)
    with pytest.raises(ValueError, match="`waveform` must have shape"):
        extractor.log_mel(torch.zeros(2048))
    with pytest.raises(ValueError, match="longer than 512 samples.*512"):
        extractor.log_mel(torch.zeros(1, 512))
    with pytest.raises(ValueError, match="`lengths`.*at most 2048"):
        extractor.log_mel(torch.zeros(1, 2048), [2049])
    with pytest.raises(ValueError, match="`raw_speech` must be mono"):
        extractor(torch.zeros(1, 2, 2048))
    with pytest.raises(ValueError, match="`raw_speech`"):
        extractor([])

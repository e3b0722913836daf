"""Speaker similarity, predicted MOS, and the factory of all metrics."""

from dataclasses import dataclass

import numpy as np
import pytest
from spoken import clip, item, noisy, silence, spoken

from dtm_hf.evaluation.metrics import METRICS, make_metrics
from dtm_hf.evaluation.metrics.naturalness import PredictedMOS
from dtm_hf.evaluation.metrics.speaker import SpeakerSimilarity, WavLMSpeakerSimilarity


@dataclass
class Judged:
    vocabulary: list[str] | None = None
    recognizer: str = "pocketsphinx"
    normalization: str | None = None
    speaker_model: str = "resemblyzer"
    sampling_rate: int = 24000
    language: str = "en"


@pytest.fixture(scope="module")
def similarity():
    return SpeakerSimilarity()


def test_a_voice_resembles_itself_more_than_another_and_noise_least(similarity):
    judged = item("heart", reference_audio=clip("heart"))
    itself, spoilt, other = (
        similarity(spoken(waveform), judged)[0]
        for waveform in (judged.recording, noisy(judged.recording, 0.5), clip("michael"))
    )
    assert itself == pytest.approx(1, abs=1e-5)
    assert itself > spoilt > 0 and itself > other + 0.2
    for gain in (0.2, 3.0):
        assert similarity(spoken(gain * judged.recording), judged)[0] > 0.995


def test_the_prompt_is_compared_and_not_the_recording(similarity):
    judged = item("heart", id="prompt of another", reference_audio=clip("michael"))
    assert similarity(spoken(clip("michael")), judged)[0] > 0.99 > similarity(spoken(clip("heart")), judged)[0] + 0.2


def test_silence_resembles_nobody(similarity):
    assert similarity(spoken(silence()), item("heart")) == (0.0, 1.0)
    assert similarity(spoken(clip("heart")), item("heart", id="silent", reference_audio=silence())) is None


def test_peaks_beyond_one_are_no_error(similarity):
    assert similarity(spoken(8 * clip("heart") / np.abs(clip("heart")).max()), item("heart"))[0] > 0.3


def test_noise_lowers_the_predicted_opinion(capsys):
    metric, judged = PredictedMOS(), item()
    assert capsys.readouterr().out == ""
    scores = [metric(spoken(noisy(judged.recording, share)), judged)[0] for share in (0.0, 0.1, 1.0)]
    assert 5 >= scores[0] > scores[1] > scores[2] >= 1
    assert metric(spoken(judged.recording), item(recorded=False)) == (scores[0], 1.0)


@pytest.fixture
def fake_wavlm(monkeypatch):
    """In the place of s3prl's WavLM: its interface with a convolution inside."""
    import torch

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Module()
            self.model.encoder = torch.nn.Module()
            self.model.encoder.layers = torch.nn.ModuleList()
            self.convolution = torch.nn.Conv1d(1, 1024, 400, stride=320)

        def forward(self, waveforms):
            return {"hidden_states": [self.convolution(torch.stack(list(waveforms))[:, None]).transpose(1, 2)] * 2}

    # The constructor of f5_tts replaces this attribute: what is set here is put back after the test.
    monkeypatch.setattr(torch.hub, "_validate_not_a_forked_repo", lambda *arguments: True)
    monkeypatch.setattr(torch.hub, "load", lambda *arguments, **options: Features())


def test_the_figure_of_published_tables_loads_its_checkpoint(fake_wavlm, tmp_path):
    import torch
    from f5_tts.eval.ecapa_tdnn import ECAPA_TDNN_SMALL

    weights = ECAPA_TDNN_SMALL(1024).state_dict() | {"loss_calculator.projection.weight": torch.zeros(2)}
    torch.save({"model": weights}, tmp_path / "wavlm.pth")
    metric = WavLMSpeakerSimilarity(tmp_path / "wavlm.pth", device="cpu")
    judged = item("heart", reference_audio=clip("heart"))
    assert metric(spoken(clip("heart")), judged) == (pytest.approx(1, abs=1e-5), 1.0)
    assert metric(spoken(noisy(clip("heart"), 3.0)), judged)[0] < 0.999
    torch.save({"model": {k: v for k, v in weights.items() if "pooling" not in k}}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="`checkpoint` .* lacks weights: .'pooling"):
        WavLMSpeakerSimilarity(tmp_path / "part.pth", device="cpu")


def test_the_factory_makes_each_metric_under_its_name():
    metrics = make_metrics(list(METRICS), Judged(["seven"]))
    assert [metric.name for metric in metrics] == list(METRICS)
    assert set(METRICS) == {"wer", "cer", "mel", "similarity", "mos", "pitch", "difference"}
    best = {metric.name: metric.higher_is_better for metric in metrics}
    assert best == {"wer": False, "cer": False, "mel": False, "similarity": True, "mos": True} | {
        "pitch": None,
        "difference": None,
    }
    assert len({metric.title for metric in metrics}) == len(metrics)


@pytest.mark.parametrize(
    ("names", "judged", "message"),
    [
        (["mel", "beauty"], Judged(), r"`names` must be among .* but got \['beauty'\]"),
        (["wer"], Judged(), "needs a set with a `vocabulary`"),
        (["wer"], Judged(recognizer="ears"), "`recognizer` must be .* but got 'ears'"),
        (["similarity"], Judged(speaker_model="ears"), "`speaker_model` must be .* got 'ears'"),
        (["similarity"], Judged(speaker_model="wavlm-large"), "`speaker_checkpoint` must be"),
    ],
)
def test_what_the_factory_cannot_make_is_refused(names, judged, message):
    with pytest.raises(ValueError, match=message):
        make_metrics(names, judged)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("wer", "jiwer"),
        ("wer", "pocketsphinx"),
        ("cer", "pocketsphinx"),
        ("similarity", "resemblyzer"),
        ("mos", "distillmos"),
        ("mel", "librosa"),
        ("pitch", "librosa"),
    ],
)
def test_a_missing_package_is_told_with_the_extra_that_brings_it(name, module, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f'`{module}.* is not installed: pip install "dtm-hf\\[eval\\]"'):
        make_metrics([name], Judged(["seven"]))


def test_importing_the_metrics_is_cheap():
    import subprocess
    import sys

    heavy = "torch librosa scipy transformers resemblyzer distillmos jiwer pocketsphinx faster_whisper"
    code = f"import sys; import dtm_hf.evaluation.metrics; print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"

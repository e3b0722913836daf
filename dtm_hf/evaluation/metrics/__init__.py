"""The judges of a benchmark, by the names of their results."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from dtm_hf.evaluation.metric import Metric
from dtm_hf.evaluation.metrics.diversity import diversity
from dtm_hf.evaluation.metrics.naturalness import PredictedMOS
from dtm_hf.evaluation.metrics.sound import FrameDifference, MelDistance, PitchSpread, RecordingMels
from dtm_hf.evaluation.metrics.speaker import SpeakerSimilarity, WavLMSpeakerSimilarity
from dtm_hf.evaluation.metrics.words import ParaformerRecognizer, Recognizer, WhisperRecognizer, WordErrorRate

__all__ = ["METRICS", "diversity", "make_metrics", "make_recognizer"]


class JudgedSet(Protocol):
    """What the judges have to know about a set of items."""

    vocabulary: list[str] | None
    """Every lower-case word of the texts, where that is a closed list."""
    recognizer: str
    """`"pocketsphinx"`, `"whisper-large-v3"` or `"paraformer-zh"`."""
    speaker_model: str
    """`"resemblyzer"` or `"wavlm-large"`."""
    sampling_rate: int
    """Of prompts and recordings, in Hz."""


def make_recognizer(benchmark_set: JudgedSet) -> Recognizer:
    """
    Who listens to the speech of a set.

    Raises:
        ValueError: for another name, or pocketsphinx without a vocabulary.
        ImportError: naming what to install.
    """
    match benchmark_set.recognizer:
        case "pocketsphinx":
            from dtm_hf.evaluation.recognition import VocabularyRecognizer

            if not benchmark_set.vocabulary:
                raise ValueError("`recognizer` 'pocketsphinx' needs a set with a `vocabulary`, but it has none.")
            return VocabularyRecognizer(benchmark_set.vocabulary)
        case "whisper-large-v3":
            return WhisperRecognizer()
        case "paraformer-zh":
            return ParaformerRecognizer()
    raise ValueError(
        "`recognizer` must be 'pocketsphinx', 'whisper-large-v3' or 'paraformer-zh', "
        f"but got {benchmark_set.recognizer!r}."
    )


def _similarity(benchmark_set: JudgedSet, mels: RecordingMels, speaker_checkpoint: str | Path | None) -> Metric:
    match benchmark_set.speaker_model:
        case "resemblyzer":
            return SpeakerSimilarity(benchmark_set.sampling_rate)
        case "wavlm-large":
            if speaker_checkpoint is None:
                raise ValueError(
                    "`speaker_checkpoint` must be wavlm_large_finetune.pth for 'wavlm-large', but got None."
                )
            return WavLMSpeakerSimilarity(speaker_checkpoint, benchmark_set.sampling_rate)
    raise ValueError(f"`speaker_model` must be 'resemblyzer' or 'wavlm-large', got {benchmark_set.speaker_model!r}.")


METRICS: dict[str, Callable[[JudgedSet, RecordingMels, str | Path | None], Metric]] = {
    "wer": lambda benchmark_set, mels, checkpoint: WordErrorRate(make_recognizer(benchmark_set)),
    "similarity": _similarity,
    "mos": lambda benchmark_set, mels, checkpoint: PredictedMOS(),
    "mel": lambda benchmark_set, mels, checkpoint: MelDistance(mels),
    "difference": lambda benchmark_set, mels, checkpoint: FrameDifference(mels),
    "pitch": lambda benchmark_set, mels, checkpoint: PitchSpread(benchmark_set.sampling_rate),
}
"""Constructors by name, from the set, the mels of its recordings and the checkpoint of the speaker model."""


def make_metrics(
    names: Sequence[str],
    benchmark_set: JudgedSet,
    feature_extractor=None,
    speaker_checkpoint: str | Path | None = None,
) -> list[Metric]:
    """
    The judges of a set, in the order of their names.

    Args:
        names (sequence of `str`): Keys of `METRICS`.
        benchmark_set ([`JudgedSet`]): What they judge.
        feature_extractor ([`F5FeatureExtractor`], *optional*): That of the mels of the speech; F5-TTS's by default.
        speaker_checkpoint (`str` or `Path`, *optional*): For `speaker_model` `"wavlm-large"`.

    Raises:
        ValueError: for an unknown name, or as in [`make_recognizer`].
        ImportError: naming the extra of a package that is not installed.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"`names` must be among {list(METRICS)}, but got {unknown}.")
    mels = RecordingMels(benchmark_set.sampling_rate, feature_extractor)
    return [METRICS[name](benchmark_set, mels, speaker_checkpoint) for name in names]

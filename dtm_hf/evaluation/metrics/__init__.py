"""The judges of a benchmark, by the names of their results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from dtm_hf.evaluation.metric import Metric
from dtm_hf.evaluation.metrics.diversity import diversity
from dtm_hf.evaluation.metrics.naturalness import PredictedMOS
from dtm_hf.evaluation.metrics.sound import FrameDifference, MelDistance, PitchSpread, RecordingMels
from dtm_hf.evaluation.metrics.speaker import SpeakerSimilarity, WavLMSpeakerSimilarity
from dtm_hf.evaluation.metrics.words import CharacterErrorRate, Ears, WordErrorRate
from dtm_hf.evaluation.recognizers import load_recognizer

__all__ = ["METRICS", "diversity", "make_metrics"]


class JudgedSet(Protocol):
    """What the judges have to know about a set of items."""

    vocabulary: list[str] | None
    """Every lower-case word of the texts, where that is a closed list."""
    recognizer: str
    """As in [`load_recognizer`]."""
    normalization: str | None
    """A key of `NORMALIZATIONS`, where it is not the recogniser's own."""
    speaker_model: str
    """`"resemblyzer"` or `"wavlm-large"`."""
    sampling_rate: int
    """Of prompts and recordings, in Hz."""
    language: str
    """Of the texts."""


@dataclass
class JudgeMaker:
    """
    What the judges of one set share.

    Args:
        benchmark_set ([`JudgedSet`]): What they judge.
        mels ([`RecordingMels`]): Of its recordings.
        speaker_checkpoint (`str` or `Path`, *optional*): Of the speaker model `"wavlm-large"`.
    """

    benchmark_set: JudgedSet
    mels: RecordingMels
    speaker_checkpoint: str | Path | None = None

    @cached_property
    def ears(self) -> Ears:
        """The set's recogniser, for word and character errors alike."""
        judged = self.benchmark_set
        return Ears(load_recognizer(judged.recognizer, judged.vocabulary, judged.language), judged.normalization)

    def similarity(self) -> Metric:
        """That of the set's speaker model."""
        match self.benchmark_set.speaker_model:
            case "resemblyzer":
                return SpeakerSimilarity(self.benchmark_set.sampling_rate)
            case "wavlm-large":
                if self.speaker_checkpoint is None:
                    raise ValueError(
                        "`speaker_checkpoint` must be wavlm_large_finetune.pth for 'wavlm-large', but got None."
                    )
                return WavLMSpeakerSimilarity(self.speaker_checkpoint, self.benchmark_set.sampling_rate)
        raise ValueError(
            f"`speaker_model` must be 'resemblyzer' or 'wavlm-large', got {self.benchmark_set.speaker_model!r}."
        )


METRICS: dict[str, Callable[[JudgeMaker], Metric]] = {
    "wer": lambda maker: WordErrorRate(maker.ears),
    "cer": lambda maker: CharacterErrorRate(maker.ears),
    "similarity": JudgeMaker.similarity,
    "mos": lambda maker: PredictedMOS(),
    "mel": lambda maker: MelDistance(maker.mels),
    "difference": lambda maker: FrameDifference(maker.mels),
    "pitch": lambda maker: PitchSpread(maker.benchmark_set.sampling_rate),
}
"""Constructors by name."""


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
        ValueError: for an unknown name, or as in [`load_recognizer`].
        ImportError: naming the extra of a package that is not installed.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"`names` must be among {list(METRICS)}, but got {unknown}.")
    mels = RecordingMels(benchmark_set.sampling_rate, feature_extractor)
    maker = JudgeMaker(benchmark_set, mels, speaker_checkpoint)
    return [METRICS[name](maker) for name in names]

"""What a benchmark drives: a system that speaks its arms, and how what it said is kept and heard."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dtm_hf.evaluation.arms import Arm
from dtm_hf.evaluation.foreign_arms import ForeignArm
from dtm_hf.evaluation.metric import BenchmarkItem, Speech, resampled

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

# Figures that a system itself has of what it says, in the order of their columns.
OWN_FIGURES = {"stopped": "stop rate"}


@dataclass
class Said:
    """
    What an arm said of one item.

    Args:
        kept (`np.ndarray`): What is recorded and heard: a log-mel `(N, M)`, or codes `(K, F)` in integers.
        figures (`dict[str, tuple[float, float]]`): Numerator and denominator of keys of `OWN_FIGURES`.
    """

    kept: np.ndarray
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)


class System(Protocol):
    """A loaded pipeline whose arms can be judged."""

    def check(self, arm: Any) -> None:
        """
        Whether an arm can be run, before hours are spent on others.

        Raises:
            ValueError: if it cannot.
        """

    def say(self, arm: Any, items: list[BenchmarkItem], sampling_rate: int, seeds: list[int]) -> list[Said]:
        """Speak the items as one batch, each as its seed decides; `sampling_rate` is that of their recordings."""

    def hear(self, kept: list[np.ndarray]) -> list[Speech]:
        """The sound of what was said, of as many entries, and its log-mels as the set's recordings are seen in."""


class ForeignSystem(System, Protocol):
    """Of another pipeline than a `DTMPipeline`, made of the pipeline and the extractor of the benchmark's mels."""

    kind: str
    """Of its arms."""

    @property
    def fingerprint(self) -> str:
        """What its figures depend on: weights, what they run in, vocoder."""


@dataclass
class DTMSystem:
    """
    The arms of a [`DTMPipeline`].

    Args:
        pipe ([`DTMPipeline`]): Loaded, on its device.
        student ([`DTMPipeline`], *optional*): Speaks for the arms of a student.
    """

    pipe: "DTMPipeline"
    student: "DTMPipeline | None" = None

    def check(self, arm: Any) -> None:
        """As of [`System`]."""
        from dtm_hf.evaluation.samplers import mounted

        with mounted(self.pipe, arm, self.student):
            pass

    def say(self, arm: Any, items: list[BenchmarkItem], sampling_rate: int, seeds: list[int]) -> list[Said]:
        """As of [`System`]: log-mels."""
        from dtm_hf.evaluation.samplers import run_arm

        output = run_arm(self.pipe, arm, items, sampling_rate, seeds, "mel", student=self.student)
        return [Said(mel.float().cpu().numpy()) for mel in output.audios]

    def hear(self, kept: list[np.ndarray]) -> list[Speech]:
        """As of [`System`]."""
        rate = self.pipe.vocoder.sampling_rate
        return [Speech(wave, rate, mel) for wave, mel in zip(vocode(self.pipe, kept), kept, strict=True)]


def system_of(arm: Arm | ForeignArm, own: DTMSystem, others: Iterable[ForeignSystem]) -> System:
    """
    Who speaks an arm: `own` those of DTM, one of `others` those of its kind.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(arm, Arm):
        return own
    for system in others:
        if system.kind == arm.kind:
            return system
    raise ValueError(f"`arms` holds {arm.name!r}, but no model that speaks it is `beside`; name one, or leave it out.")


def vocode(pipe: "DTMPipeline", mels: list) -> list[np.ndarray]:
    """Waveforms `(T,)` of log-mels `(N, M)`, arrays or tensors, from one call of the pipeline's vocoder."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    lengths = [len(mel) for mel in mels]
    batch = pad_sequence([torch.as_tensor(mel) for mel in mels], batch_first=True).to(pipe._execution_device)
    # A vocoder with weights of its own, a Vocos, keeps them to be trained.
    with torch.no_grad():
        waves = pipe.vocoder(batch, lengths=torch.tensor(lengths)).float().cpu().numpy()
    hop = pipe.vocoder.hop_length
    return [wave[: (length - 1) * hop] for wave, length in zip(waves, lengths, strict=True)]


def runtime_of(component: Any) -> str:
    """What a network runs in. A port has the fingerprint of its source, and its own rounding."""
    manifest = getattr(component, "manifest", None)
    return "torch" if manifest is None else f"{manifest.export_format} {manifest.weights}"


def log_mel(extractor: Any, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Log-mel `(N, M)` of mono samples `(T,)`, as an [`F5FeatureExtractor`] sees them."""
    import torch

    samples = torch.from_numpy(resampled(waveform, sampling_rate, extractor.sampling_rate))
    return extractor.log_mel(samples[None])[0].float().cpu().numpy()

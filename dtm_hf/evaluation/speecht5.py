"""A SpeechT5 in a benchmark: one arm, which speaks until it says that it is done."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dtm_hf.backbone.fingerprint import fingerprint_of
from dtm_hf.evaluation.foreign_arms import ForeignArm
from dtm_hf.evaluation.metric import BenchmarkItem, Speech
from dtm_hf.evaluation.systems import Said, log_mel, runtime_of
from dtm_hf.pipelines.speecht5_rows import find_speakers
from dtm_hf.vocoder.hifigan import as_vocoder

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_speecht5 import SpeechT5Pipeline


class SpeechT5System:
    """
    [`~dtm_hf.evaluation.systems.ForeignSystem`] of a [`SpeechT5Pipeline`]. An item is spoken in the pipeline's voice
    of the name of its speaker; else like its prompt, where the pipeline knows what made its embeddings; else in its
    first voice.

    Args:
        pipe ([`SpeechT5Pipeline`]): Loaded, on its device.
        extractor ([`F5FeatureExtractor`]): Of the mels that are judged.

    Raises:
        ValueError: if it has no voice.
    """

    kind = "speecht5"

    def __init__(self, pipe: "SpeechT5Pipeline", extractor: Any):
        if pipe.speakers is None:
            raise ValueError("A SpeechT5 that is judged must have `speakers`, but got none.")
        self.pipe, self.extractor = pipe, extractor

    @property
    def fingerprint(self) -> str:
        """As of [`ForeignSystem`]."""
        model = self.pipe.model
        return f"{fingerprint_of(model)} {runtime_of(model)} {type(self.pipe.vocoder).__name__}"

    def check(self, arm: ForeignArm) -> None:
        """There is one arm, and nothing to refuse."""

    def say(self, arm: ForeignArm, items: list[BenchmarkItem], sampling_rate: int, seeds: list[int]) -> list[Said]:
        """As of [`System`]: log-mels of the model's own kind, and whether it ended them itself."""
        output = self.pipe(
            [item.text for item in items],
            [self._speaker(item, sampling_rate) for item in items],
            # On the CPU: the dropout is then the same on every machine.
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="mel",
        )
        return [
            Said(mel.float().cpu().numpy(), {"stopped": (float(stopped), 1.0)})
            for mel, stopped in zip(output.audios, output.stopped, strict=True)
        ]

    def hear(self, kept: list[np.ndarray]) -> list[Speech]:
        """As of [`System`]; where the model's mels are of another kind than the benchmark's, they are of the sound."""
        vocoder, extractor, speeches = as_vocoder(self.pipe.vocoder), self.extractor, []
        own = vocoder.sampling_rate, vocoder.hop_length, self.pipe.model.config.num_mel_bins
        alike = own == (extractor.sampling_rate, extractor.hop_length, extractor.feature_size)
        for mel in kept:
            wave = self.pipe.vocode(torch.from_numpy(mel).to(self.pipe.steps.device))
            seen = mel if alike else log_mel(extractor, wave, vocoder.sampling_rate)
            speeches.append(Speech(wave, vocoder.sampling_rate, seen))
        return speeches

    def _speaker(self, item: BenchmarkItem, sampling_rate: int) -> torch.Tensor:
        table, prompt = self.pipe.speakers, item.reference_audio
        if item.speaker in table.vectors:
            return table.vectors[item.speaker]
        if table.encoder is None:
            return next(iter(table.vectors.values()))
        recording = prompt if isinstance(prompt, str) else (prompt, sampling_rate)
        return find_speakers(table, None, recording, table.size, 1)[0]


__all__ = ["SpeechT5System"]

"""The tasks of learning when each character is spoken: in recordings, and in text that nobody has said yet."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.frontend.text_aligner import TextAligner
from dtm_hf.frontend.token_durations import TokenDurations
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.objectives.alignment import AlignmentObjective, DurationsObjective
from dtm_hf.training.speech.components import Components, load_aligner, vocab_file
from dtm_hf.training.speech.task import SpeechTask


class AlignmentTask(SpeechTask):
    """An aligner alone; the result is its folder, which `text_aligner` of other runs names."""

    @staticmethod
    def build(config: TrainingConfig) -> Components:
        sizes, tokenizer = config.objective, F5Tokenizer(vocab_file(config))
        aligner = TextAligner(
            tokenizer.vocab_size,
            hidden_size=sizes.aligner_hidden_size,
            embedding_size=sizes.aligner_embedding_size,
        )
        return _parts(tokenizer, aligner, AlignmentObjective())

    def place(self, device: torch.device) -> None:
        self.module.to(device)
        if self.components.text_aligner is not None:
            self.components.text_aligner.to(device)

    def precision(self) -> AbstractContextManager:
        return nullcontext()

    def open_samples(self, folder: Path) -> bool:
        """There is nothing to hear."""
        return False

    def write_samples(self, step: int, trackers: Sequence) -> None:
        raise NotImplementedError("There are no samples of durations.")

    def save(self, folder: Path, step: int, units: int) -> None:
        self._record(step, units)
        self.module.save_pretrained(folder)

    def published(self) -> torch.nn.Module:
        return self.module

    def record(self, training_data: str, results: dict | None) -> None:
        self.module.register_to_config(training_data=training_data)


class DurationsTask(AlignmentTask):
    """Durations alone, of recordings that an aligner has timed."""

    @staticmethod
    def build(config: TrainingConfig) -> Components:
        sizes, tokenizer = config.objective, F5Tokenizer(vocab_file(config))
        network = TokenDurations(
            tokenizer.vocab_size,
            hidden_size=sizes.durations_hidden_size,
            num_layers=sizes.durations_num_layers,
        )
        aligner = load_aligner(sizes.text_aligner, tokenizer)
        return _parts(tokenizer, network, DurationsObjective(), aligner)


def _parts(tokenizer: F5Tokenizer, trained: torch.nn.Module, objective, aligner: TextAligner | None = None):
    return Components(
        backbone=None,
        head=None,
        tokenizer=tokenizer,
        feature_extractor=F5FeatureExtractor(),
        vocoder=None,
        scheduler=None,
        trained=trained,
        objective=objective,
        text_aligner=aligner,
    )

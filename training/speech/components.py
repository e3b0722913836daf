"""The parts of a run on speech, and the pipeline that is made of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.frontend.duration_prediction import DurationPredictor
from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.frontend.text_aligner import TextAligner
from dtm_hf.frontend.text_normalizer import TextNormalizer
from dtm_hf.frontend.token_durations import TokenDurations
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.training.config.arguments import TrainingConfig

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline


@dataclass
class Components:
    """
    Args:
        trained (`torch.nn.Module`): what the optimizers see: a backbone, a head, or student and estimator.
        objective: turns a batch into a loss on `trained`.
        mean_mel (`list` or `dict`, *optional*): mean log-mel of the backbone's data, as of [`MeanMel.of`].
    """

    backbone: F5Backbone
    head: torch.nn.Module | None
    tokenizer: F5Tokenizer
    feature_extractor: F5FeatureExtractor
    vocoder: torch.nn.Module
    scheduler: DTMScheduler
    trained: torch.nn.Module
    objective: Any
    duration_predictor: DurationPredictor | TokenDurations | None = None
    text_aligner: TextAligner | None = None
    text_normalizer: TextNormalizer | None = None
    mean_mel: list[float] | dict[str, list[float]] | None = None

    def pipeline(self) -> "DTMPipeline":
        """The pipeline around the current weights."""
        from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

        return DTMPipeline(
            backbone=self.speaking_backbone(),
            head=self.head,
            tokenizer=self.tokenizer,
            feature_extractor=self.feature_extractor,
            vocoder=self.vocoder,
            scheduler=self.scheduler,
            duration_predictor=self.duration_predictor,
            text_aligner=self.text_aligner,
            text_normalizer=self.text_normalizer,
            mean_mel=self.mean_mel,
        )

    def to(self, device: torch.device) -> None:
        """Move what batches and losses need; the rest speaks where it is."""
        for part in (self.backbone, self.head, self.text_aligner):
            if part is not None:
                part.to(device)

    def speaking_backbone(self) -> F5Backbone:
        """The backbone of the pipeline."""
        return self.backbone


def load_aligner(name: str | None, tokenizer: F5Tokenizer) -> TextAligner | None:
    """
    The frozen aligner of a folder or repository; `None` for none.

    Raises:
        ValueError: if it was trained with another vocabulary.
    """
    if name is None:
        return None
    aligner = TextAligner.from_pretrained(name, dtype=torch.float32).requires_grad_(False).eval()
    if aligner.config.num_tokens != tokenizer.vocab_size:
        raise ValueError(
            f"`text_aligner` must know the {tokenizer.vocab_size} tokens of `vocab_file`, but {name!r} knows "
            f"{aligner.config.num_tokens}."
        )
    return aligner


def frozen_parts(config: TrainingConfig) -> dict[str, Any]:
    """What [`Components`] has from `base_model` or `f5_checkpoint`: all but scheduler, head and what trains."""
    model = config.model
    if model.base_model is not None:
        from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

        # In float32 also where another dtype follows: the backbone's own conversion keeps its positions exact.
        base = DTMPipeline.from_pretrained(model.base_model, revision=model.base_model_revision, dtype=torch.float32)
        names = "backbone tokenizer feature_extractor vocoder duration_predictor text_aligner text_normalizer"
        parts = {name: getattr(base, name) for name in names.split()} | {"mean_mel": base.config.mean_mel}
    else:
        tokenizer = F5Tokenizer(vocab_file(config))
        parts = {
            "backbone": F5Backbone.from_f5_checkpoint(model.f5_checkpoint, vocab=tokenizer, variant=model.f5_variant),
            "tokenizer": tokenizer,
            "feature_extractor": F5FeatureExtractor(),
            "vocoder": default_vocoder(),
            "mean_mel": None,
        }
    if model.backbone_dtype != "float32":
        parts["backbone"].to(getattr(torch, model.backbone_dtype))
    return parts


def vocab_file(config: TrainingConfig) -> Path:
    """
    That of the configuration, or f5_tts's own.

    Raises:
        ValueError: if it is no file.
    """
    from dtm_hf.backbone.f5_checkpoint import default_vocab

    if config.model.vocab_file is None:
        return default_vocab()
    path = Path(config.model.vocab_file)
    if not path.is_file():
        raise ValueError(f"`vocab_file` must be a file with one token a line, but got {config.model.vocab_file!r}.")
    return path


def default_vocoder() -> torch.nn.Module:
    """One without weights."""
    from dtm_hf.vocoder.vocoder_griffin_lim import GriffinLimVocoder

    return GriffinLimVocoder()

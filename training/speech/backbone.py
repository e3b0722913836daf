"""The task of training a backbone from scratch."""

from contextlib import suppress
from pathlib import Path

import torch

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.backbone.null_mean import null_mean
from dtm_hf.frontend.duration_prediction import DurationPredictor
from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.frontend.token_durations import TokenDurations
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.objectives.conditioning import MelBatch
from dtm_hf.training.objectives.flow_matching import FlowMatchingObjective
from dtm_hf.training.speech.components import Components, default_vocoder, load_aligner, vocab_file
from dtm_hf.training.speech.provenance import data_description
from dtm_hf.training.speech.task import SpeechTask


class BackboneTask(SpeechTask):
    """A new backbone, or `init_from`."""

    @staticmethod
    def build(config: TrainingConfig) -> Components:
        return backbone_components(config)

    _longest = 0.0

    def batch(self, raw: dict, device: torch.device) -> MelBatch:
        # A batch holds clips of about one length; the middle one of the longest batch is no outlier.
        seconds = raw["num_samples"].float().median().item() / self.components.feature_extractor.sampling_rate
        self._longest = max(self._longest, seconds)
        return super().batch(raw, device)

    def save(self, folder: Path, step: int, units: int) -> None:
        backbone = self.components.backbone.freeze()
        self.components.mean_mel = null_mean(backbone)
        super().save(folder, step, units)

    def record(self, training_data: str, results: dict | None) -> None:
        longest = round(self._longest, 1) or self.components.backbone.config.max_seconds
        self.components.backbone.register_to_config(training_data=training_data, max_seconds=longest)


def backbone_components(config: TrainingConfig) -> Components:
    """Components of a run, on the CPU."""
    model, sizes = config.model, config.objective
    tokenizer = F5Tokenizer(vocab_file(config))
    if model.init_from is not None:
        # float32: a checkpoint saved in bfloat16 would otherwise be trained in it.
        backbone = F5Backbone.from_pretrained(
            model.init_from, revision=model.init_from_revision, subfolder="backbone", dtype=torch.float32
        )
        if backbone.config.text_num_embeds != tokenizer.vocab_size:
            raise ValueError(
                f"`vocab_file` must be that of `init_from`, which has {backbone.config.text_num_embeds} tokens, "
                f"but got {tokenizer.vocab_size}."
            )
    else:
        backbone = F5Backbone(
            dim=sizes.backbone_dim,
            depth=sizes.backbone_depth,
            heads=sizes.backbone_heads,
            ff_mult=sizes.backbone_ff_mult,
            text_num_embeds=tokenizer.vocab_size,
            text_dim=sizes.backbone_text_dim,
            text_embedding_average_upsampling=sizes.average_upsampling and sizes.text_aligner is None,
            text_alignment="uniform" if sizes.text_aligner is None else "durations",
            conv_layers=sizes.backbone_conv_layers,
            dropout=sizes.backbone_dropout,
            name=sizes.backbone_name,
            license=sizes.license,
            training_data=data_description(config),
        )
    backbone.unfreeze()
    return Components(
        backbone=backbone,
        head=None,
        tokenizer=tokenizer,
        feature_extractor=F5FeatureExtractor(),
        vocoder=default_vocoder(),
        # A backbone alone is sampled as F5-TTS samples it.
        scheduler=DTMScheduler(num_inference_steps=32, num_head_steps=0, time_grid="sway"),
        trained=backbone,
        objective=FlowMatchingObjective(config.objective),
        duration_predictor=_duration_predictor(config),
        text_aligner=load_aligner(sizes.text_aligner, tokenizer),
    )


def _duration_predictor(config: TrainingConfig) -> DurationPredictor | TokenDurations | None:
    """
    That of the configuration, else of the pipeline which a backbone's run saves over, else of the one it starts from,
    if they have one.
    """
    if config.objective.token_durations is not None:
        return TokenDurations.from_pretrained(config.objective.token_durations)
    output, model = Path(config.optimization.output_dir), config.model
    # The output is a folder of this machine, and never a name on the Hub.
    if (output / "duration_predictor").is_dir():
        return DurationPredictor.from_pretrained(output, subfolder="duration_predictor")
    if model.init_from is not None:
        with suppress(OSError):
            return DurationPredictor.from_pretrained(
                model.init_from, subfolder="duration_predictor", revision=model.init_from_revision
            )
    return None

"""Builds what a training run needs from its configuration, and puts the result together as a pipeline."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.training.arguments import TrainingConfig
from dtm_hf.training.objectives.dtm import DTMObjective
from dtm_hf.training.objectives.flow_matching import FlowMatchingObjective


@dataclass
class Components:
    """
    Args:
        trained (`torch.nn.Module`): the module that the optimizer sees: a backbone or a head.
        objective: turns a batch into a loss on `trained`.
    """

    backbone: F5Backbone
    head: torch.nn.Module | None
    tokenizer: F5Tokenizer
    feature_extractor: F5FeatureExtractor
    vocoder: torch.nn.Module
    scheduler: DTMScheduler
    trained: torch.nn.Module
    objective: FlowMatchingObjective | DTMObjective

    def pipeline(self):
        """The pipeline around the current weights."""
        from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

        return DTMPipeline(
            backbone=self.backbone,
            head=self.head,
            tokenizer=self.tokenizer,
            feature_extractor=self.feature_extractor,
            vocoder=self.vocoder,
            scheduler=self.scheduler,
        )


def build_components(config: TrainingConfig) -> Components:
    """Components of a run, on the CPU; the caller moves them."""
    build = _flow_matching_components if config.model.objective == "flow_matching" else _dtm_components
    return build(config)


def _flow_matching_components(config: TrainingConfig) -> Components:
    model, draws = config.model, config.objective
    tokenizer = F5Tokenizer(_vocab_file(config))
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
            dim=model.backbone_dim,
            depth=model.backbone_depth,
            heads=model.backbone_heads,
            ff_mult=model.backbone_ff_mult,
            text_num_embeds=tokenizer.vocab_size,
            text_dim=model.backbone_text_dim,
            text_embedding_average_upsampling=model.average_upsampling,
            conv_layers=model.backbone_conv_layers,
            dropout=model.backbone_dropout,
            name=model.backbone_name,
            license=model.license,
            training_data=data_description(config),
        )
    backbone.unfreeze()
    return Components(
        backbone=backbone,
        head=None,
        tokenizer=tokenizer,
        feature_extractor=F5FeatureExtractor(),
        vocoder=_default_vocoder(),
        # A backbone alone is sampled as F5-TTS samples it.
        scheduler=DTMScheduler(num_inference_steps=32, num_head_steps=0, time_grid="sway"),
        trained=backbone,
        objective=FlowMatchingObjective(draws),
    )


def _dtm_components(config: TrainingConfig) -> Components:
    from dtm_hf.head.configuration_dtm import DTMHeadConfig
    from dtm_hf.head.modeling_dtm import DTMHead

    model, draws = config.model, config.objective
    if model.base_model is not None:
        from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

        # In float32 also where another dtype follows: the backbone's own conversion keeps its positions exact.
        base = DTMPipeline.from_pretrained(model.base_model, revision=model.base_model_revision, dtype=torch.float32)
        backbone, tokenizer, feature_extractor = base.backbone, base.tokenizer, base.feature_extractor
        vocoder = base.vocoder
    else:
        tokenizer = F5Tokenizer(_vocab_file(config))
        backbone = F5Backbone.from_f5_checkpoint(model.f5_checkpoint, vocab=tokenizer, variant=model.f5_variant)
        feature_extractor, vocoder = F5FeatureExtractor(), _default_vocoder()
    if model.backbone_dtype != "float32":
        backbone.to(getattr(torch, model.backbone_dtype))
    scheduler = DTMScheduler(
        num_inference_steps=draws.num_inference_steps,
        num_head_steps=draws.num_head_steps,
        head_solver=draws.head_solver,
        time_grid=draws.time_grid,
    )
    sizes = {"backbone_hidden_size": backbone.config.dim, "num_mel_bins": backbone.config.mel_dim}
    run = {
        "guidance_scale": draws.baked_guidance_scale,
        "guidance_scale_range": draws.baked_guidance_range,
        "guidance_end": draws.baked_guidance_end,
        "backbone_name": backbone.config.name,
        "backbone_revision": backbone.config.revision,
        "backbone_fingerprint": backbone.fingerprint,
        # A folder of this machine means nothing where the head is pulled.
        "base_model": None if model.base_model is None or Path(model.base_model).exists() else model.base_model,
        "base_model_revision": model.base_model_revision,
        "license": backbone.config.license,
        "training_data": data_description(config),
        "sampler": {
            "num_inference_steps": draws.num_inference_steps,
            "num_head_steps": draws.num_head_steps,
            "head_solver": draws.head_solver,
            "time_grid": draws.time_grid,
        },
    }
    if model.init_from is not None:
        head = _pretrained_head(model.init_from, model.init_from_revision)
        for name, size in sizes.items():
            if getattr(head.config, name) != size:
                raise ValueError(
                    f"`init_from` has `{name}` {getattr(head.config, name)}, but the backbone has {size}."
                )
        if (head.guidance_embed is None) != (draws.baked_guidance_range is None):
            raise ValueError(
                "`init_from` must have been trained with a `baked_guidance_range` if this run has one, and without if "
                f"not, but its range is {head.config.guidance_scale_range} and this one {draws.baked_guidance_range}."
            )
        # What it was trained for before no longer holds.
        for name, value in run.items():
            setattr(head.config, name, value)
    else:
        head = DTMHead(
            DTMHeadConfig(
                **sizes,
                **run,
                hidden_size=model.head_hidden_size,
                num_hidden_layers=model.head_num_layers,
                architecture=model.head_architecture,
                prediction=model.head_prediction,
                conv_kernel_size=model.head_conv_kernel_size,
            )
        )
    return Components(
        backbone=backbone,
        head=head,
        tokenizer=tokenizer,
        feature_extractor=feature_extractor,
        vocoder=vocoder,
        scheduler=scheduler,
        trained=head,
        objective=DTMObjective(draws, backbone, scheduler.timesteps),
    )


def _pretrained_head(name: str, revision: str | None):
    """The head of a folder or repository that holds a head alone, or a pipeline with one."""
    from dtm_hf.head.modeling_dtm import DTMHead
    from dtm_hf.pipelines.repositories import head_only_config

    subfolder = "" if head_only_config(name, revision=revision) is not None else "head"
    return DTMHead.from_pretrained(name, revision=revision, subfolder=subfolder, dtype=torch.float32)


def _vocab_file(config: TrainingConfig) -> Path:
    from dtm_hf.backbone.f5_checkpoint import default_vocab

    if config.model.vocab_file is None:
        return default_vocab()
    path = Path(config.model.vocab_file)
    if not path.is_file():
        raise ValueError(f"`vocab_file` must be a file with one token a line, but got {config.model.vocab_file!r}.")
    return path


def data_description(config: TrainingConfig) -> str:
    """What a model card says of the data."""
    names = [Path(source.dataset).name for source in config.data.all_sources()]
    return config.data.dataset_description or ", ".join(names)


def _default_vocoder() -> torch.nn.Module:
    from dtm_hf.vocoder.vocoder_griffin_lim import GriffinLimVocoder

    return GriffinLimVocoder()

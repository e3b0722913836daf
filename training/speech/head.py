"""The task of training a flow head on a frozen backbone."""

from typing import Any

import torch

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.backbone.null_mean import null_mean
from dtm_hf.head.configuration_dtm import DTMHeadConfig
from dtm_hf.head.modeling_dtm import DTMHead
from dtm_hf.pipelines.loading import head_only_config
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.objectives.dtm import DTMObjective
from dtm_hf.training.objectives.policy import PolicyObjective
from dtm_hf.training.speech.arguments import HeadArguments
from dtm_hf.training.speech.components import Components, frozen_parts
from dtm_hf.training.speech.provenance import provenance
from dtm_hf.training.speech.task import SpeechTask


class HeadTask(SpeechTask):
    """A new head, or `init_from`, on the backbone of `base_model` or of an official checkpoint."""

    @staticmethod
    def build(config: TrainingConfig) -> Components:
        return head_components(config)

    def phases(self, step: int):
        if isinstance(self.objective, PolicyObjective):
            self.objective.begin(step / self.config.optimization.max_steps)
        return super().phases(step)

    def published(self):
        """The head alone where its base model is on the Hub, else the whole pipeline."""
        head = self.components.head
        return self.components.pipeline() if head.config.base_model is None else head

    def record(self, training_data: str, results: dict | None) -> None:
        config = self.components.head.config
        # Results of the head it was initialised from no longer hold.
        config.training_data, config.results = training_data, results


def head_components(config: TrainingConfig) -> Components:
    """Components of a run, on the CPU."""
    model, draws = config.model, config.objective
    parts = frozen_parts(config)
    backbone = parts["backbone"]
    scheduler = DTMScheduler(
        num_inference_steps=draws.num_inference_steps,
        num_head_steps=draws.num_head_steps,
        head_solver=draws.head_solver,
        time_grid=draws.time_grid,
    )
    guides = draws.head_prediction == "guidance"
    if guides and parts["mean_mel"] is None:
        parts["mean_mel"] = null_mean(backbone)
    run = provenance(config, backbone) | _guidance_and_sampler(draws)
    run["mean_mel"] = parts["mean_mel"] if guides else None
    if model.init_from is not None:
        head = fitting_head(model.init_from, model.init_from_revision, backbone)
        if head.config.prediction != draws.head_prediction:
            raise ValueError(
                f"`head_prediction` must be that of `init_from`, {head.config.prediction!r}, but got "
                f"{draws.head_prediction!r}."
            )
        if (head.guidance_embed is None) != (draws.baked_guidance_range is None):
            raise ValueError(
                "`init_from` must have been trained with a `baked_guidance_range` if this run has one, and without if "
                f"not, but its range is {head.config.guidance_scale_range} and this one {draws.baked_guidance_range}."
            )
        # What it was trained for before no longer holds.
        for name, value in run.items():
            setattr(head.config, name, value)
    elif draws.head_residual_layers > backbone.config.depth:
        raise ValueError(
            f"`head_residual_layers` must be at most the {backbone.config.depth} blocks of the backbone, but got "
            f"{draws.head_residual_layers}."
        )
    else:
        head = DTMHead(DTMHeadConfig(**head_settings(backbone, draws) | run))
        if head.body is not None:
            head.body.copy_from(backbone.dit.state_dict())
    return Components(
        **parts,
        head=head,
        scheduler=scheduler,
        trained=head,
        objective=PolicyObjective(draws, backbone, head.config, draws.time_grid)
        if guides
        else DTMObjective(draws, backbone, scheduler.timesteps),
    )


def head_settings(backbone: F5Backbone, draws: HeadArguments) -> dict[str, Any]:
    """What the [`DTMHeadConfig`] of a new head has of its recipe and its backbone: all but where it comes from."""
    shape = {
        "hidden_size": draws.head_hidden_size,
        "num_hidden_layers": draws.head_num_layers,
        "architecture": draws.head_architecture,
        "prediction": draws.head_prediction,
        "conv_kernel_size": draws.head_conv_kernel_size,
        "residual_layers": draws.head_residual_layers,
    }
    if draws.head_architecture == "transformer":
        shape |= _copied_shape(backbone, draws)
    return _read_sizes(backbone) | _guidance_and_sampler(draws) | shape


def _read_sizes(backbone: F5Backbone) -> dict[str, int]:
    return {"backbone_hidden_size": backbone.config.dim, "num_mel_bins": backbone.config.mel_dim}


def _guidance_and_sampler(draws: HeadArguments) -> dict[str, Any]:
    return {
        "guidance_scale": draws.baked_guidance_scale,
        "guidance_scale_range": draws.baked_guidance_range,
        "guidance_end": draws.baked_guidance_end,
        "sampler": {
            "num_inference_steps": draws.num_inference_steps,
            "num_head_steps": draws.num_head_steps,
            "head_solver": draws.head_solver,
            "time_grid": draws.time_grid,
        },
    }


def _copied_shape(backbone: F5Backbone, draws: HeadArguments) -> dict[str, Any]:
    """Of a head that is made of the first blocks of a backbone."""
    sizes = backbone.config
    return {
        "hidden_size": sizes.dim,
        "num_hidden_layers": draws.head_residual_layers,
        "ffn_mult": sizes.ff_mult,
        "num_attention_heads": sizes.heads,
        "attention_head_dim": sizes.dim_head,
        "qk_norm": sizes.qk_norm,
        "pe_attn_head": sizes.pe_attn_head,
    }


def fitting_head(name: str, revision: str | None, backbone: F5Backbone) -> DTMHead:
    """
    The head of a folder or repository that holds a head alone, or a pipeline with one.

    Raises:
        ValueError: if it was made for a backbone of other sizes.
    """
    subfolder = "" if head_only_config(name, revision=revision) is not None else "head"
    head = DTMHead.from_pretrained(name, revision=revision, subfolder=subfolder, dtype=torch.float32)
    for size_name, size in _read_sizes(backbone).items():
        if getattr(head.config, size_name) != size:
            raise ValueError(
                f"`init_from` has `{size_name}` {getattr(head.config, size_name)}, but the backbone has {size}."
            )
    if head.config.residual_layers > backbone.config.depth:
        raise ValueError(
            f"`init_from` has `residual_layers` {head.config.residual_layers}, but the backbone has "
            f"{backbone.config.depth} blocks."
        )
    return head

"""The task of training a flow head on a frozen backbone."""

import torch

from dtm_hf.head.configuration_dtm import DTMHeadConfig
from dtm_hf.head.modeling_dtm import DTMHead
from dtm_hf.pipelines.loading import head_only_config
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.objectives.dtm import DTMObjective
from dtm_hf.training.speech.components import Components, frozen_parts
from dtm_hf.training.speech.provenance import provenance
from dtm_hf.training.speech.task import SpeechTask


class HeadTask(SpeechTask):
    """A new head, or `init_from`, on the backbone of `base_model` or of an official checkpoint."""

    @staticmethod
    def build(config: TrainingConfig) -> Components:
        return head_components(config)

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
    sizes = {"backbone_hidden_size": backbone.config.dim, "num_mel_bins": backbone.config.mel_dim}
    run = provenance(config, backbone) | {
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
                hidden_size=draws.head_hidden_size,
                num_hidden_layers=draws.head_num_layers,
                architecture=draws.head_architecture,
                prediction=draws.head_prediction,
                conv_kernel_size=draws.head_conv_kernel_size,
            )
        )
    return Components(
        **parts,
        head=head,
        scheduler=scheduler,
        trained=head,
        objective=DTMObjective(draws, backbone, scheduler.timesteps),
    )


def _pretrained_head(name: str, revision: str | None) -> DTMHead:
    """The head of a folder or repository that holds a head alone, or a pipeline with one."""
    subfolder = "" if head_only_config(name, revision=revision) is not None else "head"
    return DTMHead.from_pretrained(name, revision=revision, subfolder=subfolder, dtype=torch.float32)

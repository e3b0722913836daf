"""The task of training TRM in its continuous mode: latents of the codec, which a flow head draws."""

from typing import Any

import torch
from torch import nn

from dtm_hf.codec.mimi import latents_of_codes
from dtm_hf.head.configuration_dtm import DTMHeadConfig
from dtm_hf.head.modeling_dtm import DTMHead
from dtm_hf.pipelines.pipeline_trm import TRMPipeline
from dtm_hf.scheduling.scheduling_masking import MaskingScheduler
from dtm_hf.training.codes.arguments import LatentArguments
from dtm_hf.training.codes.survey import latent_statistics
from dtm_hf.training.codes.task import TRMTask
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.objectives.latents import LatentBatch, LatentObjective
from dtm_hf.training.objectives.trm import CodeBatch


class LatentTask(TRMTask):
    """
    A new network and a new head on the codes of a frozen codec, or those of `init_from`, a pipeline. What is trained
    are two networks, of which each is a component of the pipeline.

    Args:
        config ([`TrainingConfig`]): the run.

    Raises:
        ValueError: as of [`TRMTask`], and for an `init_from` that speaks in codes.
    """

    def __init__(self, config: TrainingConfig):
        super().__init__(config)
        self.head = self._head()
        self.module = nn.ModuleDict({"model": self.network, "head": self.head})

    def _set_objectives(self) -> None:
        arguments: LatentArguments = self.config.objective
        shown = {"draws": arguments.head_batch_multiplier, "min_loss_remainder": arguments.min_loss_remainder}
        shown |= {"num_cycles": arguments.trm_h_cycles}
        self.objective = LatentObjective(
            **shown, text_drop_prob=arguments.text_drop_prob, prompt_prob=arguments.prompt_prob
        )
        self.validation_objective = LatentObjective(**shown, text_drop_prob=0.0, any_number=False)

    def _scheduler(self, arguments: LatentArguments) -> MaskingScheduler:
        return MaskingScheduler(arguments.trm_h_cycles)

    def _sizes(self) -> dict[str, Any]:
        return {"feedback": False, "latent_dim": self.codec.config.hidden_size}

    def _network(self, arguments: LatentArguments):
        network, width = super()._network(arguments), self.codec.config.hidden_size
        if network.config.latent_dim != width:
            raise ValueError(
                f"`init_from` must speak in latents of the codec's {width} numbers, but its `latent_dim` is "
                f"{network.config.latent_dim}."
            )
        if self.config.model.init_from is None:
            mean, std = latent_statistics(self.config, self.codec, network.config.num_codebooks)
            network.latent_mean.copy_(mean)
            network.latent_std.copy_(std)
        return network

    def _head(self) -> DTMHead:
        model, arguments = self.config.model, self.config.objective
        sampler = {"num_inference_steps": 1, "num_head_steps": arguments.num_head_steps}
        sampler |= {"head_solver": arguments.head_solver}
        if model.init_from is not None:
            revision = model.init_from_revision or "main"
            head = DTMHead.from_pretrained(model.init_from, revision=revision, subfolder="head", dtype=torch.float32)
            head.config.sampler = sampler
            return head
        return DTMHead(
            DTMHeadConfig(
                backbone_hidden_size=self.network.config.audio_dim,
                num_mel_bins=self.network.config.latent_dim,
                hidden_size=arguments.head_hidden_size,
                num_hidden_layers=arguments.head_num_layers,
                architecture=arguments.head_architecture,
                conv_kernel_size=arguments.head_conv_kernel_size,
                sampler=sampler,
                license=arguments.license,
            )
        )

    def place(self, device: torch.device) -> None:
        super().place(device)
        self.head.to(device)
        if self.config.optimization.gradient_checkpointing:
            self.head.gradient_checkpointing_enable()

    def batch(self, raw: dict, device: torch.device) -> LatentBatch:
        coded: CodeBatch = super().batch(raw, device)
        latents = latents_of_codes(self.codec, coded.codes).transpose(1, 2)
        latents = (latents - self.network.latent_mean) / self.network.latent_std
        return LatentBatch(coded.text_ids, coded.speaker_ids, coded.codes, coded.audio_mask, latents)

    def _sampling(self) -> dict[str, Any]:
        return {"temperature": self.config.objective.sample_temperature}

    def published(self) -> TRMPipeline:
        return TRMPipeline(**self._parts(), head=self.head)

    def record(self, training_data: str, results: dict | None) -> None:
        super().record(training_data, results)
        self.head.config.training_data, self.head.config.results = training_data, results

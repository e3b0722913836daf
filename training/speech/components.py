"""Builds what a training run needs from its configuration, and puts the result together as a pipeline."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.backbone.low_rank import NUM_STEPS_EMBED
from dtm_hf.backbone.student import Student, StudentConfig, empty_student, load_student_weights
from dtm_hf.frontend.duration_prediction import DurationPredictor
from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.objectives.dtm import DTMObjective
from dtm_hf.training.objectives.flow_matching import FlowMatchingObjective

if TYPE_CHECKING:
    from dtm_hf.training.objectives.adapters import AdapterNetworks
    from dtm_hf.training.objectives.tdm_speech import TDMSpeechObjective


@dataclass
class Components:
    """
    Args:
        trained (`torch.nn.Module`): what the optimizers see: a backbone, a head, or student and estimator.
        objective: turns a batch into a loss on `trained`.
        networks ([`AdapterNetworks`], *optional*): of a distillation, around `backbone`.
        student_config ([`StudentConfig`], *optional*): what is to be saved of the student.
    """

    backbone: F5Backbone
    head: torch.nn.Module | None
    tokenizer: F5Tokenizer
    feature_extractor: F5FeatureExtractor
    vocoder: torch.nn.Module
    scheduler: DTMScheduler
    trained: torch.nn.Module
    objective: "FlowMatchingObjective | DTMObjective | TDMSpeechObjective"
    networks: "AdapterNetworks | None" = None
    student_config: StudentConfig | None = None
    duration_predictor: DurationPredictor | None = None
    _speaking: F5Backbone | None = None

    def pipeline(self):
        """The pipeline around the current weights; of a student, around a copy of them that each call renews."""
        from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

        return DTMPipeline(
            backbone=self.backbone if self.networks is None else self._merged(),
            head=self.head,
            tokenizer=self.tokenizer,
            feature_extractor=self.feature_extractor,
            vocoder=self.vocoder,
            scheduler=self.scheduler,
            duration_predictor=self.duration_predictor,
        )

    def student(self) -> Student:
        """The adapters of the student as they are now."""
        return Student(self.student_config, self.networks.state())

    def _merged(self) -> F5Backbone:
        networks, config = self.networks, self.student_config
        embed = networks.parameters("student").get(f"{NUM_STEPS_EMBED}.weight")
        if self._speaking is None:
            self._speaking = empty_student(self.backbone, config.step_counts)
        load_student_weights(self._speaking, networks.merged_state_dict(), embed)
        self._speaking.register_to_config(training_data=config.training_data)
        return self._speaking


def build_components(config: TrainingConfig) -> Components:
    """Components of a run, on the CPU; the caller moves them."""
    if config.model.objective == "flow_matching":
        return _flow_matching_components(config)
    return _tdm_components(config) if config.model.objective == "tdm" else _dtm_components(config)


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
        duration_predictor=_earlier_predictor(config),
    )


def _dtm_components(config: TrainingConfig) -> Components:
    from dtm_hf.head.configuration_dtm import DTMHeadConfig
    from dtm_hf.head.modeling_dtm import DTMHead

    model, draws = config.model, config.objective
    parts = _frozen_parts(config)
    backbone = parts["backbone"]
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
        "base_model": hub_name(model.base_model),
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
        **parts,
        head=head,
        scheduler=scheduler,
        trained=head,
        objective=DTMObjective(draws, backbone, scheduler.timesteps),
    )


def _tdm_components(config: TrainingConfig) -> Components:
    from dtm_hf.training.objectives.adapters import F5_LAYERS, AdapterNetworks
    from dtm_hf.training.objectives.tdm_speech import TDMSpeechObjective

    model, draws = config.model, config.objective
    parts = _frozen_parts(config)
    backbone = parts["backbone"]
    if backbone.config.step_counts is not None:
        raise ValueError(
            f"`base_model` must have a backbone of many steps, but {model.base_model!r} is a student of "
            f"{backbone.config.step_counts} steps; `init_from` starts from an earlier student."
        )
    scheduler = DTMScheduler(
        num_inference_steps=max(draws.step_counts),
        num_head_steps=0,
        time_grid=draws.time_grid,
    )
    # Before adapters change the names of its layers.
    fingerprint = backbone.fingerprint
    networks = AdapterNetworks(
        backbone,
        F5_LAYERS,
        model.lora_rank,
        model.lora_alpha,
        step_counts=draws.step_counts,
        full_parameters=model.full_parameters,
    )
    student_config = StudentConfig(
        rank=networks.rank,
        alpha=networks.alpha,
        step_counts=list(networks.step_counts),
        sampler={name: scheduler.config[name] for name in ("num_inference_steps", "time_grid", "sway_coefficient")},
        backbone_name=backbone.config.name,
        backbone_revision=backbone.config.revision,
        backbone_fingerprint=fingerprint,
        base_model=hub_name(model.base_model),
        base_model_revision=model.base_model_revision,
        license=backbone.config.license,
        training_data=data_description(config),
    )
    if model.init_from is not None:
        _start_from(networks, student_config, model.init_from, model.init_from_revision)
    return Components(
        **parts,
        head=None,
        scheduler=scheduler,
        trained=networks.trained,
        objective=TDMSpeechObjective(draws, networks, scheduler),
        networks=networks,
        student_config=student_config,
    )


def _start_from(networks: "AdapterNetworks", config: StudentConfig, name: str, revision: str | None) -> None:
    """Give the student the weights of an earlier one: adapters on the same backbone, or a whole backbone."""
    if networks.full_parameters:
        earlier = F5Backbone.from_pretrained(name, revision=revision, subfolder="backbone", dtype=torch.float32)
        state = dict(earlier.named_parameters())
    else:
        earlier = Student.from_pretrained(name, revision=revision)
        if config.backbone_fingerprint != earlier.config.backbone_fingerprint:
            raise ValueError(
                f"`init_from` must be a student of this run's backbone, fingerprint {config.backbone_fingerprint}, "
                f"but is one of {earlier.config.backbone_name!r}, fingerprint {earlier.config.backbone_fingerprint}."
            )
        if earlier.config.alpha / earlier.config.rank != config.alpha / config.rank:
            raise ValueError(
                f"`lora_alpha` / `lora_rank` must be that of `init_from`, {earlier.config.alpha:g} / "
                f"{earlier.config.rank}, but got {config.alpha:g} / {config.rank}."
            )
        state = dict(earlier.tensors)
    embed = f"{NUM_STEPS_EMBED}.weight"
    if embed not in state and embed in networks.parameters("student"):
        # It served one number of steps; what tells them apart starts at zero.
        state[embed] = networks.state()[embed]
    try:
        networks.load_state(state)
    except ValueError as error:
        raise ValueError(f"`init_from` {name!r} does not fit this run: {error}") from error


def _frozen_parts(config: TrainingConfig) -> dict[str, Any]:
    """What [`Components`] has from `base_model` or `f5_checkpoint`: all but scheduler, head and what trains."""
    model = config.model
    if model.base_model is not None:
        from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

        # In float32 also where another dtype follows: the backbone's own conversion keeps its positions exact.
        base = DTMPipeline.from_pretrained(model.base_model, revision=model.base_model_revision, dtype=torch.float32)
        names = ("backbone", "tokenizer", "feature_extractor", "vocoder", "duration_predictor")
        parts = {name: getattr(base, name) for name in names}
    else:
        tokenizer = F5Tokenizer(_vocab_file(config))
        parts = {
            "backbone": F5Backbone.from_f5_checkpoint(model.f5_checkpoint, vocab=tokenizer, variant=model.f5_variant),
            "tokenizer": tokenizer,
            "feature_extractor": F5FeatureExtractor(),
            "vocoder": _default_vocoder(),
        }
    if model.backbone_dtype != "float32":
        parts["backbone"].to(getattr(torch, model.backbone_dtype))
    return parts


def _earlier_predictor(config: TrainingConfig) -> DurationPredictor | None:
    """That of the pipeline which a backbone's run saves over, else of the one it starts from, if they have one."""
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


def hub_name(name: str | None) -> str | None:
    """A folder of this machine means nothing where what was trained is pulled."""
    return None if name is None or Path(name).exists() else name


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


def training_record(
    config: TrainingConfig, step: int, hours: float, results: dict[str, float] | None = None
) -> tuple[str, dict | None]:
    """What a model card says of the training, and of what was measured at this step: `{arm: {metric: value}}`."""
    training_data = f"{data_description(config)}; {step:,} steps, {hours:,.1f} hours of speech with repeats"
    if not results:
        return training_data, None
    figures = {name.replace("_", " "): f"{value:.4g}" for name, value in results.items()}
    return training_data, {f"averaged weights, step {step:,}": figures}


def _default_vocoder() -> torch.nn.Module:
    from dtm_hf.vocoder.vocoder_griffin_lim import GriffinLimVocoder

    return GriffinLimVocoder()

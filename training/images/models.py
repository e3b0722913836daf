"""
diffusers' text-to-image pipelines as distillation sees them: networks in latent space with text conditions.

An [`ImageModel`] holds a pipeline whose text encoders and VAE are frozen. States have shape `(B, C, h, w)` in every
family; what a family's network wants beside them (packed tokens, position ids, time ids, an embedded guidance scale,
times from 0 to 1000) is added in one method, `predict`, which serves teacher, student and estimator alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import wraps

import torch

from dtm_hf.training.objectives.prediction import EpsilonPrediction, Prediction, VelocityPrediction, prediction_for

Conditions = dict[str, torch.Tensor]


def _outside_of_training(method):
    """
    Without a gradient and in the networks' own dtypes: inside of the training's autocast a VAE would overflow, and
    prompts would not be what plain diffusers makes of them.
    """

    @wraps(method)
    def exact(self, *args):
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return method(self, *args)

    return exact


class ImageModel(ABC):
    """
    The part that all families share.

    Args:
        pipeline (`DiffusionPipeline`): of the family's class.
        resolution (`int`): height and width of the pictures in pixels.
        embedded_guidance_scale (`float`, defaults to 3.5): what a network with a guidance embedding is told. It is an
            input, not classifier-free guidance, and the same for teacher, student and estimator.
        max_sequence_length (`int`, defaults to 512): tokens of a T5 encoder.
        grid_shift (`float`, *optional*): shift of the student's grid in place of the scheduler's, on flows.

    Attributes:
        prediction ([`Prediction`]): what the network predicts, and the student's grid.
        latent_shape (`tuple[int, int, int]`): of a state.

    Raises:
        ValueError: for a resolution, a scheduler or a network that does not fit.
    """

    pipeline_class: str
    denoiser_name: str
    parts: tuple[str, ...]
    """Components of the pipeline without which there is nothing to train on."""
    prediction_class: type[Prediction]
    time_layer: str
    """The layer of the denoiser whose output is the embedding of t: a constant added there is a bias of it."""
    _tokens_per_side = 1
    """Latent pixels that a token spans."""

    def __init__(
        self,
        pipeline,
        resolution: int,
        *,
        embedded_guidance_scale: float = 3.5,
        max_sequence_length: int = 512,
        grid_shift: float | None = None,
    ):
        self.pipeline, self.resolution = pipeline, resolution
        self.embedded_guidance_scale, self.max_sequence_length = embedded_guidance_scale, max_sequence_length
        # Before adapters are put in: theirs may be another.
        self.dtype = self.denoiser.dtype
        multiple = pipeline.vae_scale_factor * self._tokens_per_side
        if resolution % multiple:
            raise ValueError(
                f"`resolution` must be a multiple of {multiple} for {self.pipeline_class}, but got {resolution}."
            )
        side = resolution // pipeline.vae_scale_factor
        self.latent_shape = (self._latent_channels, side, side)
        self.prediction = self._prediction(grid_shift)
        for part in self._frozen:
            part.requires_grad_(False).eval()
        # A VAE in half precision overflows in some of these families, and it is not what costs.
        pipeline.vae.float()
        self._null: Conditions | None = None

    # What differs between the families

    @property
    @abstractmethod
    def _latent_channels(self) -> int:
        """Channels of a state."""

    def _prediction(self, grid_shift: float | None) -> Prediction:
        return prediction_for(self.pipeline.scheduler)

    @abstractmethod
    def _encode(self, prompts: Sequence[str]) -> tuple[Conditions, Conditions]:
        """Conditions of the prompts, and of the empty prompt, through the pipeline's own `encode_prompt`."""

    @abstractmethod
    def predict(
        self, denoise: Callable, x: torch.Tensor, t: torch.Tensor, conditions: Conditions, **further
    ) -> torch.Tensor:
        """
        The output at states `(B, C, h, w)` and times `(B,)` in the unit of [`Prediction`], of the same shape.

        Args:
            denoise: the denoiser, or what is called as it is.
            conditions (`dict`): of [`~ImageModel.encode`].
            further: keyword arguments that `denoise` gets beside its own.
        """

    @abstractmethod
    def sampling_scheduler(self):
        """A plain diffusers scheduler that walks the student's grid by deterministic steps."""

    @abstractmethod
    def call_arguments(self, num_steps: int) -> dict:
        """What a call of the plain pipeline needs beside prompt, size and number of steps."""

    # What does not

    @property
    def denoiser(self) -> torch.nn.Module:
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def _frozen(self) -> list[torch.nn.Module]:
        """All networks; what is trained is put in later, or copied."""
        return [getattr(self.pipeline, name) for name in self.parts if not name.startswith("tokenizer")]

    @property
    def device(self) -> torch.device:
        return self.pipeline.vae.device

    def to(self, device: torch.device | str) -> "ImageModel":
        """Move the networks that are used; a safety checker, say, stays."""
        for part in self._frozen:
            part.to(device)
        self._null = None
        return self

    @_outside_of_training
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """What the networks get for prompts: tensors of B rows by name."""
        conditions, _ = self._encode(list(prompts))
        return conditions

    @_outside_of_training
    def null_conditions(self, batch_size: int) -> Conditions:
        """What stands in the place of these conditions without a prompt."""
        if self._null is None:
            _, self._null = self._encode([""])
        return {name: value.expand(batch_size, *value.shape[1:]) for name, value in self._null.items()}

    def noise(self, batch_size: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Pure noise, `(B, C, h, w)` in float32, drawn on the generator's device."""
        device = self.device if generator is None else generator.device
        return torch.randn(batch_size, *self.latent_shape, generator=generator, device=device).to(self.device)

    @_outside_of_training
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to pictures `(B, 3, R, R)` in [-1, 1], one at a time: a VAE needs much memory for its size."""
        vae = self.pipeline.vae
        mean, scale = self._latent_statistics(latents)
        latents = (latents / scale + mean).to(vae.dtype)
        pictures = [vae.decode(row[None], return_dict=False)[0] for row in latents]
        return torch.cat(pictures).clamp(-1, 1)

    @_outside_of_training
    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures `(B, 3, R, R)` in [-1, 1] to latents: the mean of the VAE's posterior."""
        vae = self.pipeline.vae
        rows = [vae.encode(row[None].to(vae.device, vae.dtype)).latent_dist.mode() for row in pixels]
        latents = torch.cat(rows).float()
        mean, scale = self._latent_statistics(latents)
        return (latents - mean) * scale

    def _latent_statistics(self, like: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """The mean and the scale of the VAE's latents."""
        config = self.pipeline.vae.config
        mean, deviation = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and deviation is not None:
            mean, deviation = (torch.tensor(values).to(like).reshape(1, -1, 1, 1) for values in (mean, deviation))
            return mean, config["scaling_factor"] / deviation
        return config.get("shift_factor") or 0.0, config["scaling_factor"]


class _UNetModel(ImageModel):
    """Networks that predict the noise, on a schedule of betas."""

    denoiser_name = "unet"
    prediction_class = EpsilonPrediction
    time_layer = "time_embedding.linear_2"

    def __init__(self, pipeline, resolution: int, **options):
        if pipeline.unet.config.time_cond_proj_dim is not None:
            raise ValueError(
                "`base_model` must have a U-Net without an embedded guidance scale (`time_cond_proj_dim`), but got "
                f"{pipeline.unet.config.time_cond_proj_dim}: it is a distilled model itself."
            )
        super().__init__(pipeline, resolution, **options)

    @property
    def _latent_channels(self) -> int:
        return self.pipeline.unet.config.in_channels

    def call_arguments(self, num_steps: int) -> dict:
        # Of no guidance: the student has it built in.
        return {"guidance_scale": 1.0}

    def sampling_scheduler(self):
        from diffusers import DPMSolverMultistepScheduler

        # Of first order it is DDIM. `DDIMScheduler` itself steps by T // K, which is off the grid for K = 3.
        config = self.pipeline.scheduler.config
        return DPMSolverMultistepScheduler(
            num_train_timesteps=config["num_train_timesteps"],
            beta_start=config["beta_start"],
            beta_end=config["beta_end"],
            beta_schedule=config["beta_schedule"],
            prediction_type=config["prediction_type"],
            solver_order=1,
            timestep_spacing="trailing",
            # Unused in this spacing, but Stable Diffusion's pipeline warns of anything else.
            steps_offset=1,
            final_sigmas_type="zero",
        )


class StableDiffusionModel(_UNetModel):
    """Stable Diffusion 1 and 2 with epsilon prediction: one text encoder."""

    pipeline_class = "StableDiffusionPipeline"
    parts = ("unet", "vae", "text_encoder", "tokenizer")

    def _encode(self, prompts: Sequence[str]) -> tuple[Conditions, Conditions]:
        embeds, null = self.pipeline.encode_prompt(list(prompts), self.device, 1, True)
        return {"prompt_embeds": embeds}, {"prompt_embeds": null}

    def predict(self, denoise, x, t, conditions, **further) -> torch.Tensor:
        return denoise(
            x.to(self.dtype), t, encoder_hidden_states=conditions["prompt_embeds"], return_dict=False, **further
        )[0]


class StableDiffusionXLModel(_UNetModel):
    """SDXL: two text encoders, whose pooled output and the sizes of the picture (time ids) go beside the prompt."""

    pipeline_class = "StableDiffusionXLPipeline"
    parts = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")

    def _encode(self, prompts: Sequence[str]) -> tuple[Conditions, Conditions]:
        embeds, null_embeds, pooled, null_pooled = self.pipeline.encode_prompt(list(prompts), device=self.device)
        # What the pipeline says of a picture by default: uncropped, and of the size that is asked for.
        size = torch.tensor([[self.resolution, self.resolution, 0, 0, self.resolution, self.resolution]])
        time_ids = size.to(embeds).repeat(len(prompts), 1)
        return (
            {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "time_ids": time_ids},
            {"prompt_embeds": null_embeds, "pooled_prompt_embeds": null_pooled, "time_ids": time_ids},
        )

    def predict(self, denoise, x, t, conditions, **further) -> torch.Tensor:
        added = {"text_embeds": conditions["pooled_prompt_embeds"], "time_ids": conditions["time_ids"]}
        return denoise(
            x.to(self.dtype),
            t,
            encoder_hidden_states=conditions["prompt_embeds"],
            added_cond_kwargs=added,
            return_dict=False,
            **further,
        )[0]


class _FlowModel(ImageModel):
    """Transformers that predict noise - data on a flow; t is the noise level."""

    denoiser_name = "transformer"
    prediction_class = VelocityPrediction
    time_layer = "time_text_embed.timestep_embedder.linear_2"
    _tokens_per_side = 2

    def _prediction(self, grid_shift: float | None) -> Prediction:
        config = self.pipeline.scheduler.config
        if grid_shift is None and config["use_dynamic_shifting"]:
            grid_shift = self._shift_of_resolution(config)
        self.grid_shift = config["shift"] if grid_shift is None else grid_shift
        return prediction_for(self.pipeline.scheduler, self.grid_shift)

    def _shift_of_resolution(self, config) -> float:
        """The shift that `use_dynamic_shifting` comes to at this resolution: the student's grid is fixed."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        mu = calculate_shift(
            (self.latent_shape[1] // self._tokens_per_side) ** 2,
            config["base_image_seq_len"],
            config["max_image_seq_len"],
            config["base_shift"],
            config["max_shift"],
        )
        return mu if config["time_shift_type"] == "linear" else float(torch.tensor(mu, dtype=torch.float64).exp())

    def sampling_scheduler(self):
        from diffusers import FlowMatchEulerDiscreteScheduler

        steps = self.pipeline.scheduler.config["num_train_timesteps"]
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps, shift=self.grid_shift)


class FluxModel(_FlowModel):
    """Flux: packed latents, position ids, and for its guidance-distilled variants an embedded guidance scale."""

    pipeline_class = "FluxPipeline"
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")

    @property
    def _latent_channels(self) -> int:
        return self.pipeline.transformer.config.in_channels // 4

    def call_arguments(self, num_steps: int) -> dict:
        guidance = {"guidance_scale": self.embedded_guidance_scale}
        sequence = {"max_sequence_length": self.max_sequence_length}
        return sequence | (guidance if self.pipeline.transformer.config.guidance_embeds else {})

    def _encode(self, prompts: Sequence[str]) -> tuple[Conditions, Conditions]:
        # An empty prompt is what stands for none, so a single call serves for both.
        embeds, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), None, device=self.device, max_sequence_length=self.max_sequence_length
        )
        conditions = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        return conditions, conditions

    def predict(self, denoise, x, t, conditions, **further) -> torch.Tensor:
        batch, (channels, height, width) = len(x), self.latent_shape
        pipeline, embeds = self.pipeline, conditions["prompt_embeds"]
        ids = pipeline._prepare_latent_image_ids(batch, height // 2, width // 2, x.device, self.dtype)
        guidance = None
        if pipeline.transformer.config.guidance_embeds:
            guidance = torch.full((batch,), self.embedded_guidance_scale, device=x.device)
        tokens = denoise(
            hidden_states=pipeline._pack_latents(x.to(self.dtype), batch, channels, height, width),
            # 0 to 1: this transformer multiplies by 1000 itself.
            timestep=t,
            guidance=guidance,
            pooled_projections=conditions["pooled_prompt_embeds"],
            encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, device=x.device, dtype=self.dtype),
            img_ids=ids,
            return_dict=False,
            **further,
        )[0]
        # In pixels, and of a VAE without a scale factor: the latents' own size.
        return pipeline._unpack_latents(tokens, height, width, 1)


class StableDiffusion3Model(_FlowModel):
    """Stable Diffusion 3: two CLIP encoders and T5, times from 0 to 1000."""

    pipeline_class = "StableDiffusion3Pipeline"
    parts = (
        *("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"),
        *("tokenizer", "tokenizer_2", "tokenizer_3"),
    )

    @property
    def _latent_channels(self) -> int:
        return self.pipeline.transformer.config.in_channels

    def call_arguments(self, num_steps: int) -> dict:
        # Without them this pipeline ends its grid just above 0, and so wastes the last step.
        sigmas = [1 - step / num_steps for step in range(num_steps)]
        return {"guidance_scale": 1.0, "max_sequence_length": self.max_sequence_length, "sigmas": sigmas}

    def _encode(self, prompts: Sequence[str]) -> tuple[Conditions, Conditions]:
        prompts = list(prompts)
        embeds, null_embeds, pooled, null_pooled = self.pipeline.encode_prompt(
            prompts, None, None, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return (
            {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled},
            {"prompt_embeds": null_embeds, "pooled_prompt_embeds": null_pooled},
        )

    def predict(self, denoise, x, t, conditions, **further) -> torch.Tensor:
        return denoise(
            hidden_states=x.to(self.dtype),
            timestep=t * self.pipeline.scheduler.config["num_train_timesteps"],
            encoder_hidden_states=conditions["prompt_embeds"],
            pooled_projections=conditions["pooled_prompt_embeds"],
            return_dict=False,
            **further,
        )[0]


FAMILIES: dict[str, type[ImageModel]] = {
    family.pipeline_class: family
    for family in (StableDiffusionModel, StableDiffusionXLModel, FluxModel, StableDiffusion3Model)
}

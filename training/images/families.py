"""The families of text-to-image pipelines: what the network of each predicts, and what it is given."""

from collections.abc import Sequence

import torch

from dtm_hf.training.images.models import Conditions, ImageModel
from dtm_hf.training.objectives.prediction import EpsilonPrediction, Prediction, VelocityPrediction, prediction_for


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

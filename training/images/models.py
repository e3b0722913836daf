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

from dtm_hf.training.objectives.prediction import Prediction, prediction_for

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

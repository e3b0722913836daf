"""Teacher, student and estimator of a text-to-image model, called as TDM calls networks."""

import torch

from dtm_hf.training.images.models import ImageModel
from dtm_hf.training.objectives.adapters import FLUX_LAYERS, UNET_LAYERS, AdapterNetworks
from dtm_hf.training.objectives.tdm import TDM, guided


class LatentNetworks:
    """
    [`AdapterNetworks`] around the denoiser of an [`ImageModel`].

    Each network takes states `(B, C, h, w)`, times `(B,)` and the conditions of [`~ImageModel.encode`] by name;
    student and estimator also `num_steps`.

    Args:
        model ([`ImageModel`]): its denoiser gets the adapters.
        guidance_scale (`float`): of the teacher's classifier-free guidance; up to 1, a pass without prompt is saved.
        adapters: keyword arguments of [`AdapterNetworks`].
    """

    def __init__(self, model: ImageModel, guidance_scale: float, **adapters):
        self.model, self.guidance_scale = model, guidance_scale
        layers = UNET_LAYERS if model.denoiser_name == "unet" else FLUX_LAYERS
        self.adapters = AdapterNetworks(model.denoiser, layers, **adapters)

    def student(self, x: torch.Tensor, t: torch.Tensor, num_steps: torch.Tensor, **conditions) -> torch.Tensor:
        return self.model.predict(self.adapters.student, x, t, conditions, num_steps=num_steps)

    def estimator(self, x: torch.Tensor, t: torch.Tensor, num_steps: torch.Tensor, **conditions) -> torch.Tensor:
        return self.model.predict(self.adapters.estimator, x, t, conditions, num_steps=num_steps)

    def teacher(self, x: torch.Tensor, t: torch.Tensor, **conditions) -> torch.Tensor:
        if self.guidance_scale <= 1:
            return self._unguided(x, t, **conditions)
        return guided(self._unguided, self.guidance_scale, self.model.null_conditions(len(x)))(x, t, **conditions)

    def _unguided(self, x: torch.Tensor, t: torch.Tensor, **conditions) -> torch.Tensor:
        return self.model.predict(self.adapters.teacher, x, t, conditions)

    @torch.no_grad()
    def student_samples(self, tdm: TDM, prompts: list[str], noise: torch.Tensor, num_steps: int) -> torch.Tensor:
        """Latents `(B, C, h, w)` of the student, one prompt at a time."""
        rows = [
            tdm.rollout(self.student, one[None], num_steps, self.model.encode([prompt])).samples
            for prompt, one in zip(prompts, noise, strict=True)
        ]
        return torch.cat(rows)

    @torch.no_grad()
    def teacher_samples(self, prompts: list[str], noise: torch.Tensor, num_steps: int) -> torch.Tensor:
        """Latents `(B, C, h, w)` of the teacher in many deterministic steps on the spacing of the student's grid."""
        prediction = self.model.prediction
        times = prediction.grid(num_steps).to(noise.device)
        rows = []
        for prompt, one in zip(prompts, noise, strict=True):
            x, conditions = one[None], self.model.encode([prompt])
            for t, s in zip(times[:-1, None], times[1:, None], strict=True):
                output = self.teacher(x, t, **conditions).to(x.dtype)
                x = prediction.step(output, x, t, s)
            rows.append(x)
        return torch.cat(rows)

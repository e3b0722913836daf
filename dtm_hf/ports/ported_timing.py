"""The ported networks that time text."""

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from dtm_hf.ports.ported import Ported
from dtm_hf.runtime.timing import Aligner, Durations


class PortedTextAligner(Ported):
    """A [`TextAligner`] as a graph."""

    network = Aligner

    def align(self, mel: torch.Tensor, mel_mask: torch.Tensor, text_ids: torch.Tensor) -> torch.Tensor:
        """As of [`TextAligner.align`]."""
        durations = torch.zeros_like(text_ids)
        for row, (frames, mask, ids) in enumerate(zip(mel, mel_mask, text_ids, strict=True)):
            tokens = ids[ids >= 0].cpu().numpy()
            found = self._runs.align(frames[mask].float().cpu().numpy(), tokens)
            durations[row, : len(tokens)] = torch.from_numpy(found).to(durations)
        return durations


class PortedTokenDurations(Ported):
    """A [`TokenDurations`] as a graph."""

    network = Durations

    def mean(self, text_ids: torch.Tensor, known_frames: torch.Tensor | None = None) -> torch.Tensor:
        """As of [`TokenDurations.mean`]."""
        return self._walk(torch.zeros(text_ids.shape), text_ids, known_frames, 1)

    def sample(
        self,
        text_ids: torch.Tensor,
        known_frames: torch.Tensor | None = None,
        num_inference_steps: int = 8,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> torch.Tensor:
        """As of [`TokenDurations.sample`]."""
        noise = randn_tensor(text_ids.shape, generator, text_ids.device, torch.float32)
        return self._walk(
            noise.cpu() * self.config.get("noise_scale", 1.0), text_ids, known_frames, num_inference_steps
        )

    def _walk(self, noise: torch.Tensor, text_ids, known_frames, steps: int) -> torch.Tensor:
        known_frames = torch.zeros_like(text_ids) if known_frames is None else known_frames
        frames = torch.zeros(text_ids.shape)
        for row, ids in enumerate(text_ids):
            tokens = ids[ids >= 0].cpu().numpy()
            size = len(tokens)
            known = np.ascontiguousarray(known_frames[row, :size].cpu().numpy())
            frames[row, :size] = torch.from_numpy(self._runs.walk(noise[row, :size].numpy(), tokens, known, steps))
        return frames.to(text_ids.device)


__all__ = ["PortedTextAligner", "PortedTokenDurations"]

"""A codec as a graph: codes to sound, and no way back."""

from typing import Any

import torch
from torch.nn import functional as F
from transformers.models.mimi.configuration_mimi import MimiConfig
from transformers.models.mimi.modeling_mimi import MimiDecoderOutput

from dtm_hf.ports.ported import Ported
from dtm_hf.ports.ported_speecht5 import TensorGraphs


class PortedCodec(Ported):
    """A `MimiModel` as a graph: what [`~dtm_hf.codec.mimi.decode_codes`] asks of one."""

    network = TensorGraphs

    def _read_config(self, content: dict[str, Any]) -> MimiConfig:
        return MimiConfig.from_dict(content)

    def decode(self, audio_codes: torch.Tensor) -> MimiDecoderOutput:
        """Codes `(B, K, F)` of the first K codebooks to `audio_values` `(B, 1, T)`."""
        books, number = audio_codes.shape[1], self.config.num_quantizers
        used = (torch.arange(number) < books).float()
        codes = F.pad(audio_codes, (0, 0, 0, number - books))
        waveform = self._runs("decoder", codes=codes, used=used.to(codes.device))["waveform"]
        return MimiDecoderOutput(audio_values=waveform[:, None])

    def encode(self, *args, **kwargs) -> None:
        """
        Raises:
            ValueError: always.
        """
        raise ValueError("`reference_audio` must be none: the codec of a port codes no recordings.")


__all__ = ["PortedCodec"]

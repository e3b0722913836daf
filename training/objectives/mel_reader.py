"""What a codec is trained with and saved without: a linear map that reads the log-mel of a frame off its latent."""

import torch
from torch import nn
from transformers import MimiConfig
from transformers.models.mimi.modeling_mimi import MimiModel

from dtm_hf.training.objectives.spectra import log_mel_bands

_FFT_SIZE = 1024
# Columns of a frame; at 24 kHz and 80 ms each is 10 ms.
_COLUMNS = 8


class MelReader(nn.Module):
    """
    Reads the log-mel of a frame, `_COLUMNS` columns of it, off its latent by a linear map. Its error reaches the
    encoder without passing a decoder that has not learnt to listen, and asks of the latents all that tells sounds
    apart: left to the decoder's error, they were a number or two for a long time. Mimi's own training has such a map
    to the features of a speech model, on its first book (arXiv 2410.00037, section 3.3.3).

    Args:
        config (`MimiConfig`): of the codec.
    """

    def __init__(self, config: MimiConfig):
        super().__init__()
        self.hop, self.rate = config.frame_size // _COLUMNS, config.sampling_rate
        size = self._mels(torch.zeros(1, config.frame_size)).shape[-1]
        self.map = nn.Linear(config.hidden_size, size)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def _mels(self, waveforms: torch.Tensor) -> torch.Tensor:
        """`(B, F, N)` of waveforms `(B, T)`."""
        bands = log_mel_bands(waveforms, _FFT_SIZE, self.hop, self.rate)[..., : waveforms.shape[1] // self.hop]
        return bands.unflatten(2, (-1, _COLUMNS)).permute(0, 2, 1, 3).flatten(2)

    @torch.no_grad()
    def measure(self, waveforms: list[torch.Tensor]) -> None:
        """Take mean and deviation of the log-mels from recordings of whole frames, `(T_i,)`."""
        mels = torch.cat([self._mels(waveform[None])[0] for waveform in waveforms])
        self.mean.copy_(mels.mean(dim=0))
        self.deviation.copy_(mels.std(dim=0).clamp(min=1e-3))

    def forward(self, latents: torch.Tensor, waveforms: torch.Tensor, heard_frames: torch.Tensor) -> torch.Tensor:
        """
        Squared error in shares of the log-mels' variance, `()`.

        Args:
            latents (`torch.Tensor` of shape `(B, M, F)`): what the decoder gets.
            waveforms (`torch.Tensor` of shape `(B, T)`): the recordings.
            heard_frames (`torch.LongTensor` of shape `(N,)`): places of those that count, in the batch as one row.
        """
        wanted = (self._mels(waveforms) - self.mean) / self.deviation
        errors = self.map(latents.transpose(1, 2)) - wanted
        return errors.square().mean(dim=-1).flatten()[heard_frames].mean()


class CodecNetwork(nn.Module):
    """
    All that the training of a codec changes.

    Args:
        codec (`MimiModel`): what is saved.
        reader ([`MelReader`], *optional*): what is not.
    """

    def __init__(self, codec: MimiModel, reader: MelReader | None = None):
        super().__init__()
        self.codec, self.reader = codec, reader

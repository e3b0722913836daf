"""What a codec is trained on: that its codes give back the sound. The networks are those of transformers' Mimi."""

from dataclasses import dataclass

import torch

from dtm_hf.training.objectives.losses import LossOutput
from dtm_hf.training.objectives.mel_reader import CodecNetwork
from dtm_hf.training.objectives.spectra import FFT_SIZES, spectral_distance

# Below this share of an even use an entry of a codebook is moved to where data is.
_DEAD = 0.02


@dataclass
class WaveBatch:
    """
    Args:
        waveforms (`torch.Tensor` of shape `(B, T)`): at 24 kHz, T a multiple of the codec's frame size; 0 at padding.
        frame_mask (`torch.BoolTensor` of shape `(B, F)`): `True` at frames that hold sound.
    """

    waveforms: torch.Tensor
    frame_mask: torch.Tensor


class CodecObjective:
    r"""
    Spectral and waveform loss of what the decoder makes of quantised latents, whose gradient passes the codebooks as
    if they were not there (straight-through), and the latents' distance to their codes. The codebooks follow the
    latents by running means (VQ-VAE, arXiv 1711.00937, appendix A.1), in the codec's own buffers `embed_sum` and
    `cluster_usage`: what is saved is a plain `MimiModel`.

    In each batch a random number of the acoustic books is used, so that the first ones alone give speech too; and a
    share of the rows is decoded from its latents as they are (Mimi's "quantization rate", arXiv 2410.00037, section
    3.3.2). At first, while `quantizes` is `False`, none is quantised and no book moves: latents move faster then than
    books can follow, so that all come to one entry, and the decoder learns not to listen.

    Args:
        decay (`float`, defaults to 0.97): of the running means.
        commitment (`float`, defaults to 0.25): weight of the latents' distance to their codes.
        waveform (`float`, defaults to 1.0): weight of the samples' own distance.
        unquantized (`float`, defaults to 0.5): share of the rows of a batch that are decoded from their latents.
        reading (`float`, defaults to 1.0): weight of the error of the network's [`MelReader`], if it has one.
        keeps_codes (`bool`, defaults to `False`): let no book move, and decode from codes alone; encoder and quantiser
            are to be frozen.
    """

    def __init__(
        self,
        decay: float = 0.97,
        commitment: float = 0.25,
        waveform: float = 1.0,
        unquantized: float = 0.5,
        reading: float = 1.0,
        keeps_codes: bool = False,
    ):
        self.decay, self.commitment, self.waveform = decay, commitment, waveform
        self.unquantized, self.keeps_codes = (0.0 if keeps_codes else unquantized), keeps_codes
        self.reading = reading
        self.quantizes = True

    def loss(self, network: CodecNetwork, batch: WaveBatch, generator: torch.Generator | None = None) -> LossOutput:
        """Loss of a batch; in training mode the codebooks move too."""
        codec, device = network.codec, batch.waveforms.device
        config = codec.config
        acoustic = config.num_quantizers - config.num_semantic_quantizers
        # All that is read from the device is read here, where it has nothing to do yet.
        drawn = torch.rand((), generator=generator, device=device)
        if torch.distributed.is_initialized():
            # The books that move are moved by all processes together.
            torch.distributed.broadcast(drawn, 0)
        number = int(drawn * acoustic) + 1 if codec.training else acoustic
        heard_frames = batch.frame_mask.flatten().nonzero()[:, 0]
        latents = codec.encoder(batch.waveforms[:, None]).latents
        free = torch.rand(len(latents), generator=generator, device=device) < self.unquantized
        free = (free | (not self.quantizes))[:, None, None] & codec.training
        split, commitment, entries = codec.quantizer, 0.0, []
        quantized = torch.zeros_like(latents)
        for quantizer, books in (
            (split.semantic_residual_vector_quantizer, config.num_semantic_quantizers),
            (split.acoustic_residual_vector_quantizer, number),
        ):
            given = (quantizer, latents, heard_frames, books, codec.training, free, generator)
            part, distance, used = self._quantize(*given)
            quantized, commitment, entries = quantized + part, commitment + distance, entries + used
        sound = codec.decoder(quantized).audio_values[:, 0]
        heard = batch.frame_mask.repeat_interleave(config.frame_size, dim=1)
        sound = sound * heard
        frames = batch.frame_mask.sum(dim=1)
        # What is beyond a recording is silence in both, and no part of its mean.
        share = frames / batch.frame_mask.shape[1]
        rate = config.sampling_rate
        spectral = sum(spectral_distance(sound, batch.waveforms, size, share, rate) for size in FFT_SIZES)
        spectral = spectral / len(FFT_SIZES)
        samples = (sound - batch.waveforms).abs().mean(dim=1) / share
        rows = spectral + self.waveform * samples
        if (self.quantizes or not codec.training) and not self.keeps_codes:
            rows = rows + self.commitment * commitment
        weights = frames / frames.sum()
        figures = {"spectral": (spectral * weights).sum().detach(), "commitment": commitment.detach()}
        if network.reader is not None:
            unread = network.reader(quantized, batch.waveforms, heard_frames)
            rows = rows + self.reading * unread
            figures["unread"] = unread.detach()
        # A few of many: the codes tell nothing.
        figures["entries"] = torch.stack(entries).float().mean()
        return LossOutput((rows * weights).sum(), figures, rows.detach(), frames)

    def _quantize(self, quantizer, latents, heard_frames, books, training, free, generator) -> tuple:
        """
        Codes' latents with the gradient of the latents, or in `free` rows these themselves; the distance between the
        two; and how many entries of each book the batch has. `heard_frames` are the places, in the batch as one row,
        of the frames that hold sound.
        """
        states = latents if quantizer.input_proj is None else quantizer.input_proj(latents)
        points = states.transpose(1, 2)
        residual, total, distance, entries = points, torch.zeros_like(points), 0.0, []
        # Of their spread: a distance as it is falls fastest where all latents come to be the same point.
        heard = points.detach().flatten(0, 1)[heard_frames]
        spread = heard.var(dim=0, correction=0).mean().clamp(min=1e-8)
        for layer in quantizer.layers[:books]:
            book = layer.codebook
            codes = book.encode(residual.detach())
            found = book.decode(codes)
            heard_codes = codes.flatten()[heard_frames]
            if training and self.quantizes and not self.keeps_codes:
                self._follow(book, residual.detach().flatten(0, 1)[heard_frames], heard_codes, generator)
            used = torch.zeros(book.codebook_size, dtype=torch.bool, device=codes.device)
            entries.append(used.index_fill(0, heard_codes, True).sum())
            distance = distance + (residual - found).square().flatten(0, 1)[heard_frames].mean() / spread
            total, residual = total + found, residual - found
        states = (points + (total - points).detach().masked_fill(free, 0.0)).transpose(1, 2)
        return (states if quantizer.output_proj is None else quantizer.output_proj(states)), distance, entries

    @torch.no_grad()
    def _follow(self, book, points, codes, generator) -> None:
        """Running means of what an entry stands for; an entry that stands for nothing moves to some point."""
        size = book.codebook_size
        counts = torch.zeros(size, device=points.device).index_add_(0, codes, torch.ones_like(points[:, 0]))
        sums = torch.zeros_like(book.embed_sum).index_add_(0, codes, points.to(book.embed_sum))
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        book.cluster_usage.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        book.embed_sum.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        dead = book.cluster_usage < _DEAD * book.cluster_usage.mean()
        drawn = torch.randint(len(points), (size,), generator=generator, device=points.device)
        fresh = points[drawn].to(book.embed_sum)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(fresh, 0)
        usage = book.cluster_usage.mean()
        book.embed_sum.copy_(torch.where(dead[:, None], fresh * usage, book.embed_sum))
        book.cluster_usage.copy_(torch.where(dead, usage, book.cluster_usage))
        # The class keeps what it has divided once.
        book._embed = None

    def probe(self, network: CodecNetwork, batch: WaveBatch, generator: torch.Generator | None = None) -> dict:
        """Nothing beyond the loss."""
        return {}

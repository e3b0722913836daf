"""What a vocoder is trained on: that its waveforms sound like the recordings that its mels are of."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.training.objectives.losses import LossOutput
from dtm_hf.training.objectives.spectra import FFT_SIZES, spectral_distance
from dtm_hf.training.vocoder.discriminators import Discriminators, Judgement
from dtm_hf.vocoder.vocoder_vocos import VocosVocoder

# Mel bins of the spectrograms that are compared, by size of the Fourier transform: the most that leave none empty.
_MEL_BINS = {256: 32, 512: 64, 1024: 100, 2048: 160}


class VocoderObjective:
    r"""
    The losses of Vocos (Siuzdak 2023, arXiv 2306.00814, section 3.3), with distances of spectra at several
    resolutions, so that few steps suffice. All take waveforms, whose log-mels are those of a pipeline:

        objective = VocoderObjective(vocoder, Discriminators().to(device))
        objective.discriminator_loss(wave).loss.backward()
        objective.generator_loss(wave, adversarial=True).loss.backward()

    Spectra are in float32 under autocast too, and nothing is copied to the host. A loss has a gradient to the networks
    of its name alone.

    Args:
        vocoder ([`VocosVocoder`]): that is trained, with `padding="center"`.
        discriminators ([`Discriminators`], *optional*): needed for adversarial losses.
        mel_weight (`float`, defaults to 45.0): of the absolute difference of log-mels, the mean over resolutions.
        stft_weight (`float`, defaults to 10.0): of [`spectral_distance`] where there is no adversarial loss, the mean
            over resolutions.
        windows_weight (`float`, defaults to 0.1): of the discriminators on spectra beside those on samples.
        mel_noise (`float`, defaults to 0.0): in training, noise is added to the mels that are vocoded, of a standard
            deviation that each row draws from [0, `mel_noise`]: what a backbone makes is not as clean as a recording.

    Raises:
        ValueError: for a vocoder whose waveforms are not as long as those that its mels are of.
    """

    def __init__(
        self,
        vocoder: VocosVocoder,
        discriminators: Discriminators | None = None,
        *,
        mel_weight: float = 45.0,
        stft_weight: float = 10.0,
        windows_weight: float = 0.1,
        mel_noise: float = 0.0,
    ):
        from vocos.loss import DiscriminatorLoss, FeatureMatchingLoss, GeneratorLoss

        config = vocoder.config
        if config.padding != "center":
            raise ValueError(f"`vocoder` must have the padding 'center', but has {config.padding!r}.")
        self.vocoder, self.discriminators = vocoder, discriminators
        self.mel_weight, self.stft_weight, self.windows_weight = mel_weight, stft_weight, windows_weight
        self.mel_noise = mel_noise
        self.extractor = F5FeatureExtractor(
            config.input_channels, config.sampling_rate, 0.0, config.n_fft, config.hop_length, config.n_fft
        )
        self.ears = {
            size: F5FeatureExtractor(bins, config.sampling_rate, 0.0, size, size // 4, size)
            for size, bins in _MEL_BINS.items()
        }
        self._hinge, self._deceive, self._match = DiscriminatorLoss(), GeneratorLoss(), FeatureMatchingLoss()

    def generator_loss(
        self, wave: torch.Tensor, adversarial: bool = False, generator: torch.Generator | None = None
    ) -> LossOutput:
        """
        The vocoder's loss: spectral, or with the discriminators' answer in the place of the linear spectra.

        Args:
            wave (`torch.Tensor` of shape `(B, T)`): recordings, T a multiple of `hop_length` and above 1024.
            adversarial (`bool`, defaults to `False`): whether the discriminators are asked.
            generator (`torch.Generator`, *optional*): of the noise on mels.

        Raises:
            ValueError: if `wave` has another shape.
        """
        made = self.vocode(wave, generator)
        mel = torch.stack(list(self._mel_distances(made, wave).values())).mean(dim=0)
        rows = self.mel_weight * mel
        figures = {"mel": mel.mean().detach()}
        if adversarial:
            deceiving, matching = self._against_discriminators(made, wave)
            rows = rows + deceiving + matching
            figures |= {"deceiving": deceiving.detach(), "matching": matching.detach()}
        elif self.stft_weight > 0:
            stft = self._stft_distance(made, wave)
            rows = rows + self.stft_weight * stft
            figures["stft"] = stft.mean().detach()
        return LossOutput(rows.mean(), figures, rows.detach(), self._frames(wave))

    def discriminator_loss(self, wave: torch.Tensor, generator: torch.Generator | None = None) -> LossOutput:
        """
        The discriminators' hinge loss: recordings against what the vocoder makes of their mels.

        Args: as of [`~VocoderObjective.generator_loss`].
        """
        with torch.no_grad():
            made = self.vocode(wave, generator)
        total, figures = 0.0, {}
        for name, weight, judgement in self._kinds(self.discriminators(torch.cat([wave.float(), made]))):
            real, fake = zip(*(score.chunk(2) for score in judgement.scores), strict=True)
            loss = self._hinge(real, fake)[0].squeeze(0) / len(real)
            total = total + weight * loss
            figures[name] = loss.detach()
        return LossOutput(total, figures, total.detach().expand(len(wave)), self._frames(wave))

    @torch.no_grad()
    def distances(self, wave: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Mean absolute difference of log-mels of recordings `(B, T)` and of what the vocoder makes of them: `mel_1024`
        and its like by size of the Fourier transform, and `mel`, their mean.
        """
        found = {f"mel_{size}": rows.mean() for size, rows in self._mel_distances(self.vocode(wave), wave).items()}
        return {"mel": torch.stack(list(found.values())).mean()} | found

    def vocode(self, wave: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """What the vocoder makes of the log-mels of waveforms `(B, T)`, in float32."""
        hop = self.vocoder.hop_length
        if wave.ndim != 2 or wave.shape[1] % hop or wave.shape[1] <= max(FFT_SIZES) // 2:
            raise ValueError(
                f"`wave` must have shape (B, T), T a multiple of {hop} above {max(FFT_SIZES) // 2}, but got "
                f"{list(wave.shape)}."
            )
        with torch.no_grad(), _full_precision(wave):
            mel = self.extractor.log_mel(wave)
            if self.mel_noise > 0 and self.vocoder.training:
                scale = self.mel_noise * torch.rand(len(mel), 1, 1, generator=generator, device=mel.device)
                mel = mel + scale * torch.randn(mel.shape, generator=generator, device=mel.device)
        return self.vocoder(mel)

    # Spectra

    def _mel_distances(self, made: torch.Tensor, wave: torch.Tensor) -> dict[int, torch.Tensor]:
        with _full_precision(wave):
            return {
                size: (ear.log_mel(made) - ear.log_mel(wave)).abs().mean(dim=(1, 2)) for size, ear in self.ears.items()
            }

    def _stft_distance(self, made: torch.Tensor, wave: torch.Tensor) -> torch.Tensor:
        with _full_precision(wave):
            return torch.stack([spectral_distance(made, wave, size) for size in FFT_SIZES]).mean(dim=0)

    # Discriminators

    def _against_discriminators(self, made: torch.Tensor, wave: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hinge loss of the vocoder, and how far apart recordings and its waveforms are inside the discriminators."""
        deceiving, matching = 0.0, 0.0
        with _frozen(self.discriminators):
            with torch.no_grad():
                recorded = self.discriminators(wave.float())
            heard = self.discriminators(made)
        for (_, weight, real), (_, _, fake) in zip(self._kinds(recorded), self._kinds(heard), strict=True):
            count = len(fake.scores)
            deceiving = deceiving + weight / count * self._deceive(fake.scores)[0].squeeze(0)
            matching = matching + weight / count * self._match(real.features, fake.features).squeeze(0)
        return deceiving, matching

    def _kinds(self, judgements: tuple[Judgement, Judgement]) -> Iterator[tuple[str, float, Judgement]]:
        """Name, weight and judgement of the kinds that there are."""
        weights = {"periods": 1.0, "windows": self.windows_weight}
        for (name, weight), judgement in zip(weights.items(), judgements, strict=True):
            if judgement.scores:
                yield name, weight, judgement

    def _frames(self, wave: torch.Tensor) -> torch.Tensor:
        return torch.full((len(wave),), wave.shape[1] // self.vocoder.hop_length, device=wave.device)


@contextmanager
def _full_precision(like: torch.Tensor) -> Iterator[None]:
    """Log-mels of bfloat16 would have steps of some percent."""
    with torch.autocast(like.device.type, enabled=False):
        yield


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Graphs that are made inside have a gradient through the module and none to it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)

"""Feature extractor of F5-TTS: waveform to log-mel spectrogram."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

from dtm_hf.validation import CheckedConfigMixin, MelBins, SamplingRate, WindowSize, check_values


@lru_cache(maxsize=8)
def _mel_transform(
    sampling_rate: int, n_fft: int, win_length: int, hop_length: int, feature_size: int, device: torch.device
) -> torch.nn.Module:
    """The transform of f5_tts's `get_vocos_mel_spectrogram`, but for the reflection at both ends."""
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(
        sample_rate=sampling_rate,
        n_fft=n_fft,
        win_length=win_length,
        hop_length=hop_length,
        n_mels=feature_size,
        power=1,
        center=False,
        norm=None,
    ).to(device)


class F5FeatureExtractor(CheckedConfigMixin, SequenceFeatureExtractor):
    """
    Log-mel spectrograms as F5-TTS and the Vocos vocoder define them: magnitude (not power) STFT with reflected ends,
    HTK mel scale from 0 Hz to the Nyquist frequency without area normalisation, natural logarithm floored at 1e-5.

    Args:
        feature_size (`int`, defaults to 100): Number of mel bins M.
        sampling_rate (`int`, defaults to 24000): Rate of the waveforms in Hz.
        padding_value (`float`, defaults to 0.0): What fills log-mel frames past the end of an item, as in F5.
        n_fft (`int`, defaults to 1024): Size of the Fourier transform in samples.
        hop_length (`int`, defaults to 256): Samples between frames: 93.75 frames a second.
        win_length (`int`, defaults to 1024): Length of the Hann window in samples.
        mel_spec_type (`str`, defaults to `"vocos"`): Only `"vocos"`; the BigVGAN variant of F5 has other mels.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: MelBins = 100,
        sampling_rate: SamplingRate = 24000,
        padding_value: float = 0.0,
        n_fft: WindowSize = 1024,
        hop_length: WindowSize = 256,
        win_length: WindowSize = 1024,
        mel_spec_type: str = "vocos",
        **kwargs,
    ):
        if mel_spec_type != "vocos":
            raise ValueError(
                f"`mel_spec_type` must be 'vocos', but got {mel_spec_type!r}. Backbones trained on BigVGAN mels are "
                "not supported: their spectrogram differs and they need the BigVGAN vocoder."
            )
        if not hop_length <= win_length <= n_fft:
            raise ValueError(
                f"`hop_length` must be at most `win_length`, and that at most `n_fft`, but got {hop_length}, "
                f"{win_length} and {n_fft}."
            )
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.win_length = win_length
        self.mel_spec_type = mel_spec_type

    @classmethod
    def get_feature_extractor_dict(cls, pretrained_model_name_or_path, **kwargs):
        content, kwargs = super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        check_values(content, cls.__init__, f"{str(pretrained_model_name_or_path)!r} (preprocessor_config.json)")
        return content, kwargs

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform of `num_samples` samples: one more than whole hops."""
        return num_samples // self.hop_length + 1

    def log_mel(self, waveform: torch.Tensor, lengths: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """
        Log-mel spectrograms on the device of `waveform`, computed in float32.

        Args:
            waveform (`torch.Tensor` of shape `[B, T]`):
                Samples in [-1, 1] at `sampling_rate`.
            lengths (`torch.Tensor` or sequence of shape `[B]`, *optional*):
                Valid samples per item; all T if left out. An item of a padded batch equals the item alone.

        Returns:
            `torch.Tensor` of shape `[B, T // hop_length + 1, M]`; frames past the end of an item hold `padding_value`.

        Raises:
            ValueError: if `waveform` is not `[B, T]`, or an item is too short to reflect (up to `n_fft // 2` samples).
        """
        if waveform.ndim != 2:
            raise ValueError(f"`waveform` must have shape [B, T], but got {list(waveform.shape)}.")
        lengths = [waveform.shape[1]] * len(waveform) if lengths is None else [int(length) for length in lengths]
        if len(lengths) != len(waveform) or max(lengths, default=0) > waveform.shape[1]:
            raise ValueError(
                f"`lengths` must hold {len(waveform)} values of at most {waveform.shape[1]} samples, got {lengths}."
            )
        pad = self.n_fft // 2
        if min(lengths, default=0) <= pad:
            raise ValueError(
                f"`waveform` must hold at least one item, each longer than {pad} samples, but got lengths {lengths}."
            )
        transform = _mel_transform(
            self.sampling_rate, self.n_fft, self.win_length, self.hop_length, self.feature_size, waveform.device
        )
        waveform = waveform.float()
        width = waveform.shape[1]
        if min(lengths) == width:
            reflected = F.pad(waveform, (pad, pad), mode="reflect")
        else:
            # Each item is reflected at its own end, which is why padding cannot reach its last frames.
            items = [F.pad(x[None, :n], (pad, pad), mode="reflect")[0] for x, n in zip(waveform, lengths, strict=True)]
            reflected = torch.stack([F.pad(x, (0, width + 2 * pad - len(x))) for x in items])
        mel = transform(reflected).clamp(min=1e-5).log().transpose(1, 2)
        for row, length in zip(mel, lengths, strict=True):
            if length < width:
                row[self.num_frames(length) :] = self.padding_value
        return mel

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor],
        sampling_rate: int | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Log-mel spectrograms of one waveform or several.

        Args:
            raw_speech (`np.ndarray`, `torch.Tensor` or a list of them):
                Mono samples: `[T]`, `[B, T]`, or a list of B arrays `[T_i]`.
            sampling_rate (`int`, *optional*):
                Rate of `raw_speech` in Hz; checked against the extractor's own.

        Returns:
            `BatchFeature` of torch tensors: `input_features` `[B, N, M]` and `attention_mask` `[B, N]` (1 in the
            frames of an item, 0 past its end).

        Raises:
            ValueError: if the rate differs, or as in [`~F5FeatureExtractor.log_mel`].
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"`sampling_rate` must be {self.sampling_rate}, but got {sampling_rate}. Resample first.")
        items = [raw_speech] if getattr(raw_speech, "ndim", None) == 1 else list(raw_speech)
        items = [torch.as_tensor(item) for item in items]
        if any(item.ndim != 1 for item in items) or not items:
            raise ValueError(
                "`raw_speech` must be mono: [T], [B, T] or a list of 1-D arrays, but got items of shape "
                f"{[list(item.shape) for item in items]}."
            )
        lengths = [len(item) for item in items]
        mel = self.log_mel(pad_sequence(items, batch_first=True), lengths)
        frames = torch.tensor([self.num_frames(length) for length in lengths], device=mel.device)
        mask = torch.arange(mel.shape[1], device=mel.device)[None] < frames[:, None]
        return BatchFeature({"input_features": mel, "attention_mask": mask.long()})

"""A voice as a vector."""

import numpy as np

VOICE_RATE = 16000


class VoiceEncoder:
    """
    Resemblyzer (GE2E, its weights are in the package), on the CPU.

    Raises:
        ImportError: if it is not installed.
    """

    def __init__(self):
        try:
            from resemblyzer import VoiceEncoder as Network
        except ModuleNotFoundError as error:
            raise ImportError(
                f'`{error.name}` is not installed: pip install "dtm-hf[eval]"', name=error.name
            ) from error
        self._network = Network("cpu", verbose=False)

    def __call__(self, waveform: np.ndarray) -> np.ndarray | None:
        """Embedding `(256,)` of samples at 16 kHz; `None` if there is no voice in them."""
        from resemblyzer.audio import normalize_volume, trim_long_silences
        from resemblyzer.hparams import audio_norm_target_dBFS

        if not waveform.any():
            return None
        # Not its `preprocess_wav`, which leaves loud speech loud: the network sees no logarithm, so half the level
        # alone would cost a similarity of 0.05.
        level = normalize_volume(waveform, audio_norm_target_dBFS)
        voiced = trim_long_silences(np.clip(level, -1, 1))
        return self._network.embed_utterance(voiced) if len(voiced) else None

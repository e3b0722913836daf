"""Whether the speech is of the speaker of the prompt."""

from pathlib import Path

import numpy as np

from dtm_hf.evaluation.extras import needs
from dtm_hf.evaluation.metric import BenchmarkItem, Speech, resampled
from dtm_hf.frontend.voice_embedding import VOICE_RATE, VoiceEncoder


class _EmbeddingSimilarity:
    """Cosine of the embeddings of speech and prompt; the prompt's is computed once."""

    name = "similarity"
    title = "speaker similarity"
    higher_is_better = True

    def __init__(self, sampling_rate: int):
        self.sampling_rate = sampling_rate
        self._prompts: dict[str, np.ndarray | None] = {}

    def __call__(self, speech: Speech, item: BenchmarkItem) -> tuple[float, float] | None:
        if item.id not in self._prompts:
            self._prompts[item.id] = self.embed(resampled(item.reference_audio, self.sampling_rate, VOICE_RATE))
        prompt = self._prompts[item.id]
        if prompt is None:
            return None
        spoken = self.embed(resampled(speech.waveform, speech.sampling_rate, VOICE_RATE))
        if spoken is None:
            return 0.0, 1.0
        return float(prompt @ spoken / (np.linalg.norm(prompt) * np.linalg.norm(spoken))), 1.0

    def embed(self, waveform: np.ndarray) -> np.ndarray | None:
        """Embedding `(E,)` of samples at 16 kHz; `None` if there is no voice in them."""
        raise NotImplementedError


class SpeakerSimilarity(_EmbeddingSimilarity):
    """
    Cosine of Resemblyzer's embeddings of speech and prompt (GE2E, its weights are in the package), on the CPU.

    In [0, 1]. Speech in which its voice-activity detector finds nothing counts as 0, a prompt like that has no figure.

    Args:
        sampling_rate (`int`, defaults to 24000): Rate of the prompts in Hz.
    """

    def __init__(self, sampling_rate: int = 24000):
        super().__init__(sampling_rate)
        self._encoder = VoiceEncoder()

    def embed(self, waveform: np.ndarray) -> np.ndarray | None:
        """Embedding `(256,)` of samples at 16 kHz; `None` if there is no voice in them."""
        return self._encoder(waveform)


class WavLMSpeakerSimilarity(_EmbeddingSimilarity):
    """
    Cosine of the embeddings of WavLM-large with f5_tts/eval/ecapa_tdnn.py on top: the figure of published tables.

    The network is built through `torch.hub` from s3prl, which has to be installed and reachable.

    Args:
        checkpoint (`str` or `Path`): `wavlm_large_finetune.pth` of UniSpeech's speaker verification.
        sampling_rate (`int`, defaults to 24000): Rate of the prompts in Hz.
        device (`str`, *optional*): A GPU where there is one.

    Raises:
        ValueError: for a checkpoint that leaves the classifier without weights.
    """

    def __init__(self, checkpoint: str | Path, sampling_rate: int = 24000, device: str | None = None):
        super().__init__(sampling_rate)
        import torch
        from f5_tts.eval.ecapa_tdnn import ECAPA_TDNN_SMALL

        from dtm_hf.weights import read_weights

        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        weights = read_weights(checkpoint).get("model", {})
        with needs("s3prl"):
            model = ECAPA_TDNN_SMALL(feat_dim=1024, feat_type="wavlm_large", config_path=None)
        # The checkpoint also holds the training loss: `strict` would refuse the official file.
        missing = model.load_state_dict(weights, strict=False).missing_keys
        missing = [key for key in missing if not key.startswith("feature_extract.")]
        if missing:
            raise ValueError(f"`checkpoint` {str(checkpoint)!r} lacks weights: {missing[:5]}.")
        self._model = model.to(self._device).eval()

    def embed(self, waveform: np.ndarray) -> np.ndarray | None:
        """Embedding `(256,)` of samples at 16 kHz."""
        import torch

        with torch.inference_mode():
            return self._model(torch.from_numpy(waveform)[None].to(self._device))[0].float().cpu().numpy()

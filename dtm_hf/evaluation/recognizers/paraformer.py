"""The recogniser of the published Chinese tables."""

from importlib.metadata import PackageNotFoundError, version

import numpy as np

from dtm_hf.evaluation.extras import needs
from dtm_hf.evaluation.metric import resampled

_RATE = 16000


class ParaformerRecognizer:
    """
    Paraformer through funasr, in simplified characters, as F5-TTS's Chinese tables have it.

    Args:
        model (`str`, defaults to `"paraformer-zh"`): Name in funasr's model zoo, or folder.
        device (`str`, *optional*): A GPU where there is one.

    Raises:
        ImportError: without the packages funasr and zhconv, which no extra brings.
    """

    normalization = "f5-tts"

    def __init__(self, model: str = "paraformer-zh", device: str | None = None):
        with needs("funasr", "zhconv"):
            import zhconv
            from funasr import AutoModel
        import torch

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = AutoModel(model=model, device=device, disable_update=True, disable_pbar=True)
        self._simplify = lambda text: zhconv.convert(text, "zh-cn")
        try:
            self.name = f"{model} (funasr {version('funasr')})"
        except PackageNotFoundError:
            self.name = f"{model} (funasr)"

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Text heard in mono samples `(T,)`."""
        samples = resampled(waveform, sampling_rate, _RATE)
        return self._simplify(self._model.generate(input=samples, fs=_RATE, disable_pbar=True)[0]["text"])

    def unheard(self, text: str) -> list[str]:
        """None: it writes any character."""
        return []

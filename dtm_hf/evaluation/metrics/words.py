"""What a recogniser hears, against what was to be said."""

import string
import unicodedata
from typing import Protocol

import numpy as np

from dtm_hf.evaluation.extras import EVAL_EXTRA, needs
from dtm_hf.evaluation.metric import BenchmarkItem, Speech
from dtm_hf.evaluation.metrics.sound import resampled

_RATE = 16000


class Recognizer(Protocol):
    """Turns speech into text."""

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Text heard in mono samples `(T,)`; an empty string if none."""
        ...


class WordErrorRate:
    """
    Substitutions, deletions and insertions over the words of the text; over its characters in Chinese.

    Args:
        recognizer ([`Recognizer`]): Who listens. Never a model that took part in training.
    """

    name = "wer"
    title = "WER"
    higher_is_better = False

    def __init__(self, recognizer: Recognizer):
        with needs(EVAL_EXTRA):
            import jiwer  # noqa: F401
        self.recognizer = recognizer

    def __call__(self, speech: Speech, item: BenchmarkItem) -> tuple[float, float] | None:
        import jiwer

        words = units(item.text, item.language)
        if not words:
            return None
        heard = units(self.recognizer.transcribe(speech.waveform, speech.sampling_rate), item.language)
        output = jiwer.process_words(" ".join(words), " ".join(heard))
        return float(output.substitutions + output.deletions + output.insertions), float(len(words))


def units(text: str, language: str) -> list[str]:
    """
    What errors are counted in: lower-case words without punctuation, in Chinese characters.

    As `run_asr_wer` of f5_tts/eval/utils_eval.py, which takes punctuation from a table of the package zhon: here it is
    ASCII punctuation and every character that Unicode calls punctuation or a symbol, which holds that table. Marks
    are dropped and not made into spaces: "don't" is "dont", "twenty-one" one word.
    """
    kept = "".join(c for c in text if c not in string.punctuation and unicodedata.category(c)[0] not in "PS")
    if is_chinese(language):
        return [character for character in kept if not character.isspace()]
    return kept.lower().split()


def is_chinese(language: str) -> bool:
    """Whether a language code such as `zh` or `zh-CN` is Chinese."""
    return language.lower().replace("_", "-").split("-")[0] == "zh"


class WhisperRecognizer:
    """
    Whisper through transformers, with five beams as F5-TTS's English tables have it.

    Args:
        model (`str`, defaults to `"openai/whisper-large-v3"`): Hub name or folder.
        language (`str`, defaults to `"en"`): Spoken language; ignored by a checkpoint that only knows English.
        device (`str`, *optional*): A GPU where there is one, in half precision.
    """

    def __init__(self, model: str = "openai/whisper-large-v3", language: str = "en", device: str | None = None):
        import torch
        from transformers import pipeline

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if device.startswith("cuda") else torch.float32
        self._pipeline = pipeline("automatic-speech-recognition", model=model, device=device, dtype=dtype)
        self._options = {"num_beams": 5}
        if getattr(self._pipeline.model.generation_config, "is_multilingual", True):
            self._options |= {"language": language, "task": "transcribe"}

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Text heard in mono samples `(T,)`."""
        samples = resampled(waveform, sampling_rate, _RATE)
        # Whisper looks at 30 s at a time: beyond, it goes on from the timestamps it predicts.
        long = len(samples) > 30 * _RATE
        heard = self._pipeline(
            {"raw": samples, "sampling_rate": _RATE}, return_timestamps=long, generate_kwargs=dict(self._options)
        )
        return heard["text"].strip()


class ParaformerRecognizer:
    """
    Paraformer through funasr, in simplified characters, as F5-TTS's Chinese tables have it.

    Args:
        model (`str`, defaults to `"paraformer-zh"`): Name in funasr's model zoo, or folder.
        device (`str`, *optional*): A GPU where there is one.

    Raises:
        ImportError: without the packages funasr and zhconv, which no extra brings.
    """

    def __init__(self, model: str = "paraformer-zh", device: str | None = None):
        with needs("funasr", "zhconv"):
            import zhconv
            from funasr import AutoModel
        import torch

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = AutoModel(model=model, device=device, disable_update=True, disable_pbar=True)
        self._simplify = lambda text: zhconv.convert(text, "zh-cn")

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Text heard in mono samples `(T,)`."""
        samples = resampled(waveform, sampling_rate, _RATE)
        return self._simplify(self._model.generate(input=samples, fs=_RATE, disable_pbar=True)[0]["text"])

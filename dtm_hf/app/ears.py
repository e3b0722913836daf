"""Who writes down what is said in a recording, where nobody was named for it."""

import logging
import threading

import gradio
import numpy as np

from dtm_hf.evaluation.recognizers import WhisperRecognizer

logger = logging.getLogger(__name__)

MODEL = "base"
SIZE = "145 MB"


class LateEars:
    """
    Whisper of a small size, in the language that it hears, loaded when the first recording comes: a page that nobody
    shows a recording waits for none, and downloads none.

    Args:
        local_files_only (`bool`, defaults to `False`): Nothing is downloaded at all.
    """

    def __init__(self, local_files_only: bool = False):
        self.local_files_only = local_files_only
        self._recognizer: WhisperRecognizer | None = None
        self._lock = threading.Lock()

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """
        Text heard in mono samples `(T,)`; an empty string if none.

        Raises:
            ValueError: if the model is not here and cannot be had.
        """
        with self._lock:
            if self._recognizer is None:
                self._recognizer = self._load()
        return self._recognizer.transcribe(waveform, sampling_rate)

    def _load(self) -> WhisperRecognizer:
        try:
            try:
                return WhisperRecognizer(MODEL, language=None, local_files_only=True)
            except ValueError:
                if self.local_files_only:
                    raise
            message = f"Downloading the recogniser whisper:{MODEL} ({SIZE}), which writes what is said in recordings."
            gradio.Info(message, duration=30)
            return WhisperRecognizer(MODEL, language=None)
        except (ValueError, ImportError) as error:
            logger.warning("the recogniser cannot be loaded: %s", error)
            raise ValueError(
                f"The recogniser whisper:{MODEL} cannot be loaded. Write what is said in the recording yourself."
            ) from error


__all__ = ["MODEL", "SIZE", "LateEars"]

"""A recogniser that hears any word."""

from pathlib import Path

import numpy as np

from dtm_hf.evaluation.extras import EVAL_EXTRA, needs
from dtm_hf.evaluation.metric import resampled

_RATE = 16000


class WhisperRecognizer:
    """
    Whisper through faster-whisper, with five beams as F5-TTS's English tables have it.

    Each clip is heard alone and without chance: no sampling when an answer looks bad (temperature 0 and no other), and
    no window of a long clip is told what the one before it said.

    Args:
        model (`str`, defaults to `"large-v3"`):
            A size such as `"base"` or `"tiny.en"`, the Hub name of a CTranslate2 model, or its folder.
        language (`str`, *optional*, defaults to `"en"`):
            Spoken language, or `None` for the one that each clip is heard in; a model that only knows English hears
            English.
        device (`str`, *optional*): `"cpu"` or `"cuda"`; a GPU where there is one.
        compute_type (`str`, *optional*): As CTranslate2 names it; `"int8"` on the CPU, `"float16"` on a GPU.
        threads (`int`, defaults to 0): On the CPU; 0: what `OMP_NUM_THREADS` says, else 4.
        local_files_only (`bool`, defaults to `False`): Download nothing.

    Raises:
        ValueError: for a model that is no CTranslate2 model, or cannot be downloaded.
        ImportError: without faster-whisper.
    """

    def __init__(
        self,
        model: str = "large-v3",
        language: str | None = "en",
        device: str | None = None,
        compute_type: str | None = None,
        threads: int = 0,
        local_files_only: bool = False,
    ):
        with needs(EVAL_EXTRA):
            import ctranslate2
            import faster_whisper

        device = device or ("cuda" if ctranslate2.get_cuda_device_count() else "cpu")
        compute_type = compute_type or ("float16" if device == "cuda" else "int8")
        folder = Path(model).expanduser()
        if folder.is_dir() and not (folder / "model.bin").is_file():
            raise ValueError(f"`model` {model!r} holds no CTranslate2 model: there is no model.bin in it.")
        try:
            self._model = faster_whisper.WhisperModel(
                str(folder) if folder.is_dir() else model,
                device=device,
                compute_type=compute_type,
                cpu_threads=threads,
                local_files_only=local_files_only,
            )
        # Hub errors are OSErrors or ValueErrors, those of CTranslate2 RuntimeErrors.
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"`model` {model!r} cannot be loaded as a Whisper model of faster-whisper; name a folder, a size such "
                f"as 'base', or a Hub repository that can be reached: {error}"
            ) from error
        self._language = language if self._model.model.is_multilingual else "en"
        self.normalization = "english" if self._language == "en" else "words"
        self.name = (
            f"whisper {folder.name if folder.is_dir() else model} (faster-whisper {faster_whisper.__version__}, "
            f"ctranslate2 {ctranslate2.__version__}, {compute_type}, {device})"
        )

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Text heard in mono samples `(T,)`; an empty string if none."""
        samples = resampled(waveform, sampling_rate, _RATE)
        segments, _ = self._model.transcribe(
            samples,
            language=self._language,
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            # Timestamps cost words. Whisper looks at 30 s at a time: beyond, it goes on from those it predicts.
            without_timestamps=len(samples) <= 30 * _RATE,
        )
        return "".join(segment.text for segment in segments).strip()

    def unheard(self, text: str) -> list[str]:
        """None: it spells what it hears."""
        return []

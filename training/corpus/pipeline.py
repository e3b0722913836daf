"""A pipeline of one's own as the engine of a corpus: it speaks as `python -m dtm_hf.synthesize` does."""

from functools import cached_property
from hashlib import sha256
from importlib.metadata import version

import numpy as np

from dtm_hf.training.corpus.engine import MissingProgramError, Unspeakable, check_voice


class Pipeline:
    """
    A pipeline with its packaged voices (`reference-NAME.wav` with what is said in `reference-NAME.txt`), in its own
    number of steps; `rng` draws the seed of its noise.

    Args:
        model (`str`, *optional*): Folder of the pipeline; the embedded one by default.
        partners (`tuple[str, ...]`): None of its affair.
    """

    voices: tuple[str, ...] = ()

    def __init__(self, model: str | None = None, partners: tuple[str, ...] = ()) -> None:
        self.model = model
        self.voices = tuple(self._spoken.voices)

    def require(self) -> None:
        if not self.voices:
            raise MissingProgramError(
                f"`model` must be a folder that packages voices (reference-NAME.wav with reference-NAME.txt), "
                f"but got {self._spoken.model!r}"
            )

    def speak(self, text: str, voice: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        check_voice(self, voice)
        spoken = self._spoken.speak(text, voice, int(rng.integers(2**63)))
        if spoken.error is not None:
            raise Unspeakable(spoken.error)
        return np.clip(spoken.audio, -1, 1).astype(np.float32), self._spoken.speaker.sampling_rate

    def about(self) -> dict[str, str]:
        voices = sha256("".join(voice.digest for voice in self._spoken.voices.values()).encode()).hexdigest()
        backbone = self._spoken.speaker.pipeline.backbone.fingerprint
        return {
            "version": f"dtm-hf {version('dtm-hf')}, backbone {backbone}, voices {voices[:16]}",
            "licence": "that of the model, as its card says",
            "package": "dtm-hf",
        }

    @cached_property
    def _spoken(self):
        from dtm_hf.synthesize.alone import ModelVoices

        return ModelVoices(self.model)

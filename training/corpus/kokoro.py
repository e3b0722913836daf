"""Kokoro-82M as the engine of a corpus: https://huggingface.co/hexgrad/Kokoro-82M, by onnxruntime on one thread."""

import functools
import importlib.util
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dtm_hf.training.corpus.engine import MissingProgramError, Unspeakable, check_voice

REPOSITORY = "onnx-community/Kokoro-82M-v1.0-ONNX"
SAMPLE_RATE = 24_000

# `a` is American and `b` British, `f` a woman and `m` a man.
VOICES = (
    *"af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sarah af_sky".split(),
    *"am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa".split(),
    *"bf_alice bf_emma bf_isabella bf_lily bm_daniel bm_fable bm_george bm_lewis".split(),
)

# Where the weights are, in a folder and in the repository.
_WEIGHTS = ("kokoro.onnx", "onnx/model_quantized.onnx")

# A voice is a table of style vectors, one for each number of phonemes, from 1 to 510.
_MAX_PHONEMES = 510
_STYLE_SIZE = 256

# The bounds of what a row's seed draws. Kokoro itself says a text the same way each time.
_LOG_SPEED = np.log(1.18)
_LOG_STYLE_ROW = np.log(1.5)
_BLENDED_ROWS = 0.5
_LARGEST_SHARE = 0.2


class Kokoro:
    """
    A neural synthesiser of 82 M parameters with 28 English voices, at 24 kHz.

    The same text and voice give the same waveform, so `rng` draws three things: the speed, within 18%; the row of the
    style table, up to half as many phonemes again or a third fewer than the text has; and, in one row of two, a share
    of up to 0.2 of another voice of the same accent and sex, which leaves the voice its name.

    Args:
        model (`str`, *optional*):
            Folder with `kokoro.onnx` and `voices/NAME.bin`, or the Hub name of a repository with
            `onnx/model_quantized.onnx` and `voices/NAME.bin`. Defaults to [`REPOSITORY`].
        partners (`tuple[str, ...]`):
            Voices that may be blended in; a voice that is not among them stays pure.
    """

    voices = VOICES

    def __init__(self, model: str | None = None, partners: tuple[str, ...] = ()) -> None:
        self.model = model or REPOSITORY
        self.partners = partners

    def require(self) -> None:
        for module in ("kokoro_onnx", "onnxruntime"):
            if importlib.util.find_spec(module) is None:
                raise MissingProgramError(f"`{module}` is not installed: run `pip install 'dtm-hf[corpus]'`")
        self._file(*_WEIGHTS)

    def speak(self, text: str, voice: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        check_voice(self, voice)
        tokenizer, session = self._loaded
        phonemes = tokenizer.phonemize(text, "en-gb" if voice.startswith("b") else "en-us")
        tokens = [token for phoneme in phonemes if (token := tokenizer.vocab.get(phoneme)) is not None]
        if not 0 < len(tokens) <= _MAX_PHONEMES:
            raise Unspeakable(f"`text` must have 1 to {_MAX_PHONEMES} phonemes, but {text!r} has {len(tokens)}")
        speed = np.exp(rng.uniform(-_LOG_SPEED, _LOG_SPEED))
        row = round(len(tokens) * np.exp(rng.uniform(-_LOG_STYLE_ROW, _LOG_STYLE_ROW)))
        row = min(max(row, 1), _MAX_PHONEMES) - 1
        style = self._styles(voice)[row]
        partners = [name for name in self.partners if name != voice and name[:2] == voice[:2]]
        share = rng.uniform(0, _LARGEST_SHARE) if rng.random() < _BLENDED_ROWS else 0.0
        if voice in self.partners and partners:
            style = (1 - share) * style + share * self._styles(partners[rng.integers(len(partners))])[row]
        # Exports differ in the name of the tokens. A zero, the padding, stands at both ends.
        (token_input,) = {entry.name for entry in session.get_inputs()} - {"style", "speed"}
        inputs = {
            token_input: np.array([[0, *tokens, 0]], np.int64),
            "style": style[None].astype(np.float32),
            "speed": np.array([speed], np.float32),
        }
        return session.run(None, inputs)[0].reshape(-1).astype(np.float32), SAMPLE_RATE

    def about(self) -> dict[str, str]:
        return {
            "version": f"Kokoro-82M v1.0, kokoro-onnx {version('kokoro-onnx')}, onnxruntime {version('onnxruntime')}",
            "licence": "Apache-2.0 for the weights; phonemes by eSpeak NG, GPL-3.0-or-later (the program only)",
            "package": "dtm-hf[corpus]",
        }

    @functools.cached_property
    def _loaded(self):
        self.require()
        import onnxruntime
        from kokoro_onnx.tokenizer import Tokenizer

        options = onnxruntime.SessionOptions()
        # Processes are the way to more cores: a shard each.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = self._file(*_WEIGHTS)
        return Tokenizer(), onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @functools.cache  # noqa: B019 (an engine lives as long as its process)
    def _styles(self, voice: str) -> np.ndarray:
        return np.fromfile(self._file(f"voices/{voice}.bin"), np.float32).reshape(_MAX_PHONEMES, _STYLE_SIZE)

    def _file(self, in_folder: str, in_repository: str | None = None) -> Path:
        if Path(self.model).is_dir():
            path = Path(self.model) / in_folder
            if not path.is_file():
                raise FileNotFoundError(f"`model` must be a folder with {in_folder}, but got {self.model}")
            return path
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.model, in_repository or in_folder))
        # What the Hub's client raises is one of these, whatever failed.
        except (OSError, ValueError) as error:
            raise ValueError(f"`model` must be a folder or a Hub name, but got {self.model!r}: {error}") from error

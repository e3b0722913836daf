"""A recogniser that is held to a vocabulary."""

import re
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dtm_hf.evaluation.extras import EVAL_EXTRA, needs
from dtm_hf.evaluation.metric import resampled

_RATE = 16000
# Seconds of near-silence on both sides: the recogniser's noise tracking needs a start.
_MARGIN_SECONDS = 0.2


def vocabulary_of(text: str) -> list[str]:
    """Lower-case words of an English text, in their order and with their apostrophes; numerals are words too."""
    return re.findall(r"[^\W_](?:['’]?[^\W_])*", text.lower().replace("’", "'"))


class VocabularyRecognizer:
    """
    pocketsphinx with a grammar that is any sequence of the given words, each as likely as the others.

    Args:
        vocabulary (`Sequence[str]`): Lower-case words. Those without a pronunciation are left out; `unheard` tells.

    Raises:
        ValueError: if no word has a pronunciation.
    """

    normalization = "words"

    def __init__(self, vocabulary: Sequence[str]):
        with needs(EVAL_EXTRA):
            from pocketsphinx import Decoder

        # A second pass for the best path takes longer than the first on unclear speech, and hears no better.
        self._decoder = Decoder(samprate=_RATE, loglevel="FATAL", lm=None, bestpath=False)
        self._words = {word for word in vocabulary if self._decoder.lookup_word(word) is not None}
        if not self._words:
            raise ValueError(f"`vocabulary` must hold words with a pronunciation, but got {list(vocabulary)[:10]}.")
        self.name = f"pocketsphinx {version('pocketsphinx')}, {len(self._words)} words"
        # A file: only there does the language weight apply to the probabilities. In JSGF, `(a | b)+` gives each word
        # the weight 1: many times as slow, and it hears words in breath.
        loop = [f"TRANSITION 0 0 {1 / len(self._words):.8f} {word}" for word in sorted(self._words)]
        lines = ["FSG_BEGIN words", "NUM_STATES 1", "START_STATE 0", "FINAL_STATE 0", *loop, "FSG_END", ""]
        with tempfile.TemporaryDirectory() as folder:
            grammar = Path(folder) / "words.fsg"
            grammar.write_text("\n".join(lines))
            self._decoder.add_fsg("words", self._decoder.read_fsg(str(grammar)))
        self._decoder.activate_search("words")

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Words heard in mono samples `(T,)`; an empty string if none."""
        samples = resampled(waveform, sampling_rate, _RATE)
        margin = np.zeros(int(_MARGIN_SECONDS * _RATE), dtype=np.float32)
        samples = np.concatenate([margin, samples, margin])
        # Digital silence has no logarithm; a fixed seed keeps the judgement repeatable.
        samples = samples + np.random.default_rng(0).normal(0, 1e-4, len(samples))
        pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
        # Its estimate of the noise outlives an utterance: 3 of 24 clips were heard otherwise in reverse order.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""

    def unheard(self, text: str) -> list[str]:
        """The words of a text, each once, that are not in its grammar."""
        return [word for word in dict.fromkeys(vocabulary_of(text)) if word not in self._words]

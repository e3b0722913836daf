"""What a recogniser hears, against what was to be said."""

import numpy as np

from dtm_hf.evaluation.extras import EVAL_EXTRA, needs
from dtm_hf.evaluation.metric import BenchmarkItem, Speech
from dtm_hf.evaluation.metrics.normalization import comparable
from dtm_hf.evaluation.recognizers import Recognizer


def word_error(
    recognizer: Recognizer, text: str, waveform: np.ndarray, sampling_rate: int
) -> tuple[float | None, str]:
    """
    Errors a word of a text that a speech `(T,)` should say, in the recogniser's own normalisation, and what was heard;
    `None` for a text that it cannot judge: one without words, or with a word that it never hears.
    """
    with needs(EVAL_EXTRA):
        import jiwer

    text_heard = recognizer.transcribe(waveform, sampling_rate)
    said, heard = comparable(text, text_heard, recognizer.normalization)
    judged = said and not recognizer.unheard(text)
    return (jiwer.wer(" ".join(said), " ".join(heard)) if judged else None), text_heard


class Ears:
    """
    A recogniser that several metrics share: it listens once to each speech.

    Args:
        recognizer ([`Recognizer`]): Who listens. Never a model that took part in training.
        normalization (`str`, *optional*): A key of `NORMALIZATIONS`; the recogniser's own by default.
    """

    def __init__(self, recognizer: Recognizer, normalization: str | None = None):
        with needs(EVAL_EXTRA):
            import jiwer  # noqa: F401
        self.recognizer = recognizer
        self.normalization = normalization or recognizer.normalization
        self._speech: Speech | None = None
        self._heard = ""

    @property
    def name(self) -> str:
        """Recogniser and normalisation, as a report names them."""
        return f"{self.recognizer.name}; texts compared as {self.normalization}"

    def compare(self, speech: Speech, item: BenchmarkItem) -> tuple[list[str], list[str]] | None:
        """
        Words of the text and words heard, as they are counted. `None` for a text without words, and for one with a
        word that the recogniser cannot hear at all: whoever says it, it would count as an error.
        """
        if self.recognizer.unheard(item.text):
            return None
        if self._speech is not speech:
            self._heard = self.recognizer.transcribe(speech.waveform, speech.sampling_rate)
            self._speech = speech
        said, heard = comparable(item.text, self._heard, self.normalization, item.language)
        return (said, heard) if said else None


class WordErrorRate:
    """
    Substitutions, deletions and insertions over the words of the text; over its characters in Chinese. In a summary an
    item has all its words wrong at most ([`~dtm_hf.evaluation.metric.Metric`]).

    Args:
        ears ([`Ears`] or [`Recognizer`]): Who listens.
    """

    name = "wer"
    title = "WER"
    higher_is_better = False
    # A recogniser that loops writes a hundred words where two were said, and would move the mean of a whole set.
    at_most = 1.0

    def __init__(self, ears: Ears | Recognizer):
        self.ears = ears if isinstance(ears, Ears) else Ears(ears)

    def __call__(self, speech: Speech, item: BenchmarkItem) -> tuple[float, float] | None:
        compared = self.ears.compare(speech, item)
        return None if compared is None else self._errors(*compared)

    def _errors(self, said: list[str], heard: list[str]) -> tuple[float, float]:
        import jiwer

        output = jiwer.process_words(" ".join(said), " ".join(heard))
        return float(output.substitutions + output.deletions + output.insertions), float(len(said))


class CharacterErrorRate(WordErrorRate):
    """
    The same over the characters of the words, blanks left out: a word that is nearly right costs little.

    Args:
        ears ([`Ears`] or [`Recognizer`]): Who listens.
    """

    name = "cer"
    title = "CER"

    def _errors(self, said: list[str], heard: list[str]) -> tuple[float, float]:
        return super()._errors(list("".join(said)), list("".join(heard)))

"""One row becomes one utterance, or says why not: encoded audio to samples, text to tokens."""

import io
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

# A file may end this much earlier than its header says: an MP3 encoder's delay and padding are no cut.
_CUT_SECONDS = 0.1
_SILENCE_RMS = 1e-4


class BadRow(ValueError):
    """A row that cannot be trained on; the message is the reason it is counted under."""


class WrongLength(ValueError):
    """A clip that is dropped for its length, which is no fault; the message is the reason it is counted under."""


@dataclass
class Utterance:
    """One training sample."""

    waveform: np.ndarray
    """Mono float32 samples at the rate of the feature extractor."""
    tokens: list[str]
    prompt_samples: int = 0
    """Length of the prompt in samples if this is a prompt+target pair, else 0."""


def decode_audio(content: bytes, sampling_rate: int, longest: float = float("inf")) -> np.ndarray:
    """
    Encoded audio, of any format libsndfile reads -> mono float32 samples at `sampling_rate` (Hz).

    Raises:
        BadRow: if it is undecodable, ends too early, holds NaN or infinity, or is silent.
        WrongLength: if its header says that it is longer than `longest` seconds; it is then not decoded.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            frames, rate = file.frames, file.samplerate
            if frames / rate > longest:
                raise WrongLength(f"longer than {longest} s")
            waveform = file.read(dtype="float32")
        if len(waveform) < frames - _CUT_SECONDS * rate:
            raise BadRow("audio cut off")
        if waveform.ndim > 1:
            waveform = waveform.mean(axis=1)
        energy = float(np.dot(waveform, waveform))
        if not np.isfinite(energy):
            raise BadRow("audio with NaN or infinity")
        if energy <= _SILENCE_RMS**2 * len(waveform):
            raise BadRow("silent audio")
        return waveform if rate == sampling_rate else soxr.resample(waveform, rate, sampling_rate)
    except (BadRow, WrongLength):
        raise
    except Exception as error:
        raise BadRow("undecodable audio") from error


class RowReader:
    """
    Makes utterances of rows.

    Args:
        arguments ([`DataArguments`]): Bounds of the length, and the budget that a clip must fit alone.
        tokenizer ([`F5Tokenizer`]): Splits the text; a text none of whose tokens it knows is refused.
        feature_extractor ([`F5FeatureExtractor`]): Gives rate and hop of the frames.
    """

    def __init__(self, arguments, tokenizer, feature_extractor):
        self.arguments = arguments
        self.tokenizer = tokenizer
        self.known = frozenset(token for token in tokenizer.get_vocab() if not token.isspace())
        self.sampling_rate = feature_extractor.sampling_rate
        self.hop_length = feature_extractor.hop_length

    def __call__(self, source, row) -> Utterance:
        """
        Args:
            source ([`Source`]): Where the row is from: it knows the columns.
            row: What [`Source.rows`] yielded.

        Raises:
            BadRow: if the row cannot be trained on.
            WrongLength: if the clip is outside `min_seconds`..`max_seconds`, or alone longer than a batch.
        """
        text = source.text(row)
        tokens = self.tokenizer.tokenize(text.strip()) if isinstance(text, str) else text
        if self.known.isdisjoint(tokens):
            raise BadRow("text without a known token")
        arguments = self.arguments
        waveform = decode_audio(source.audio(row), self.sampling_rate, arguments.max_seconds)
        seconds = len(waveform) / self.sampling_rate
        if seconds < arguments.min_seconds:
            raise WrongLength(f"shorter than {arguments.min_seconds} s")
        if seconds > arguments.max_seconds:
            raise WrongLength(f"longer than {arguments.max_seconds} s")
        utterance = Utterance(waveform, tokens)
        if self.frames(utterance) > arguments.frames_per_batch:
            raise WrongLength("more frames than a batch")
        return utterance

    def frames(self, utterance: Utterance) -> int:
        """Frames that the utterance takes in a batch, rounded up to `frame_multiple`."""
        frames = len(utterance.waveform) // self.hop_length + 1
        multiple = self.arguments.frame_multiple
        return -(-frames // multiple) * multiple

    def join(self, prompt: Utterance, target: Utterance) -> Utterance:
        """A prompt and a target of one speaker as one sample, as inference sees them."""
        # A prompt whose length is a whole number of hops puts the join on a frame, as at inference.
        prompt_samples = len(prompt.waveform) // self.hop_length * self.hop_length
        waveform = np.concatenate([prompt.waveform[:prompt_samples], target.waveform])
        return Utterance(waveform, [*prompt.tokens, " ", *target.tokens], prompt_samples)

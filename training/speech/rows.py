"""One row becomes one utterance, or says why not: encoded audio to samples, text to tokens."""

import io
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
import torch
from torch.nn.utils.rnn import pad_sequence

from dtm_hf.frontend.audio import MAX_CHANNELS, MAX_PEAK
from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.data.batches import SizedBatches
from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.loader import BatchLoader, open_sources
from dtm_hf.training.data.maker import Maker
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.data.sources import Source

# A file may end this much earlier than its header says: an MP3 encoder's delay and padding are no cut.
_CUT_SECONDS = 0.1
_SILENCE_RMS = 1e-4
# A header may say anything; no recording of speech is beyond these.
LONGEST_SECONDS = 600.0
_MAX_RATE = 384_000
_BLOCK_FRAMES = 2**16
_MAX_CHARACTERS = 20_000
# So many tokens may be said in a time as short as one likes.
_FEW_TOKENS = 100


@dataclass
class Utterance:
    """One training sample."""

    waveform: np.ndarray
    """Mono float32 samples at the rate of the feature extractor."""
    tokens: list[str]
    prompt_samples: int = 0
    """Length of the prompt in samples if this is a prompt+target pair, else 0."""


def decode_audio(content: bytes, sampling_rate: int, longest: float = LONGEST_SECONDS) -> np.ndarray:
    """
    Encoded audio, of any format libsndfile reads -> mono float32 samples at `sampling_rate` (Hz).

    Raises:
        BadRow: if it is undecodable, ends too early, holds NaN, infinity or what was never divided by its range, is
            silent, or has a rate or channels that no recording has.
        WrongLength: if its header says that it is longer than `longest` seconds; it is then not decoded.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            frames, rate = file.frames, file.samplerate
            if frames / rate > longest:
                raise WrongLength(f"longer than {longest} s")
            if rate > _MAX_RATE or file.channels > MAX_CHANNELS:
                raise BadRow(
                    "audio of a rate or channels that no recording has", f"{rate} Hz, {file.channels} channels"
                )
            # In blocks: eight channels, or a header that says too much, would be eight times what is kept.
            blocks = []
            while len(block := file.read(_BLOCK_FRAMES, dtype="float32")):
                blocks.append(block if block.ndim == 1 else block.mean(axis=1))
        waveform = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        if len(waveform) < frames - _CUT_SECONDS * rate:
            raise BadRow("audio cut off")
        energy = float(np.dot(waveform, waveform))
        if not np.isfinite(energy):
            raise BadRow("audio with NaN or infinity")
        if energy <= _SILENCE_RMS**2 * len(waveform):
            raise BadRow("silent audio")
        if float(np.abs(waveform).max()) > MAX_PEAK:
            raise BadRow("audio with samples far outside of [-1, 1]", f"a peak of {np.abs(waveform).max():g}")
        return waveform if rate == sampling_rate else soxr.resample(waveform, rate, sampling_rate)
    except (BadRow, WrongLength):
        raise
    except Exception as error:
        raise BadRow("undecodable audio") from error


class UtteranceMaker(Maker):
    """
    Makes utterances of rows, and batches of them for [`SpeechTask.batch`].

    Args:
        arguments ([`DataArguments`]): Bounds of the length, and the budget that a clip must fit alone.
        tokenizer ([`F5Tokenizer`]): Splits the text; a text none of whose tokens it knows is refused.
        feature_extractor ([`F5FeatureExtractor`]): Gives rate and hop of the frames.
    """

    def __init__(self, arguments: DataArguments, tokenizer, feature_extractor):
        self.arguments = arguments
        self.tokenizer = tokenizer
        self.ids = tokenizer.get_vocab()
        self.known = frozenset(token for token in self.ids if not token.isspace())
        self.sampling_rate = feature_extractor.sampling_rate
        self.hop_length = feature_extractor.hop_length

    def columns(self, source: SourceArguments) -> dict[str, str | None]:
        # Nobody asks who speaks where no pairs are made.
        return source.columns if self.arguments.pair_probability > 0 else source.columns | {"speaker": None}

    def make(self, source: Source, row: Row) -> Utterance:
        """
        Args:
            source ([`Source`]): Where the row is from: it knows the columns.
            row: What [`Source.rows`] yielded.

        Raises:
            BadRow: if the row cannot be trained on.
            WrongLength: if the clip is outside `min_seconds`..`max_seconds`, or alone longer than a batch.
        """
        text = source.text(row)
        if len(text) > _MAX_CHARACTERS:
            raise BadRow(f"text of more than {_MAX_CHARACTERS} characters")
        tokens = self.tokenizer.tokenize(text.strip()) if isinstance(text, str) else text
        if self.known.isdisjoint(tokens):
            raise BadRow("text without a known token")
        arguments = self.arguments
        waveform = decode_audio(source.content(row, "audio"), self.sampling_rate, arguments.max_seconds)
        seconds = len(waveform) / self.sampling_rate
        if seconds < arguments.min_seconds:
            raise WrongLength(f"shorter than {arguments.min_seconds} s")
        if seconds > arguments.max_seconds:
            raise WrongLength(f"longer than {arguments.max_seconds} s")
        if len(tokens) > max(len(waveform) // self.hop_length + 1, _FEW_TOKENS):
            raise BadRow("text that is longer than its audio", f"{len(tokens)} tokens in {seconds:.1f} s")
        utterance = Utterance(waveform, tokens)
        if self.size(utterance) > arguments.frames_per_batch:
            raise WrongLength("more frames than a batch")
        return utterance

    def group(self, source: Source, row: Row) -> str | None:
        return source.label(row, "speaker")

    def length(self, sample: Utterance) -> int:
        return len(sample.waveform)

    def size(self, sample: Utterance) -> int:
        """Frames that the utterance takes in a batch, rounded up to `frame_multiple`."""
        frames = len(sample.waveform) // self.hop_length + 1
        multiple = self.arguments.frame_multiple
        return -(-frames // multiple) * multiple

    def join(self, first: Utterance, second: Utterance) -> Utterance:
        """A prompt and a target of one speaker as one sample, as inference sees them."""
        # A prompt whose length is a whole number of hops puts the join on a frame, as at inference.
        prompt_samples = len(first.waveform) // self.hop_length * self.hop_length
        waveform = np.concatenate([first.waveform[:prompt_samples], second.waveform])
        return Utterance(waveform, [*first.tokens, " ", *second.tokens], prompt_samples)

    def collate(self, samples: list[Utterance]) -> dict[str, torch.Tensor]:
        """
        `waveform` `[B, T]`, `num_samples` `[B]`, `text_ids` `[B, N_text]` (-1 padded) and `prompt_samples` `[B]`.
        """
        unknown = self.tokenizer.unknown_id
        ids = [torch.tensor([self.ids.get(token, unknown) for token in item.tokens]) for item in samples]
        return {
            "waveform": pad_sequence([torch.from_numpy(item.waveform) for item in samples], batch_first=True),
            "num_samples": torch.tensor([len(item.waveform) for item in samples]),
            "text_ids": pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.padding_value),
            "prompt_samples": torch.tensor([item.prompt_samples for item in samples]),
        }


def build_loader(
    arguments: DataArguments,
    split: str,
    tokenizer,
    feature_extractor,
    *,
    endless: bool = True,
    maker: UtteranceMaker | None = None,
    **share,
) -> BatchLoader:
    """
    Batches of a split for one of `world_size` processes; see [`SizedBatches`] and [`UtteranceMaker.collate`].

    Args:
        arguments ([`DataArguments`]): Sources, bounds and budget.
        split (`str`): Every source must have it if it is `train_split`; else at least one.
        tokenizer ([`F5Tokenizer`]), feature_extractor ([`F5FeatureExtractor`]): Of the model that is trained.
        endless (`bool`): Without end, read by `num_workers` processes; if not, one pass in fixed order, read by this
            process.
        maker ([`UtteranceMaker`], *optional*): In the place of one of the three.
        share: `seed`, `rank` and `world_size` as in [`ResumableBatches`].

    Raises:
        ValueError: if a source, its split or a column is not there.
    """
    maker = maker or UtteranceMaker(arguments, tokenizer, feature_extractor)
    batches = SizedBatches(
        open_sources(arguments, split, maker.columns),
        maker,
        budget=arguments.frames_per_batch,
        max_samples=arguments.max_samples,
        bucket_size=arguments.bucket_size,
        join_probability=arguments.pair_probability,
        max_bad_fraction=arguments.max_bad_fraction,
        endless=endless,
        **share,
    )
    return BatchLoader(batches, arguments.num_workers if endless else 0)

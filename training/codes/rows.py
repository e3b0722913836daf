"""Rows to samples and batches: texts with their codes, and recordings alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from dtm_hf.training.codes.packing import unpack_codes
from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.data.batches import SizedBatches
from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.loader import BatchLoader, open_sources
from dtm_hf.training.data.maker import Maker
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.data.sources import Source
from dtm_hf.training.speech.rows import decode_audio


@dataclass
class CodedUtterance:
    """One training sample: token ids with 0 for padding, number of the voice, codes `(K, F)`."""

    token_ids: list[int]
    speaker_id: int
    codes: np.ndarray


class CodeMaker(Maker):
    """
    Makes coded utterances of rows.

    Args:
        tokenizer ([`F5Tokenizer`]): text to ids, of which the network's are one more.
        speakers (`list[str]`): the voices; with a single one any row is of it.
        codes_column (`str`): column of the codes.
        num_codebooks (`int`), codebook_size (`int`): of the codes that are wanted.
        max_text_length (`int`), max_audio_frames (`int`): longer rows are dropped.
    """

    def __init__(
        self,
        tokenizer,
        speakers: Sequence[str],
        codes_column: str,
        num_codebooks: int,
        codebook_size: int,
        max_text_length: int,
        max_audio_frames: int,
    ):
        self.tokenizer, self.codes_column = tokenizer, codes_column
        self.known = frozenset(token for token in tokenizer.get_vocab() if not token.isspace())
        self.speaker_ids = {name: number for number, name in enumerate(speakers)}
        self.num_codebooks, self.codebook_size = num_codebooks, codebook_size
        self.max_text_length, self.max_audio_frames = max_text_length, max_audio_frames

    def columns(self, source: SourceArguments) -> dict[str, str | None]:
        speaker = source.speaker_column if len(self.speaker_ids) > 1 else None
        return {"codes": self.codes_column, "text": source.text_column, "speaker": speaker}

    def make(self, source: Source, row: Row) -> CodedUtterance:
        """
        Raises:
            BadRow: if the row cannot be trained on.
            WrongLength: if text or codes are longer than the network serves.
        """
        codes = unpack_codes(source.value(row, "codes"), self.num_codebooks, self.codebook_size)
        text = source.text(row)
        tokens = self.tokenizer.tokenize(text.strip()) if isinstance(text, str) else text
        if self.known.isdisjoint(tokens):
            raise BadRow("text without a known token")
        if len(tokens) > self.max_text_length:
            raise WrongLength(f"text of more than {self.max_text_length} tokens")
        if codes.shape[1] > self.max_audio_frames:
            raise WrongLength(f"more than {self.max_audio_frames} frames")
        vocabulary, unknown = self.tokenizer.get_vocab(), self.tokenizer.unknown_id
        ids = [vocabulary.get(token, unknown) + 1 for token in tokens]
        return CodedUtterance(ids, self._speaker(source, row), codes)

    def _speaker(self, source: Source, row: Row) -> int:
        if len(self.speaker_ids) == 1:
            return 0
        name = source.label(row, "speaker")
        if name not in self.speaker_ids:
            raise BadRow("speaker that is not among `speakers`", None if name is None else name[:100])
        return self.speaker_ids[name]

    def size(self, sample: CodedUtterance) -> int:
        return sample.codes.shape[1]

    def collate(self, samples: list[CodedUtterance]) -> dict[str, torch.Tensor]:
        """`text_ids` `(B, L)`, `speaker_ids` `(B,)`, `codes` `(B, K, F)`, 0 at padding, and `num_frames` `(B,)`."""
        codes = pad_sequence([torch.from_numpy(item.codes.T.astype(np.int64)) for item in samples], batch_first=True)
        return {
            "text_ids": pad_sequence([torch.tensor(item.token_ids) for item in samples], batch_first=True),
            "speaker_ids": torch.tensor([item.speaker_id for item in samples]),
            "codes": codes.transpose(1, 2).contiguous(),
            "num_frames": torch.tensor([item.codes.shape[1] for item in samples]),
        }


class WaveformMaker(Maker):
    """
    Makes waveforms `(T,)` of rows.

    Args:
        arguments ([`DataArguments`]): bounds of the length.
        sampling_rate (`int`): in Hz.
        frame_size (`int`): samples of a frame, the unit of sizes.
    """

    def __init__(self, arguments: DataArguments, sampling_rate: int, frame_size: int):
        self.arguments, self.sampling_rate, self.frame_size = arguments, sampling_rate, frame_size

    def columns(self, source: SourceArguments) -> dict[str, str | None]:
        return source.columns | {"speaker": None}

    def make(self, source: Source, row: Row) -> np.ndarray:
        """
        Raises:
            BadRow: if the recording cannot be trained on.
            WrongLength: if it is outside `min_seconds`..`max_seconds`.
        """
        waveform = decode_audio(source.content(row, "audio"), self.sampling_rate, self.arguments.max_seconds)
        if len(waveform) < self.arguments.min_seconds * self.sampling_rate:
            raise WrongLength(f"shorter than {self.arguments.min_seconds} s")
        if self.size(waveform) > self.arguments.frames_per_batch:
            raise WrongLength("more frames than a batch")
        return waveform

    def size(self, sample: np.ndarray) -> int:
        return -(-len(sample) // self.frame_size)

    def collate(self, samples: list[np.ndarray]) -> dict[str, Any]:
        """`waveform` `(B, T)`, T whole frames, 0 at padding, and `num_samples` `(B,)`."""
        longest = max(map(self.size, samples)) * self.frame_size
        waveform = torch.zeros(len(samples), longest)
        for row, sample in zip(waveform, samples, strict=True):
            row[: len(sample)] = torch.from_numpy(sample)
        return {"waveform": waveform, "num_samples": torch.tensor([len(sample) for sample in samples])}


def build_code_loader(
    arguments: DataArguments, split: str, maker: Maker, *, endless: bool = True, **share
) -> BatchLoader:
    """
    Batches of a split for one of `world_size` processes; see [`SizedBatches`] and the maker's `collate`.

    Args:
        arguments ([`DataArguments`]): sources and budget, in frames of the codec.
        split (`str`): every source must have it if it is `train_split`; else at least one.
        maker ([`CodeMaker`] or [`WaveformMaker`]): makes the samples.
        endless (`bool`): without end, read by `num_workers` processes; if not, one pass in fixed order, read by this
            process.
        share: `seed`, `rank` and `world_size` as in [`~dtm_hf.training.data.resumable.ResumableBatches`].

    Raises:
        ValueError: if a source, its split or a column is not there.
    """
    batches = SizedBatches(
        open_sources(arguments, split, maker.columns),
        maker,
        budget=arguments.frames_per_batch,
        max_samples=arguments.max_samples,
        bucket_size=arguments.bucket_size,
        max_bad_fraction=arguments.max_bad_fraction,
        endless=endless,
        **share,
    )
    return BatchLoader(batches, arguments.num_workers if endless else 0)

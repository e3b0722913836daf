"""From rows of a streamed dataset to padded batches of waveforms and token ids, under a budget of frames."""

import io
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset

from dtm_hf.training.arguments import DataArguments


@dataclass
class Utterance:
    """One training sample."""

    waveform: np.ndarray
    """Mono samples at the rate of the feature extractor."""
    text: str
    prompt_samples: int = 0
    """Length of the prompt in samples if this is a prompt+target pair, else 0."""


class BadRow(ValueError):
    """A row that cannot be trained on; the message is the reason it is counted under."""


def load_stream(arguments: DataArguments, split: str):
    """A streamed dataset: local `split-*.parquet` shards if `dataset` is a folder, else a Hub name."""
    from datasets import Audio, load_dataset

    folder = Path(arguments.dataset)
    if folder.is_dir():
        shards = sorted(str(path) for path in folder.glob(f"{split}-*.parquet"))
        if not shards:
            raise ValueError(f"`dataset` {arguments.dataset!r} holds no {split}-*.parquet shards.")
        stream = load_dataset("parquet", data_files={split: shards}, split=split, streaming=True)
    else:
        stream = load_dataset(arguments.dataset, arguments.dataset_config, split=split, streaming=True)
    wanted = [arguments.audio_column, arguments.text_column]
    if arguments.speaker_column:
        wanted.append(arguments.speaker_column)
    columns = stream.column_names or wanted
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise ValueError(f"`dataset` {arguments.dataset!r} has no column {missing[0]!r}; it has {columns}.")
    # decode=False: soundfile reads the bytes; the datasets decoder would need a system FFmpeg.
    return stream.select_columns(wanted).cast_column(arguments.audio_column, Audio(decode=False))


def decode_audio(audio: dict | None, sampling_rate: int) -> np.ndarray:
    """Encoded bytes or a path -> mono float32 samples at `sampling_rate`; raises [`BadRow`] for what is not speech."""
    if not audio:
        raise BadRow("no audio")
    source = io.BytesIO(audio["bytes"]) if audio.get("bytes") else audio.get("path")
    try:
        waveform, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except Exception as error:
        raise BadRow("undecodable audio") from error
    waveform = waveform.mean(axis=1)
    if not np.isfinite(waveform).all():
        raise BadRow("audio with NaN or infinity")
    if len(waveform) == 0 or np.sqrt(np.mean(waveform**2)) < 1e-4:
        raise BadRow("silent audio")
    return waveform if rate == sampling_rate else soxr.resample(waveform, rate, sampling_rate)


class FrameBatches(IterableDataset):
    """
    Endless batches of about equal size in frames.

    Rows are decoded, optionally joined into prompt+target pairs of one speaker, gathered `bucket_size` at a time,
    sorted by length and cut into batches of at most `frames_per_batch` frames, padding included. A clip that is
    longer alone is dropped and counted; a pair that would be is not joined.

    Yields dictionaries of `waveform` `[B, T]`, `num_samples` `[B]`, `text_ids` `[B, N_text]` (-1 padded),
    `prompt_samples` `[B]` and `bad_rows` (reason -> count since the last batch).

    Raises:
        ValueError: if no row of a whole epoch can be trained on.
    """

    def __init__(
        self, stream, arguments: DataArguments, tokenizer, feature_extractor, seed: int, endless: bool = True
    ):
        super().__init__()
        self.stream = stream
        self.arguments = arguments
        self.tokenizer = tokenizer
        self.sampling_rate = feature_extractor.sampling_rate
        self.hop_length = feature_extractor.hop_length
        self.seed = seed
        self.endless = endless

    def __iter__(self) -> Iterator[dict]:
        worker = torch.utils.data.get_worker_info()
        rng = random.Random(f"{self.seed}-{worker.id if worker else 0}")
        self._bad_rows: Counter = Counter()
        pool: list[Utterance] = []
        for utterance in self._utterances(rng):
            pool.append(utterance)
            if len(pool) >= self.arguments.bucket_size:
                yield from self._batches(pool, rng)
                pool = []
        yield from self._batches(pool, rng)

    def _utterances(self, rng: random.Random) -> Iterator[Utterance]:
        epoch = 0
        while True:
            stream = self.stream
            if self.endless:
                # Shards change places, rows inside them stay: they were shuffled when written. One shard at a time:
                # datasets otherwise interleaves ten, and sleeps five seconds after each ten.
                stream = stream.shuffle(seed=self.seed, buffer_size=1, max_buffer_input_shards=1)
            stream.set_epoch(epoch)
            rows, read, previous = 0, 0, {}
            for row in stream:
                rows += 1
                try:
                    utterance = self._read(row)
                except BadRow as reason:
                    self._bad_rows[str(reason)] += 1
                    continue
                read += 1
                prompt = None
                speaker = row[self.arguments.speaker_column] if self.arguments.speaker_column else None
                if self.arguments.pair_probability > 0 and speaker is not None:
                    prompt, previous[speaker] = previous.get(speaker), utterance
                pair = None
                if prompt is not None and rng.random() < self.arguments.pair_probability:
                    pair = self._join(prompt, utterance)
                fits = pair is not None and self._frames(pair) <= self.arguments.frames_per_batch
                yield pair if fits else utterance
            if not self.endless or rows == 0:
                return
            if read == 0:
                raise ValueError(f"`dataset`: none of {rows} rows can be trained on: {dict(self._bad_rows)}.")
            epoch += 1

    def _read(self, row: dict) -> Utterance:
        waveform = decode_audio(row[self.arguments.audio_column], self.sampling_rate)
        seconds = len(waveform) / self.sampling_rate
        if not self.arguments.min_seconds <= seconds <= self.arguments.max_seconds:
            raise BadRow(f"outside {self.arguments.min_seconds}-{self.arguments.max_seconds} s")
        text = (row[self.arguments.text_column] or "").strip()
        unknown = set(self.tokenizer.unknown_characters(text))
        if all(token in unknown or token.isspace() for token in self.tokenizer.tokenize(text)):
            raise BadRow("text without a known token")
        utterance = Utterance(waveform, text)
        if self._frames(utterance) > self.arguments.frames_per_batch:
            raise BadRow("more frames than a batch")
        return utterance

    def _frames(self, utterance: Utterance) -> int:
        frames = len(utterance.waveform) // self.hop_length + 1
        multiple = self.arguments.frame_multiple
        return -(-frames // multiple) * multiple

    def _join(self, prompt: Utterance, target: Utterance) -> Utterance:
        # A prompt whose length is a whole number of hops puts the join on a frame, as at inference.
        prompt_samples = len(prompt.waveform) // self.hop_length * self.hop_length
        waveform = np.concatenate([prompt.waveform[:prompt_samples], target.waveform])
        return Utterance(waveform, f"{prompt.text} {target.text}", prompt_samples)

    def _batches(self, pool: list[Utterance], rng: random.Random) -> Iterator[dict]:
        batches: list[list[Utterance]] = []
        for utterance in sorted(pool, key=lambda item: len(item.waveform)):
            # Sorted, so the newest utterance is the longest: it sets the padded size.
            frames = self._frames(utterance)
            full = batches and (
                (len(batches[-1]) + 1) * frames > self.arguments.frames_per_batch
                or len(batches[-1]) >= self.arguments.max_samples
            )
            if not batches or full:
                batches.append([])
            batches[-1].append(utterance)
        rng.shuffle(batches)
        for batch in batches:
            yield self._collate(batch)

    def _collate(self, batch: list[Utterance]) -> dict:
        bad_rows, self._bad_rows = dict(self._bad_rows), Counter()
        return {
            "waveform": pad_sequence([torch.from_numpy(item.waveform) for item in batch], batch_first=True),
            "num_samples": torch.tensor([len(item.waveform) for item in batch]),
            "text_ids": self.tokenizer([item.text for item in batch], return_tensors="pt"),
            "prompt_samples": torch.tensor([item.prompt_samples for item in batch]),
            "bad_rows": bad_rows,
            "dropped": {},
            "rows": 0,
            "bad_row_details": [],
        }

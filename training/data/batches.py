"""From utterances to padded batches under a budget of frames, in an order that can be taken up again anywhere."""

import random
from collections import Counter
from collections.abc import Iterator

import torch
from torch.nn.utils.rnn import pad_sequence

from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.resumable import ResumableBatches, RowCollector
from dtm_hf.training.data.rows import RowReader, Utterance
from dtm_hf.training.data.sources import Source
from dtm_hf.training.data.stream import SourceStream


class Window(RowCollector):
    """
    The utterances that are sorted by length together, and what befell the rows between them.

    All that is random in a window comes from a generator of its own, and pairs are made inside it: so it is the same
    each time that it is read from the same places of its sources.

    Args:
        streams (`list[SourceStream]`): Where rows are read from, each by its weight.
        read ([`RowReader`]): Makes utterances of rows.
        number (`int`): Number of the window in the stream of this reader.
        rng (`random.Random`): Its generator.
    """

    def __init__(self, streams: list[SourceStream], read: RowReader, number: int, rng: random.Random):
        super().__init__(streams, rng)
        self.read, self.number = read, number
        self.start = [stream.state() for stream in streams]
        self.previous: dict[tuple[int, str], Utterance] = {}

    def make(self, stream: SourceStream, row: Row) -> tuple[Utterance, str | None]:
        """An utterance and its speaker."""
        return self.read(stream.source, row), stream.source.speaker(row)

    def keep(self, stream: SourceStream, made: tuple[Utterance, str | None]) -> None:
        utterance, speaker = made
        self.samples.append(self._paired(utterance, (stream.number, speaker)))

    def _paired(self, utterance: Utterance, speaker: tuple[int, str | None]) -> Utterance:
        """The utterance, or a pair with the one before it of the same speaker if the draw and the budget allow it."""
        probability = self.read.arguments.pair_probability
        if probability == 0 or speaker[1] is None:
            return utterance
        prompt, self.previous[speaker] = self.previous.get(speaker), utterance
        if prompt is None or self.rng.random() >= probability:
            return utterance
        pair = self.read.join(prompt, utterance)
        return pair if self.read.frames(pair) <= self.read.arguments.frames_per_batch else utterance

    def batches(self) -> list[list[Utterance]]:
        """All utterances in batches of like length, none above the budget; the batches are shuffled."""
        arguments = self.read.arguments
        batches: list[list[Utterance]] = []
        for utterance in sorted(self.samples, key=lambda item: len(item.waveform)):
            # Sorted, so the newest utterance is the longest: it sets the padded size.
            frames = self.read.frames(utterance)
            full = batches and (
                (len(batches[-1]) + 1) * frames > arguments.frames_per_batch
                or len(batches[-1]) >= arguments.max_samples
            )
            if not batches or full:
                batches.append([])
            batches[-1].append(utterance)
        self.samples, self.previous = [], {}
        self.rng.shuffle(batches)
        return batches


class FrameBatches(ResumableBatches):
    """
    Batches of about equal size in frames, of the share that one worker of one rank has in the data.

    Rows of the sources are gathered `bucket_size` utterances at a time, sorted by length and cut into batches of at
    most `frames_per_batch` frames, padding included. While the batches of a window are handed out, the next window is
    read bit by bit, so that each batch takes about the same time.

    Yields dictionaries of `waveform` `[B, T]`, `num_samples` `[B]`, `text_ids` `[B, N_text]` (-1 padded),
    `prompt_samples` `[B]`, and what was read since the last batch: `rows`, `bad_rows` and `dropped` (reason -> count)
    and `bad_row_details`, a list of `reason`, `source`, `shard` and `row`.

    `state_dict` is the place of the next batch: where the sources stood when its window began, and how many batches of
    the window have been handed out. A stream that has loaded it reads the window again and goes on with the same
    batches, bit for bit.

    Args:
        sources (`list[Source]`): Where rows are from.
        arguments ([`DataArguments`]): Budget, bounds and shares.
        tokenizer ([`F5Tokenizer`]): Gives the ids.
        feature_extractor ([`F5FeatureExtractor`]): Gives rate and hop of the frames.
        share: `seed`, `rank`, `world_size` and `endless` as in [`ResumableBatches`].

    Raises:
        ValueError: while it is iterated, if more than `max_bad_fraction` of the rows of a source are bad, or none is
            usable.
    """

    def __init__(
        self,
        sources: list[Source],
        arguments,
        tokenizer,
        feature_extractor,
        **share,
    ):
        super().__init__(sources, max_bad_fraction=arguments.max_bad_fraction, **share)
        self.arguments = arguments
        self.read = RowReader(arguments, tokenizer, feature_extractor)
        self.ids = tokenizer.get_vocab()
        self.unknown_id, self.padding_value = tokenizer.unknown_id, tokenizer.padding_value

    def _iterate(self, window: int = 0, yielded: int = 0, sources: list[dict] | None = None) -> Iterator[dict]:
        reader, streams = self._open(sources)

        def begin(number: int) -> Window:
            return Window(streams, self.read, number, random.Random(f"{self.seed}-{reader.number}-{number}"))

        current, size = begin(window), self.arguments.bucket_size
        current.fill(size)
        while batches := current.batches():
            following = begin(current.number + 1)
            for batch in batches[:yielded]:
                batch.clear()
            for count in range(yielded, len(batches)):
                following.fill(size * (count + 1 - yielded) // (len(batches) - yielded))
                self._place = {"window": current.number, "yielded": count + 1, "sources": current.start}
                last = count + 1 == len(batches)
                if last:
                    self._place = {"window": following.number, "yielded": 0, "sources": following.start}
                counts = [current.counts] if count == 0 else []
                if last and not following.samples:
                    counts.append(following.counts)
                yield self._collate(batches[count], counts)
                batches[count].clear()
            # With another budget than the state was saved with, the window may have fewer batches than were taken.
            following.fill(size)
            current, yielded = following, 0

    def _collate(self, batch: list[Utterance], counts: list[dict]) -> dict:
        ids = [torch.tensor([self.ids.get(token, self.unknown_id) for token in item.tokens]) for item in batch]
        return {
            "waveform": pad_sequence([torch.from_numpy(item.waveform) for item in batch], batch_first=True),
            "num_samples": torch.tensor([len(item.waveform) for item in batch]),
            "text_ids": pad_sequence(ids, batch_first=True, padding_value=self.padding_value),
            "prompt_samples": torch.tensor([item.prompt_samples for item in batch]),
            "rows": sum(count["rows"] for count in counts),
            "bad_rows": dict(sum((count["bad_rows"] for count in counts), Counter())),
            "dropped": dict(sum((count["dropped"] for count in counts), Counter())),
            "bad_row_details": [detail for count in counts for detail in count["bad_row_details"]],
        }

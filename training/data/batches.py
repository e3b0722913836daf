"""Samples in batches, under a budget or of a fixed number, in an order that can be taken up again anywhere."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.maker import Maker
from dtm_hf.training.data.resumable import ResumableBatches, RowCollector
from dtm_hf.training.data.sources import Source
from dtm_hf.training.data.stream import SourceStream


class _Bucket(RowCollector):
    """
    The samples that are sorted by length together, and what befell the rows between them.

    All that is random in a bucket comes from a generator of its own, and samples are joined inside it: so it is the
    same each time that it is read from the same places of its sources.

    Args:
        streams (`list[SourceStream]`): Where rows are read from, each by its weight.
        batches ([`SizedBatches`]): Whose maker, budget and shares it goes by.
        number (`int`): Number of the bucket in the stream of this reader.
        rng (`random.Random`): Its generator.
    """

    def __init__(self, streams: list[SourceStream], batches: "SizedBatches", number: int, rng: random.Random):
        super().__init__(streams, rng)
        self.of, self.maker, self.number = batches, batches.maker, number
        self.start = [stream.state() for stream in streams]
        self.previous: dict[tuple[int, str], Any] = {}

    def make(self, stream: SourceStream, row: Row) -> tuple[Any, str | None]:
        """A sample and its group."""
        return self.maker.make(stream.source, row), self.maker.group(stream.source, row)

    def keep(self, stream: SourceStream, made: tuple[Any, str | None]) -> None:
        sample, group = made
        self.samples.append(sample if group is None else self._joined(sample, (stream.number, group)))

    def _joined(self, sample: Any, group: tuple[int, str]) -> Any:
        """The sample, or one with that before it of the same group if the draw and the budget allow it."""
        if self.of.join_probability == 0:
            return sample
        before, self.previous[group] = self.previous.get(group), sample
        if before is None or self.rng.random() >= self.of.join_probability:
            return sample
        joined = self.maker.join(before, sample)
        return joined if self.maker.size(joined) <= self.of.budget else sample

    def batches(self) -> list[list]:
        """All samples in batches of like length, none above the budget; the batches are shuffled."""
        batches: list[list] = []
        for sample in sorted(self.samples, key=self.maker.length):
            # Sorted, so the newest sample is the longest: it sets the padded size.
            size = self.maker.size(sample)
            full = batches and (
                (len(batches[-1]) + 1) * size > self.of.budget or len(batches[-1]) >= self.of.max_samples
            )
            if not batches or full:
                batches.append([])
            batches[-1].append(sample)
        self.samples, self.previous = [], {}
        self.rng.shuffle(batches)
        return batches


class SizedBatches(ResumableBatches):
    """
    Batches of about equal size, of the share that one worker of one rank has in the data.

    Rows of the sources are gathered `bucket_size` samples at a time, sorted by length and cut into batches of at most
    `budget`, padding included. While the batches of a bucket are handed out, the next bucket is read bit by bit, so
    that each batch takes about the same time.

    Yields what [`Maker.collate`] makes of the samples, and what was read since the last batch: `rows`, `bad_rows` and
    `dropped` (reason -> count) and `bad_row_details`, a list of `reason`, `source`, `shard` and `row`.

    `state_dict` is the place of the next batch: where the sources stood when its bucket began, and how many batches of
    the bucket have been handed out. A stream that has loaded it reads the bucket again and goes on with the same
    batches, bit for bit.

    Args:
        sources (`list[Source]`): Where rows are from.
        maker ([`Maker`]): Makes samples of rows.
        budget (`int`): Size of a batch at most, padding included.
        max_samples (`int`): Samples of a batch at most.
        bucket_size (`int`): Samples that are sorted together.
        join_probability (`float`, defaults to 0.0): Share of samples that are joined with one of their group.
        share: `seed`, `rank`, `world_size`, `endless` and `max_bad_fraction` as in [`ResumableBatches`].

    Raises:
        ValueError: while it is iterated, if more than `max_bad_fraction` of the rows of a source are bad, or none is
            usable.
    """

    def __init__(
        self,
        sources: list[Source],
        maker: Maker,
        *,
        budget: int,
        max_samples: int,
        bucket_size: int,
        join_probability: float = 0.0,
        **share,
    ):
        super().__init__(sources, **share)
        self.maker, self.budget, self.max_samples = maker, budget, max_samples
        self.bucket_size, self.join_probability = bucket_size, join_probability

    def _iterate(self, window: int = 0, yielded: int = 0, sources: list[dict] | None = None) -> Iterator[dict]:
        reader, streams = self._open(sources)

        def begin(number: int) -> _Bucket:
            return _Bucket(streams, self, number, random.Random(f"{self.seed}-{reader.number}-{number}"))

        current, size = begin(window), self.bucket_size
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
                yield self.maker.collate(batches[count]) | _added_up(counts)
                batches[count].clear()
            # With another budget than the state was saved with, the bucket may have fewer batches than were taken.
            following.fill(size)
            current, yielded = following, 0


class EvenBatches(ResumableBatches):
    """
    Batches of `batch_size` samples, of the share that one worker of one rank has in the data. Of a pass that ends, the
    last batch may be smaller.

    Yields what [`Maker.collate`] makes of the samples, and what was read for the batch as [`SizedBatches`] has it.
    `state_dict` is the number of the next batch and where the sources stand.

    Args:
        sources (`list[Source]`): where rows are from, each by its weight.
        maker ([`Maker`]): makes samples of rows.
        batch_size (`int`): samples of a batch.
        min_size (`int`, defaults to 1): a last batch of fewer samples is left out.
        share: `seed`, `rank`, `world_size`, `endless` and `max_bad_fraction` as in [`ResumableBatches`].

    Raises:
        ValueError: while it is iterated, if more than `max_bad_fraction` of the rows of a source are bad, or none is
            usable.
    """

    def __init__(self, sources: list[Source], maker: Maker, batch_size: int, min_size: int = 1, **share):
        super().__init__(sources, **share)
        self.maker, self.batch_size, self.min_size = maker, batch_size, min_size

    def _iterate(self, number: int = 0, sources: list[dict] | None = None) -> Iterator[dict]:
        reader, streams = self._open(sources)
        while True:
            batch = _Batch(streams, self.maker, random.Random(f"{self.seed}-{reader.number}-{number}"))
            batch.fill(self.batch_size)
            if len(batch.samples) < self.min_size:
                return
            number += 1
            self._place = {"number": number, "sources": [stream.state() for stream in streams]}
            yield self.maker.collate(batch.samples) | _added_up([batch.counts])


class _Batch(RowCollector):
    """The samples of one batch."""

    def __init__(self, streams: list[SourceStream], maker: Maker, rng: random.Random):
        super().__init__(streams, rng)
        self.maker = maker

    def make(self, stream: SourceStream, row: Row) -> Any:
        return self.maker.make(stream.source, row)


def _added_up(counts: list[dict]) -> dict:
    return {
        "rows": sum(count["rows"] for count in counts),
        "bad_rows": dict(sum((count["bad_rows"] for count in counts), Counter())),
        "dropped": dict(sum((count["dropped"] for count in counts), Counter())),
        "bad_row_details": [detail for count in counts for detail in count["bad_row_details"]],
    }

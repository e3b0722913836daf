"""The rows of one source as one reader of many sees them: their order, the place in it, and what became of them."""

import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.sources import Source, UnreadableShard

UNREADABLE = "unreadable shard"
# From so many rows on, their share of bad ones is looked at; that of a whole source always.
_MIN_ROWS = 200
# Rows without one usable row between them, after which a source is given up.
_MAX_USELESS_ROWS = 10_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """One of the processes that share the data: its number among all of all ranks, and how many there are."""

    number: int = 0
    count: int = 1


@dataclass(frozen=True)
class Item:
    """A row and where it is from; `row` is `None` for a shard, or the rest of one, that cannot be read."""

    shard: str
    index: int
    row: Row | None


class SourceStream:
    """
    An iterator over the rows of a source, without end or for one pass.

    Each epoch has a permutation of the shards, the same for all readers. Reader w of W takes every W-th shard of it
    from the w-th on; if there are fewer shards than readers, every W-th row of all of them. So the readers' rows of an
    epoch are all its rows, each once.

    Args:
        source ([`Source`]): What is read.
        number (`int`): Number of the source among the sources of the run.
        seed (`int`): Seed of the permutations.
        reader ([`Reader`]): Which share is read.
        endless (`bool`): Begin the next epoch after the last row; if not, shards keep their order.
        max_bad_fraction (`float`): Share of bad rows above which the stream raises.

    Raises:
        ValueError: from `next`, if too many rows are bad, or none is usable.
    """

    def __init__(
        self, source: Source, number: int, seed: int, reader: Reader, endless: bool, max_bad_fraction: float = 1.0
    ):
        self.source = source
        self.number = number
        self.seed = seed
        self.reader = reader
        self.endless = endless
        self.max_bad_fraction = max_bad_fraction
        self.load_state({"epoch": 0, "place": 0, "passed": 0, "start": 0, "rows": 0, "bad": {}, "dropped": {}})

    def state(self) -> dict:
        """The place of the next row, and the counts so far; JSON can hold it."""
        counts = {"rows": self.rows, "bad": dict(self.bad), "dropped": dict(self.dropped)}
        place = {"epoch": self.epoch, "place": self.place, "passed": self.passed, "start": self.start}
        return place | counts

    def load_state(self, state: dict) -> None:
        """Go to where another stream was when its `state` was called."""
        # Number of the epoch, number of the shard in it, rows in the shards before it, rows before the next in it.
        self.epoch, self.place = state["epoch"], state["place"]
        self.passed, self.start = state["passed"], state["start"]
        self.rows, self.bad, self.dropped = state["rows"], Counter(state["bad"]), Counter(state["dropped"])
        self._open: Iterator[tuple[int, Row]] | None = None
        self._shards = self._order()
        self._last_bad = "none yet"
        self._useless: set[int] = set()
        self._last_usable = (self._usable, self.rows)

    @property
    def exhausted(self) -> bool:
        return not self.endless and self.epoch > 0

    @property
    def _usable(self) -> int:
        return self.rows - self._bad_rows - self.dropped.total()

    @property
    def _bad_rows(self) -> int:
        # How many rows an unreadable shard held is unknown.
        return self.bad.total() - self.bad[UNREADABLE]

    def __iter__(self) -> "SourceStream":
        return self

    def __next__(self) -> Item:
        while not self.exhausted:
            if self.place == len(self._shards):
                self._end_epoch()
                continue
            shard = self.source.shards[self._shards[self.place]]
            if self._open is None:
                self._open = self.source.rows(shard, self.start)
            try:
                index, row = next(self._open)
            except StopIteration:
                self._leave_shard()
                continue
            except UnreadableShard as error:
                logger.warning("Shard %s of %r is skipped: %s", shard.name, self.source.arguments.dataset, error)
                item = Item(shard.name, self.start, None)
                self.bad[UNREADABLE] += 1
                self._leave_shard()
                return item
            number = self.passed + self.start
            self.start += 1
            if self._whole_shards or number % self.reader.count == self.reader.number:
                self.rows += 1
                return Item(shard.name, index, row)
        raise StopIteration

    def count_bad(self, reason: str, item: Item, detail: str | None = None) -> None:
        """The row that came last is bad."""
        self.bad[reason] += 1
        more = "" if detail is None else f": {detail}"
        self._last_bad = f"row {item.index} of {item.shard} ({reason}{more})"
        logger.info("Skipped in %r: %s", self.source.arguments.dataset, self._last_bad)
        # Three standard errors above the limit, so that the first rows stop no run by chance; at the end of an epoch
        # the limit itself holds.
        limit = self.max_bad_fraction
        margin = 3 * (limit * (1 - limit) * self.rows) ** 0.5
        if self.rows >= _MIN_ROWS and self._bad_rows > limit * self.rows + margin:
            raise ValueError(self._summary())

    def count_dropped(self, reason: str) -> None:
        """The row that came last is dropped for its length."""
        self.dropped[reason] += 1

    # Order

    @property
    def _whole_shards(self) -> bool:
        return len(self.source.shards) >= self.reader.count

    def _order(self) -> list[int]:
        order = list(range(len(self.source.shards)))
        if self.endless:
            random.Random(f"{self.seed}-{self.number}-{self.epoch}").shuffle(order)
        return order[self.reader.number :: self.reader.count] if self._whole_shards else order

    def _leave_shard(self) -> None:
        """Go to the next one. Raises if no shard, or none of very many rows, had a usable row."""
        shard = self._shards[self.place]
        self._open, self.place, self.passed, self.start = None, self.place + 1, self.passed + self.start, 0
        usable, rows = self._last_usable
        if self._usable > usable:
            self._last_usable, self._useless = (self._usable, self.rows), set()
            return
        self._useless.add(shard)
        if not self.endless and self.reader.count > 1:
            return
        if len(self._useless) == len(self.source.shards) or self.rows - rows >= _MAX_USELESS_ROWS:
            raise ValueError(
                f"`dataset` {self.source.arguments.dataset!r}: none of {self.rows - rows} rows in "
                f"{len(self._useless)} shards can be trained on. {self._reasons()}"
            )

    def _end_epoch(self) -> None:
        self.epoch, self.place, self.passed, self.start = self.epoch + 1, 0, 0, 0
        self._shards = self._order()
        enough = self.reader.count == 1 or self.rows >= _MIN_ROWS
        if enough and self._bad_rows > self.max_bad_fraction * self.rows:
            raise ValueError(self._summary())

    # Messages

    def _summary(self) -> str:
        return (
            f"`dataset` {self.source.arguments.dataset!r}: {self._bad_rows} of {self.rows} rows cannot be trained on, "
            f"more than `max_bad_fraction` {self.max_bad_fraction}. {self._reasons()} The last: {self._last_bad}."
        )

    def _reasons(self) -> str:
        """What became of the rows, the most frequent first."""
        if self.reader.count > self.rows and not self.bad and not self.dropped:
            return f"It holds fewer rows than the {self.reader.count} processes that read."
        counts = [f"{count} {reason}" for reason, count in (self.bad + self.dropped).most_common()]
        return f"Reasons: {', '.join(counts)}." if counts else "It is empty."

"""What all batches of rows share: rows from weighted sources, what befell them, and a place to go on from."""

import copy
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.data.sources import Source
from dtm_hf.training.data.stream import UNREADABLE, Item, Reader, SourceStream


class RowCollector(ABC):
    """
    Samples made of rows, and what befell the rows between them.

    Args:
        streams (`list[SourceStream]`): Where rows are read from, each by its weight.
        rng (`random.Random`): Chooses among the streams.
    """

    def __init__(self, streams: list[SourceStream], rng: random.Random):
        self.streams, self.rng = streams, rng
        self.samples: list = []
        self.counts = {"rows": 0, "bad_rows": Counter(), "dropped": Counter(), "bad_row_details": []}

    @abstractmethod
    def make(self, stream: SourceStream, row: Row) -> Any:
        """
        What is made of a row, for [`~RowCollector.keep`].

        Raises:
            WrongLength: if the row is dropped.
            BadRow: or anything else, if it is bad.
        """

    def keep(self, stream: SourceStream, made: Any) -> None:
        """Put what was made of a good row to the samples."""
        self.samples.append(made)

    def fill(self, size: int) -> None:
        """Read on until there are `size` samples, or no more rows."""
        while len(self.samples) < size:
            live = [stream for stream in self.streams if not stream.exhausted]
            if not live:
                return
            if len(live) > 1:
                live = self.rng.choices(live, [stream.source.arguments.weight for stream in live])
            item = next(live[0], None)
            if item is not None:
                self._add(live[0], item)

    def _add(self, stream: SourceStream, item: Item) -> None:
        if item.row is None:
            self._note_bad(stream, item, UNREADABLE)
            return
        self.counts["rows"] += 1
        try:
            made = self.make(stream, item.row)
        except WrongLength as reason:
            self.counts["dropped"][str(reason)] += 1
            stream.count_dropped(str(reason))
            return
        except Exception as error:
            # One odd row among millions must not end a run, whatever it sets off.
            reason = str(error) if isinstance(error, BadRow) else f"unexpected {type(error).__name__}"
            detail = error.detail if isinstance(error, BadRow) else None
            self._note_bad(stream, item, reason, detail)
            stream.count_bad(reason, item, detail)
            return
        self.keep(stream, made)

    def _note_bad(self, stream: SourceStream, item: Item, reason: str, detail: str | None = None) -> None:
        place = {"source": stream.source.arguments.dataset, "shard": item.shard, "row": item.index}
        place |= {} if detail is None else {"detail": detail}
        self.counts["bad_rows"][reason] += 1
        self.counts["bad_row_details"].append({"reason": reason} | place)


class ResumableBatches(IterableDataset):
    """
    The share that one worker of one rank has in the data, in batches.

    `state_dict` is the place of the next batch. A stream that has loaded it goes on with the same batches, bit by bit.

    Args:
        sources (`list[Source]`): Where rows are from, each by its weight.
        seed (`int`): Decides all that is random.
        rank, world_size (`int`): Number of this process, and of all.
        endless (`bool`): Read the sources again and again, in new orders; if not, once and in their own order.
        max_bad_fraction (`float`): Share of the rows of a source that may be bad.
    """

    def __init__(
        self,
        sources: list[Source],
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        endless: bool = True,
        max_bad_fraction: float = 1.0,
    ):
        super().__init__()
        self.sources, self.seed = sources, seed
        self.rank, self.world_size, self.endless = rank, world_size, endless
        self.max_bad_fraction = max_bad_fraction
        self._place: dict = {}
        self._loaded = False

    def state_dict(self) -> dict:
        """The place of the next batch; JSON can hold it. Empty for the beginning."""
        return copy.deepcopy(self._place)

    def load_state_dict(self, state: dict) -> None:
        """Go on, with the next `iter`, where the stream stood whose `state_dict` this is."""
        self._place, self._loaded = copy.deepcopy(state), True

    def __iter__(self) -> Iterator[dict]:
        if not self._loaded:
            self._place = {}
        self._loaded = False
        return self._iterate(**self._place)

    @abstractmethod
    def _iterate(self, **place) -> Iterator[dict]:
        """The batches from a place on, nothing for the beginning; sets `_place` before each."""

    def _open(self, states: list[dict] | None) -> tuple[Reader, list[SourceStream]]:
        """This worker among the readers, and its streams where `states` has them."""
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        # Numbered so that a step of N ranks reads what one rank with N times the workers reads in N batches.
        reader = Reader((worker.id if worker else 0) * self.world_size + self.rank, self.world_size * workers)
        streams = [
            SourceStream(source, number, self.seed, reader, self.endless, self.max_bad_fraction)
            for number, source in enumerate(self.sources)
        ]
        if states is not None:
            for stream, state in zip(streams, states, strict=True):
                stream.load_state(state)
        return reader, streams

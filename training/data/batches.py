"""From utterances to padded batches under a budget of frames, in an order that can be taken up again anywhere."""

import copy
import random
from collections import Counter
from collections.abc import Iterator

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset, get_worker_info

from dtm_hf.training.data.rows import BadRow, RowReader, Utterance, WrongLength
from dtm_hf.training.data.sources import Source
from dtm_hf.training.data.stream import UNREADABLE, Item, Reader, SourceStream


class Window:
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
        self.streams = streams
        self.read = read
        self.number = number
        self.rng = rng
        self.start = [stream.state() for stream in streams]
        self.utterances: list[Utterance] = []
        self.previous: dict[tuple[int, str], Utterance] = {}
        self.counts = {"rows": 0, "bad_rows": Counter(), "dropped": Counter(), "bad_row_details": []}

    def fill(self, size: int) -> None:
        """Read on until there are `size` utterances, or no more rows."""
        while len(self.utterances) < size:
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
            utterance = self.read(stream.source, item.row)
            speaker = stream.source.speaker(item.row)
        except WrongLength as reason:
            self.counts["dropped"][str(reason)] += 1
            stream.count_dropped(str(reason))
            return
        except Exception as error:
            # One odd row among millions must not end a run, whatever it sets off.
            reason = str(error) if isinstance(error, BadRow) else f"unexpected {type(error).__name__}"
            self._note_bad(stream, item, reason)
            stream.count_bad(reason, item)
            return
        self.utterances.append(self._paired(utterance, (stream.number, speaker)))

    def _note_bad(self, stream: SourceStream, item: Item, reason: str) -> None:
        place = {"source": stream.source.arguments.dataset, "shard": item.shard, "row": item.index}
        self.counts["bad_rows"][reason] += 1
        self.counts["bad_row_details"].append({"reason": reason} | place)

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
        for utterance in sorted(self.utterances, key=lambda item: len(item.waveform)):
            # Sorted, so the newest utterance is the longest: it sets the padded size.
            frames = self.read.frames(utterance)
            full = batches and (
                (len(batches[-1]) + 1) * frames > arguments.frames_per_batch
                or len(batches[-1]) >= arguments.max_samples
            )
            if not batches or full:
                batches.append([])
            batches[-1].append(utterance)
        self.utterances, self.previous = [], {}
        self.rng.shuffle(batches)
        return batches


class FrameBatches(IterableDataset):
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
        seed (`int`): Decides all that is random.
        rank, world_size (`int`): Number of this process, and of all.
        endless (`bool`): Read the sources again and again, in new orders; if not, once and in their own order.

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
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        endless: bool = True,
    ):
        super().__init__()
        self.sources = sources
        self.arguments = arguments
        self.read = RowReader(arguments, tokenizer, feature_extractor)
        self.ids = tokenizer.get_vocab()
        self.unknown_id, self.padding_value = tokenizer.unknown_id, tokenizer.padding_value
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.endless = endless
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

    def _iterate(self, window: int = 0, yielded: int = 0, sources: list[dict] | None = None) -> Iterator[dict]:
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        # Numbered so that a step of N ranks reads what one rank with N times the workers reads in N batches.
        reader = Reader((worker.id if worker else 0) * self.world_size + self.rank, self.world_size * workers)
        limit = self.arguments.max_bad_fraction
        streams = [
            SourceStream(source, number, self.seed, reader, self.endless, limit)
            for number, source in enumerate(self.sources)
        ]
        if sources is not None:
            for stream, state in zip(streams, sources, strict=True):
                stream.load_state(state)

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
                if last and not following.utterances:
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

"""What is in a corpus: which sentence each row says, in which voice, and how the rows lie in shards."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from dtm_hf.training.corpus.engines import ENGINES
from dtm_hf.training.corpus.sentences import SPLITS, held_out_sentences, split_of, train_sentences

UNSEEN = "unseen"
"""The split of the voices that are in no other; its sentences are those of the split test."""


@dataclass(frozen=True)
class Shard:
    """One parquet file of `size` rows."""

    split: str
    index: int
    size: int
    file_name: str


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is in the shards. Without `sentences`, those of the closed domain are drawn."""

    engine: str = "flite"
    voices: tuple[str, ...] = ("slt", "rms")
    unseen_voices: tuple[str, ...] = ()
    num_train: int = 20_000
    num_validation: int = 200
    num_test: int = 200
    num_unseen: int = 0
    shard_size: int = 1000
    seed: int = 0
    sentences: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"`engine` must be one of {tuple(ENGINES)}, but got {self.engine!r}")
        names = ENGINES[self.engine].voices
        if not self.voices or len(set(self.voices)) != len(self.voices):
            known = f" of {names}" if names else ""
            raise ValueError(f"`voices` must be one or more distinct names{known}, but got {self.voices}")
        # Where a model decides them, they are looked at when it is there.
        for argument in ("voices", "unseen_voices") if names else ():
            for voice in getattr(self, argument):
                if voice not in names:
                    raise ValueError(f"`{argument}` must be names of {names}, but got {voice!r}")
        if shared := set(self.voices) & set(self.unseen_voices):
            raise ValueError(f"`unseen_voices` must be none of `voices`, but got {', '.join(sorted(shared))} in both")
        for name in ("num_train", "num_validation", "num_test", "num_unseen"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be 0 or more, but got {getattr(self, name)}")
        if self.num_unseen and not self.unseen_voices:
            raise ValueError(f"`unseen_voices` must name a voice for `num_unseen` {self.num_unseen}")
        if self.shard_size < 1:
            raise ValueError(f"`shard_size` must be 1 or more, but got {self.shard_size}")
        if self.sentences:
            for split, texts in self._pools().items():
                if self.num_rows(split) and not texts:
                    raise ValueError(
                        f"`sentences` holds none of the split {split}: bring more, or ask for no such row"
                    )

    @property
    def domain(self) -> str:
        return "sentences" if self.sentences else "closed"

    @property
    def splits(self) -> tuple[str, ...]:
        return (*SPLITS, UNSEEN)

    def card(self) -> dict:
        """The recipe as JSON holds it: a digest stands for the sentences."""
        content = json.loads(json.dumps(asdict(self)))
        digest = hashlib.sha256("\n".join(self.sentences).encode()).hexdigest()
        content["sentences"] = {"number": len(self.sentences), "sha256": digest} if self.sentences else None
        return content

    def num_rows(self, split: str) -> int:
        return getattr(self, f"num_{split}")

    def shards(self) -> list[Shard]:
        """All shards, in the order of the splits."""
        found = []
        for split in self.splits:
            starts = range(0, self.num_rows(split), self.shard_size)
            for index, start in enumerate(starts):
                size = min(self.shard_size, self.num_rows(split) - start)
                name = f"{split}-{index:05d}-of-{len(starts):05d}.parquet"
                found.append(Shard(split=split, index=index, size=size, file_name=name))
        return found

    def lines(self, shard: Shard) -> list[tuple[str, str]]:
        """
        (text, voice) of each row; depends on the seed, the shard's index and what is in the recipe but the row counts.

        Of a list of sentences, all have been said once before one is said again, then in another voice; neighbours are
        random sentences in voices that take turns, so any run of shards is a balanced corpus.
        """
        voices = self.unseen_voices if shard.split == UNSEEN else self.voices
        start = shard.index * self.shard_size
        if self.sentences:
            pool = self._pools()[shard.split]
            order = row_rng(self.seed, shard.split).permutation(len(pool))
            places = [divmod(place, len(pool)) for place in range(start, start + shard.size)]
            return [(pool[order[i]], voices[(i + again) % len(voices)]) for again, i in places]
        texts = itertools.islice(self._closed(shard, start), shard.size)
        order = row_rng(self.seed, shard.split, shard.index).permutation(shard.size)
        return [(text, voices[place % len(voices)]) for text, place in zip(texts, order, strict=True)]

    def _closed(self, shard: Shard, start: int) -> Iterator[str]:
        if shard.split == "train":
            return train_sentences(self.seed, stream=shard.index)
        # One stream for the whole split, so that its sentences are distinct across shards too.
        split = "test" if shard.split == UNSEEN else shard.split
        return itertools.islice(held_out_sentences(split, self.seed), start, None)

    def _pools(self) -> dict[str, list[str]]:
        pools: dict[str, list[str]] = {split: [] for split in SPLITS}
        for text in self.sentences:
            pools[split_of(text)].append(text)
        return pools | {UNSEEN: pools["test"]}


def working_order(shards: list[Shard]) -> list[Shard]:
    """Held-out shards and training shards in turn while there are both, so that a build cut short has some of each."""
    train = [shard for shard in shards if shard.split == "train"]
    by_split = [[shard for shard in shards if shard.split == split] for split in ("validation", "test", UNSEEN)]
    held_out = [shard for row in itertools.zip_longest(*by_split) for shard in row if shard is not None]
    return [shard for pair in itertools.zip_longest(held_out, train) for shard in pair if shard is not None]


def row_rng(*parts: object) -> np.random.Generator:
    """A generator that the parts decide, the same in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))

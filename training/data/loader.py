"""The loader of a training run: batches from worker processes, with a state that JSON can hold."""

import dataclasses
from collections.abc import Callable

from torchdata.stateful_dataloader import StatefulDataLoader

from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.data.batches import FrameBatches
from dtm_hf.training.data.resumable import ResumableBatches
from dtm_hf.training.data.sources import NoSuchSplit, Source, open_source

# Batches that a worker prepares ahead.
_PREFETCH = 4


class BatchLoader(StatefulDataLoader):
    """
    Loads [`ResumableBatches`]; `state_dict` gives the place of the next batch, and `load_state_dict` goes there.

    The state is a tree of dictionaries, lists, numbers and strings. It is that of one rank.
    """

    def __init__(self, batches: ResumableBatches, num_workers: int):
        super().__init__(
            batches,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=_PREFETCH if num_workers else None,
            snapshot_every_n_steps=1,
        )

    def _readers(self) -> dict:
        batches = self.dataset
        return {
            "num_workers": self.num_workers,
            "world_size": batches.world_size,
            "rank": batches.rank,
            "seed": batches.seed,
            "sources": [[source.fingerprint, source.arguments.weight] for source in batches.sources],
        }

    def state_dict(self) -> dict:
        return {"readers": self._readers(), "loader": super().state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """
        Raises:
            ValueError: if the state is of another number of workers or ranks, another rank or seed, or other sources:
                the rows would be shared out in another way.
        """
        saved, own = state_dict["readers"], self._readers()
        for name, value in own.items():
            if name == "sources" and len(saved[name]) != len(value):
                raise ValueError(f"The state must be of {len(value)} data sources, but got {len(saved[name])}.")
            if name == "sources" and saved[name] != value:
                number = next(i for i, (one, two) in enumerate(zip(saved[name], value, strict=True)) if one != two)
                dataset = self.dataset.sources[number].arguments.dataset
                raise ValueError(
                    f"The state must be of the same sources, but the shards or the weight of {dataset!r} are not "
                    "those that it was saved with. (Pin the `revision` of a data set on the Hub.)"
                )
            if saved[name] != value:
                raise ValueError(f"The state must be of `{name}` {value}, but got one of {saved[name]}.")
        super().load_state_dict(state_dict["loader"])


def build_loader(
    arguments: DataArguments,
    split: str,
    tokenizer,
    feature_extractor,
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    endless: bool = True,
) -> BatchLoader:
    """
    Batches of a split for one of `world_size` processes.

    Args:
        arguments ([`DataArguments`]): Sources, bounds and budget.
        split (`str`): Every source must have it if it is `train_split`; else at least one.
        tokenizer ([`F5Tokenizer`]), feature_extractor ([`F5FeatureExtractor`]): Of the model that is trained.
        seed (`int`): Decides the order of shards, rows and batches, and the pairs.
        rank, world_size (`int`): Number of this process, and of all.
        endless (`bool`): Without end, read by `num_workers` processes; if not, one pass in fixed order, read by this
            process.

    Raises:
        ValueError: if a source, its split or a column is not there. While it is iterated, see [`FrameBatches`].
    """
    # Nobody asks who speaks where no pairs are made.
    sources = open_sources(arguments, split, speakers=arguments.pair_probability > 0)
    batches = FrameBatches(
        sources,
        arguments,
        tokenizer,
        feature_extractor,
        seed=seed,
        rank=rank,
        world_size=world_size,
        endless=endless,
    )
    return BatchLoader(batches, arguments.num_workers if endless else 0)


def open_sources(arguments: DataArguments, split: str, speakers: bool = True) -> list[Source]:
    """
    The sources of a configuration that have the split.

    Args:
        speakers (`bool`, defaults to `True`): `False` asks for no `speaker_column`.

    Raises:
        ValueError: if a source lacks `train_split`, or none has another split; or as [`open_source`] does.
    """

    def open_one(source: SourceArguments) -> Source:
        return open_source(source if speakers else dataclasses.replace(source, speaker_column=None), split)

    return open_each(arguments, split, open_one)


def open_each(arguments: DataArguments, split: str, open_one: Callable[[SourceArguments], Source]) -> list[Source]:
    """
    What `open_one` makes of the sources of a configuration, without those that lack the split.

    Raises:
        NoSuchSplit: if a source lacks `train_split`, or none has another split. And what `open_one` raises.
    """
    sources, failure = [], None
    for source in arguments.all_sources():
        try:
            sources.append(open_one(source))
        except NoSuchSplit as error:
            if split == arguments.train_split:
                raise
            failure = error
    if not sources:
        raise failure
    return sources

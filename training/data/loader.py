"""The loader of a training run: batches from worker processes, with a state that JSON can hold."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping

from torchdata.stateful_dataloader import StatefulDataLoader

from dtm_hf.training.config.arguments import DataArguments, SourceArguments
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
            worker_init_fn=_outlive_signals,
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


def _outlive_signals(_worker: int) -> None:
    """
    Who ends a run tells all of its processes, and the step that is to be finished first needs its readers: they heed
    the process that they read for alone.
    """
    signals = {getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)}
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.Thread(target=_heed, args=(signals, multiprocessing.parent_process().pid), daemon=True).start()


def _heed(signals: set[signal.Signals], parent: int) -> None:
    while signal.sigwaitinfo(signals).si_pid != parent:
        pass
    os._exit(1)


def open_sources(
    arguments: DataArguments, split: str, columns: Callable[[SourceArguments], Mapping[str, str | None]]
) -> list[Source]:
    """
    The sources of a configuration that have the split.

    Args:
        columns (`Callable`): the columns of a source, as [`Maker.columns`] has them.

    Raises:
        NoSuchSplit: if a source lacks `train_split`, or none has another split.
        ValueError: as [`open_source`] does.
    """
    sources, failure = [], None
    for source in arguments.all_sources():
        try:
            sources.append(open_source(source, split, columns(source)))
        except NoSuchSplit as error:
            if split == arguments.train_split:
                raise
            failure = error
    if not sources:
        raise failure
    return sources

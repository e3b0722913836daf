"""The loader of a training run."""

from torchdata.stateful_dataloader import StatefulDataLoader

from dtm_hf.training.arguments import DataArguments
from dtm_hf.training.data.batches import FrameBatches, load_stream


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
) -> StatefulDataLoader:
    """Batches of a split for one of `world_size` processes; without end if `endless`, else one pass in fixed order."""
    stream = load_stream(arguments, split)
    if world_size > 1:
        from datasets.distributed import split_dataset_by_node

        stream = split_dataset_by_node(stream, rank, world_size)
    batches = FrameBatches(stream, arguments, tokenizer, feature_extractor, seed, endless)
    workers = arguments.num_workers if endless else 0
    return StatefulDataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        snapshot_every_n_steps=1,
    )

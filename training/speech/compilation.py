"""torch.compile where it pays: on the parts that repeat, in place."""

from torch import nn


def compile_parts(network: nn.Module, **options) -> int:
    """
    Compile the blocks of a backbone or a head, and what a backbone has beside them, each by itself and for batches of
    any shape; returns how many. Names of parameters stay, and so does what hooks or branches around the blocks (the
    embedding of text walks through its rows one by one), where a graph of the whole network would break. `options` are
    those of `torch.compile`.
    """
    dit = getattr(network, "dit", None)
    if dit is None:
        parts = list(network.blocks)
    else:
        parts = [*dit.transformer_blocks, dit.input_embed, dit.norm_out, *getattr(dit.text_embed, "text_blocks", ())]
    for part in parts:
        part.compile(dynamic=True, **options)
    return len(parts)

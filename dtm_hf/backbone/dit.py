"""The making of f5_tts's own DiT."""

import warnings
from typing import Any

from torch import nn

from dtm_hf.f5_import import import_f5

# What of the configuration of an [`F5Backbone`] its DiT is made by.
DIT_SIZES = (
    "dim",
    "depth",
    "heads",
    "dim_head",
    "dropout",
    "ff_mult",
    "mel_dim",
    "text_num_embeds",
    "text_dim",
    "text_mask_padding",
    "text_embedding_average_upsampling",
    "qk_norm",
    "conv_layers",
    "pe_attn_head",
)


def make_dit(**sizes: Any) -> nn.Module:
    """One with new weights, of the sizes that `DIT_SIZES` names, as [`F5Backbone`] has them."""
    dit = import_f5("f5_tts.model.backbones.dit", chinese=False)
    with warnings.catch_warnings():
        # Says that a mask costs memory: one is passed only where lengths differ.
        warnings.filterwarnings("ignore", message="attn_mask_enabled=True")
        return dit.DiT(**sizes, attn_mask_enabled=True)

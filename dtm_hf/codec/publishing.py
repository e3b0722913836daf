"""A codec that was trained here, as a repository holds it."""

import os
from pathlib import Path
from typing import Any

from transformers.models.mimi.modeling_mimi import MimiModel

from dtm_hf.hub import fill_card


class PublishedCodec:
    """
    A codec as a repository holds it: plain `MimiModel`, with a card.

    Args:
        codec (`MimiModel`): with `training_data`, `results` and `license` in its configuration.
    """

    card_template = Path(__file__).parents[1] / "codec_card.md"

    def __init__(self, codec: MimiModel):
        self.codec = codec

    def card_values(self) -> dict[str, Any]:
        """See [`~dtm_hf.hub.Publishable`]."""
        config = self.codec.config
        return {
            "model_name": "mimi-tiny",
            "license": getattr(config, "license", None) or "unknown",
            "pipeline_tag": "feature-extraction",
            "tags": ["mimi", "neural-codec", "dtm-hf"],
            "base_model": None,
            "num_quantizers": config.num_quantizers,
            "codebook_size": config.codebook_size,
            "frame_rate": config.sampling_rate / config.frame_size,
            "parameters": f"{self.codec.num_parameters():,}",
            "training_data": getattr(config, "training_data", None),
            "results": getattr(config, "results", None),
        }

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """As `MimiModel` does, with the card beside it."""
        self.codec.save_pretrained(save_directory, **kwargs)
        fill_card(self).save(os.path.join(save_directory, "README.md"))

"""The section of the objective `speecht5`, and what a run of it cannot be told."""

from dataclasses import dataclass

from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.config.fields import option


@dataclass
class SpeechT5Arguments:
    """speecht5: a SpeechT5 from scratch, on the mels of this package."""

    speaker_table: str | None = option(
        None,
        "Folder or Hub name of a `SpeakerTable` with the speakers of the data; by default each gets a vector that its "
        "name decides.",
    )
    speaker_embedding_dim: int = option(64, "Numbers of such a vector; a table has its own.", above=0)
    speecht5_hidden_size: int = option(192, "Width of encoder and decoder.", above=0)
    speecht5_layers: int = option(3, "Layers of the encoder, and of the decoder.", above=0)
    speecht5_heads: int = option(3, "Attention heads.", above=0)
    speecht5_ffn_dim: int = option(768, "Width of the feed-forward layers.", above=0)
    speecht5_prenet_units: int = option(128, "Width of the pre-net of the decoder.", above=0)
    speecht5_postnet_units: int = option(128, "Width of the post-net.", above=0)
    speecht5_dropout: float = option(
        0.1, "Dropout of the layers; of the pre-net it is one half.", at_least=0, at_most=0.9
    )
    reduction_factor: int = option(2, "Frames a step.", above=0)
    guided_attention_scale: float = option(10.0, "Weight of guided attention; 0 is none.", at_least=0)
    guided_attention_sigma: float = option(0.4, "How wide its diagonal is, as a share of the whole.", above=0)
    license: str = option("mit", "Licence of the trained weights.")


def check_speecht5(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a SpeechT5 that cannot be trained so.
    """
    sizes: SpeechT5Arguments = config.objective
    if sizes.speecht5_hidden_size % sizes.speecht5_heads:
        raise ValueError(
            f"`speecht5_hidden_size` must be a multiple of `speecht5_heads`, but got {sizes.speecht5_hidden_size} and "
            f"{sizes.speecht5_heads}."
        )
    if sizes.speecht5_hidden_size % 2:
        raise ValueError(f"`speecht5_hidden_size` must be even, but got {sizes.speecht5_hidden_size}.")
    if config.model.base_model is not None or config.model.init_from is not None:
        raise ValueError("`base_model` and `init_from` are for other objectives: a SpeechT5 is trained from scratch.")

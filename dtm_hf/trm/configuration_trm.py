"""Configuration of TRM."""

import os
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from dtm_hf.reading import read_json, show
from dtm_hf.validation import naming

UPDATES = ("recursive", "document")
# Far beyond what makes sense, and far below what fills a machine by being asked for.
_MOST = {
    "vocab_size": 200_000,
    "codebook_size": 65_536,
    "text_dim": 8192,
    "text_layers": 256,
    "audio_dim": 8192,
    "ffn_dim": 65_536,
    "num_heads": 256,
    "num_layers": 256,
    "h_cycles": 1000,
    "l_cycles": 1000,
    "speaker_embed_dim": 8192,
    "codebook_embed_dim": 8192,
    "max_text_length": 65_536,
    "max_audio_frames": 65_536,
}
_MOST_SPEAKERS = 100_000


@strict
class TRMConfig(PreTrainedConfig):
    r"""
    Configuration of a [`TRMModel`].

    Args:
        vocab_size (`int`, defaults to 256):
            Characters; 0 is padding, 1 what the vocabulary lacks.
        speakers (`list[str]`):
            Names of the voices; a voice's number is its place.
        num_codebooks (`int`, defaults to 8), codebook_size (`int`, defaults to 2048):
            Of the codec.
        text_dim (`int`, defaults to 256), text_layers (`int`, defaults to 4):
            Width and blocks of the text encoder.
        audio_dim (`int`, defaults to 256):
            Width D of the answer y and the latent z.
        ffn_dim (`int`, defaults to 512):
            Width inside the feed-forward networks.
        num_heads (`int`, defaults to 8):
            Attention heads, of both.
        num_layers (`int`, defaults to 2):
            Blocks of the network that is applied again and again.
        h_cycles (`int`, defaults to 3), l_cycles (`int`, defaults to 6):
            H updates of the answer, each after L updates of the latent.
        update (`str`, defaults to `"recursive"`):
            `"recursive"`: one network updates both, z = net(z, y + x) and y = net(y, z), and no gradient flows before
            the last cycle ([Tiny Recursive Models](https://arxiv.org/abs/2510.04871)). `"document"`: blocks that look
            from z at y by attention, an answer updater of its own, and a gradient through all cycles.
        align_text (`bool`, defaults to `True`):
            Whether frames look at the text by rotary positions that are of one scale for both, so that a frame finds
            its place in the text before anything is learnt.
        latent_dim (`int`, *optional*):
            M, the width of the codec's latents, for a network that speaks in these: in the place of heads for codes it
            estimates their mean, and a [`DTMHead`] beside it draws them. `None`: it speaks in codes.
        feedback (`bool`, defaults to `True`):
            Whether it was trained to see the codes that are decided before a cycle.
        share_output_heads (`bool`, defaults to `False`):
            One projection to codes for all codebooks, told which by a shift and a scale before a nonlinearity.
        speaker_embed_dim (`int`, defaults to 64), codebook_embed_dim (`int`, defaults to 64):
            Widths of these embeddings.
        dropout (`float`, defaults to 0.1):
            Everywhere.
        max_text_length (`int`, defaults to 512), max_audio_frames (`int`, defaults to 256):
            The longest that it serves.
        license (`str`, *optional*), training_data (`str`, *optional*), results (`dict`, *optional*):
            For the model card; results as `{arm: {metric: value}}`.
    """

    model_type = "trm"

    vocab_size: int = 256
    speakers: list | None = None
    num_codebooks: int = 8
    codebook_size: int = 2048
    text_dim: int = 256
    text_layers: int = 4
    audio_dim: int = 256
    ffn_dim: int = 512
    num_heads: int = 8
    num_layers: int = 2
    h_cycles: int = 3
    l_cycles: int = 6
    update: str = "recursive"
    align_text: bool = True
    latent_dim: int | None = None
    feedback: bool = True
    share_output_heads: bool = False
    speaker_embed_dim: int = 64
    codebook_embed_dim: int = 64
    dropout: float = 0.1
    max_text_length: int = 512
    max_audio_frames: int = 256
    license: str | None = None
    training_data: str | None = None
    results: dict | None = None

    def __post_init__(self, **kwargs):
        self.speakers = ["default"] if self.speakers is None else self.speakers
        if not self.speakers or not all(isinstance(name, str) for name in self.speakers):
            raise ValueError(f"`speakers` must be names, one at least, but got {show(self.speakers)}.")
        if len(set(self.speakers)) != len(self.speakers) or len(self.speakers) > _MOST_SPEAKERS:
            raise ValueError(
                f"`speakers` must be distinct, and {_MOST_SPEAKERS} at most, but got {show(self.speakers)}."
            )
        if self.update not in UPDATES:
            raise ValueError(f"`update` must be one of {UPDATES}, but got {self.update!r}.")
        if not 1 <= self.num_codebooks <= 32:
            raise ValueError(f"`num_codebooks` must lie in [1, 32], but got {self.num_codebooks}.")
        if self.latent_dim is not None and not 1 <= self.latent_dim <= 1024:
            raise ValueError(f"`latent_dim` must be from 1 to 1024, or None, but got {self.latent_dim}.")
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"`{name}` must be from 1 to {most}, but got {getattr(self, name)}.")
        for name in ("text_dim", "audio_dim"):
            # Rotary positions turn pairs.
            if getattr(self, name) < 1 or getattr(self, name) % (2 * self.num_heads):
                raise ValueError(
                    f"`{name}` must be a multiple of twice `num_heads`, {2 * self.num_heads}, but got "
                    f"{getattr(self, name)}."
                )
        if self.vocab_size < 2:
            raise ValueError(f"`vocab_size` must be at least 2, for padding and unknown, but got {self.vocab_size}.")
        super().__post_init__(**kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        content = read_json(json_file)
        with naming(json_file):
            cls(**content)
        return content

    @property
    def mask_code(self) -> int:
        """What stands for a code that is not decided yet."""
        return self.codebook_size


__all__ = ["TRMConfig"]

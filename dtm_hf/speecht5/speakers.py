"""`SpeakerTable`: the voices that a SpeechT5 is sent with."""

import os
from collections.abc import Mapping

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.utils.hub import PushToHubMixin, cached_file

from dtm_hf.files import written_aside
from dtm_hf.reading import show

# The name that diffusers looks for where a folder of a pipeline holds safetensors.
FILE_NAME = "model.safetensors"
_MAX_SPEAKERS = 100_000


class SpeakerTable(PushToHubMixin):
    """
    Embeddings of speakers by name.

    Args:
        vectors (`dict[str, torch.Tensor]`): each of shape `(E,)`.
        encoder (`str`, *optional*): what made them, `"resemblyzer"`: with it a recording can be spoken like too.
            Others, such as the x-vectors of the official checkpoints, are made elsewhere.

    Raises:
        ValueError: if there are none, they are not of one size, or hold what is no number.
    """

    def __init__(self, vectors: Mapping[str, torch.Tensor], encoder: str | None = None):
        if encoder not in (None, "resemblyzer"):
            raise ValueError(f'`encoder` must be "resemblyzer" or None, but got {show(encoder)}.')
        if not 1 <= len(vectors) <= _MAX_SPEAKERS:
            raise ValueError(f"`vectors` must hold 1 to {_MAX_SPEAKERS:,} speakers, but got {len(vectors)}.")
        self.encoder = encoder
        self.vectors = {name: check_vector(f"vectors[{name!r}]", vector) for name, vector in vectors.items()}
        if len(sizes := {len(vector) for vector in self.vectors.values()}) > 1:
            raise ValueError(f"`vectors` must be of one size, but got {sorted(sizes)}.")

    @property
    def size(self) -> int:
        """E."""
        return len(next(iter(self.vectors.values())))

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Write `model.safetensors` into `save_directory`. Other arguments of pipelines are passed over."""
        with written_aside(os.path.join(save_directory, FILE_NAME)) as aside:
            save_file(self.vectors, aside, metadata={"encoder": self.encoder or ""})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        subfolder: str = "",
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **kwargs,
    ) -> "SpeakerTable":
        """
        Load from a folder or a Hub repository that holds `model.safetensors`; arguments as of every
        `from_pretrained`.

        Raises:
            OSError: if there is no such file.
            ValueError: if it is damaged.
        """
        path = cached_file(
            pretrained_model_name_or_path,
            FILE_NAME,
            subfolder=subfolder or "",
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        try:
            with safe_open(path, framework="pt") as file:
                vectors = {name: file.get_tensor(name) for name in file.keys()}
                return cls(vectors, (file.metadata() or {}).get("encoder") or None)
        except OSError:
            raise
        except Exception as error:
            # safetensors has an error of its own for a damaged file.
            raise ValueError(f"{path!r} cannot be read: {' '.join(str(error).split())}") from error


def check_vector(name: str, vector: torch.Tensor) -> torch.Tensor:
    """
    An embedding `(E,)` in float32 on the CPU, of one of that shape or `(1, E)`.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if it has another shape, is zero, or holds what is no number.
    """
    if not isinstance(vector, torch.Tensor):
        raise TypeError(f"`{name}` must be a tensor, but got {show(vector)}.")
    if vector.ndim == 2 and len(vector) == 1:
        vector = vector[0]
    if vector.ndim != 1 or vector.numel() == 0:
        raise ValueError(f"`{name}` must have shape (E,), but got {tuple(vector.shape)}.")
    vector = vector.detach().to("cpu", torch.float32).contiguous()
    if not bool(vector.isfinite().all()) or not bool(vector.any()):
        raise ValueError(f"`{name}` must hold finite numbers, and not zeros alone.")
    return vector


__all__ = ["SpeakerTable"]

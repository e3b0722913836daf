"""Reads official F5-TTS checkpoints: an architecture and the weights of a DiT."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils.hub import cached_file

VARIANTS = {
    "v1_base": "F5TTS_v1_Base",
    "v1_small": "F5TTS_v1_Small",
    "base": "F5TTS_Base",
    "small": "F5TTS_Small",
}
_PREFIX = "ema_model."
# Bookkeeping of ema_pytorch, and buffers that early checkpoints carried.
_SKIPPED = ("initted", "step")
_SKIPPED_PREFIX = "mel_spec."
_NOT_BACKBONE_ARGUMENTS = ("attn_backend", "attn_mask_enabled", "checkpoint_activations")


def variant_config(variant: str) -> dict:
    """Architecture of a `variant`, read from the configuration that f5_tts ships for it."""
    if variant not in VARIANTS:
        raise ValueError(f"`variant` must be one of {sorted(VARIANTS)}, but got {variant!r}.")
    text = files("f5_tts").joinpath(f"configs/{VARIANTS[variant]}.yaml").read_text(encoding="utf-8")
    arch = yaml.safe_load(text)["model"]["arch"]
    return {key: value for key, value in arch.items() if key not in _NOT_BACKBONE_ARGUMENTS}


def default_vocab() -> Path:
    """The 2545-line vocabulary of the official models, as f5_tts ships it."""
    return Path(str(files("f5_tts").joinpath("infer/examples/vocab.txt")))


def resolve_file(path: str | Path, *, revision: str | None = None, **hub) -> Path:
    """A local file, or `hf://org/repo/path/in/repo` fetched from the Hub."""
    text = str(path)
    if text.startswith("hf://"):
        parts = text.removeprefix("hf://").split("/")
        if len(parts) < 3:
            raise ValueError(f"A Hub file must read hf://org/repo/path, but got {text!r}.")
        return Path(cached_file("/".join(parts[:2]), "/".join(parts[2:]), revision=revision, **hub))
    if not Path(path).is_file():
        raise FileNotFoundError(f"No file at {text!r}; give a local path or hf://org/repo/path.")
    return Path(path)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """
    The DiT's state dict from either official form, `.safetensors` (flat) or `.pt` (`ema_model_state_dict`).

    Raises:
        ValueError: if the file cannot be read (truncated, corrupted) or holds no `ema_model.transformer.*` weights.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Each format has its own family of errors for a damaged file; all mean the same to the user.
        raise ValueError(
            f"`checkpoint` {str(path)!r} cannot be read ({error}): damaged or not a checkpoint."
        ) from error
    if path.suffix != ".safetensors":
        if not isinstance(state, dict) or "ema_model_state_dict" not in state:
            found = sorted(state)[:8] if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"`checkpoint` {str(path)!r} has no `ema_model_state_dict`; it has {found}.")
        state = state["ema_model_state_dict"]
    state = {key.removeprefix(_PREFIX): value for key, value in state.items() if key not in _SKIPPED}
    state = {key: value for key, value in state.items() if not key.startswith(_SKIPPED_PREFIX)}
    foreign = sorted(key for key in state if not key.startswith("transformer."))
    if foreign or not state:
        raise ValueError(
            f"`checkpoint` {str(path)!r} is not an F5-TTS checkpoint: expected `{_PREFIX}transformer.*` weights, "
            f"but got {_some(foreign)}."
        )
    return {key.removeprefix("transformer."): value for key, value in state.items()}


@dataclass
class F5Checkpoint:
    """
    Args:
        path (`Path`): the file of the weights, for messages.
        variant (`str`): key of `VARIANTS`.
        architecture (`dict`): arguments of f5_tts's `DiT`, the size of the vocabulary among them.
        state_dict (`dict[str, torch.Tensor]`): of that `DiT`.
    """

    path: Path
    variant: str
    architecture: dict[str, Any]
    state_dict: dict[str, torch.Tensor]

    def check_fits(self, expected: Mapping[str, torch.Tensor]) -> None:
        """
        Compare with the state dict of a `DiT` of this architecture; tensors on the meta device will do.

        Raises:
            ValueError: for missing, unexpected or misshapen weights, by name.
        """
        state = self.state_dict
        missing = sorted(set(expected) - set(state))
        unexpected = sorted(set(state) - set(expected))
        misshapen = sorted(
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in set(expected) & set(state)
            if state[key].shape != expected[key].shape
        )
        if missing or unexpected or misshapen:
            problems = [
                f"{what}: {_some(keys)}"
                for what, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
                if keys
            ]
            raise ValueError(
                f"`checkpoint` {str(self.path)!r} does not fit `variant` {self.variant!r} with "
                f"{self.architecture['text_num_embeds']} tokens; " + "; ".join(problems) + f".{_guess_variant(state)}"
            )


def read_f5_checkpoint(
    checkpoint: str | Path, vocab: Any = None, variant: str = "v1_base", *, revision: str | None = None, **hub
) -> F5Checkpoint:
    """
    The weights of a checkpoint, with the architecture of a `variant` and the number of tokens of `vocab`; arguments
    as in `F5Backbone.from_f5_checkpoint`.
    """
    architecture = variant_config(variant)
    if hasattr(vocab, "vocab_size"):
        architecture["text_num_embeds"] = vocab.vocab_size
    else:
        vocab_file = default_vocab() if vocab is None else resolve_file(vocab, revision=revision, **hub)
        # One token a line, as f5_tts counts them; a last line without its line end is a token too.
        with open(vocab_file, encoding="utf-8") as lines:
            architecture["text_num_embeds"] = sum(1 for _ in lines)
    path = resolve_file(checkpoint, revision=revision, **hub)
    return F5Checkpoint(path, variant, architecture, read_state_dict(path))


def _guess_variant(state: dict[str, torch.Tensor]) -> str:
    """A closing sentence that names the variants whose width and depth the file has."""
    if "proj_out.weight" not in state:
        return ""
    dim = state["proj_out.weight"].shape[-1]
    depth = len({key.split(".")[1] for key in state if key.startswith("transformer_blocks.")})
    fits = [name for name in VARIANTS if (variant_config(name)["dim"], variant_config(name)["depth"]) == (dim, depth)]
    found = f" The file has width {dim} and depth {depth}"
    return f"{found}: that of {fits}." if fits else f"{found}: that of no known variant."


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "nothing"

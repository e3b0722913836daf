"""Reads official F5-TTS checkpoints: an architecture and the weights of a DiT."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils.hub import cached_file

from dtm_hf.weights import check_tensors, read_weights

VARIANTS = {
    "v1_base": "F5TTS_v1_Base",
    "v1_small": "F5TTS_v1_Small",
    "base": "F5TTS_Base",
    "small": "F5TTS_Small",
}
DEFAULT_VARIANT = "v1_base"
_EMA_STATE, _STATE = "ema_model_state_dict", "model_state_dict"
_PREFIX = "transformer."
# Of ema_pytorch, of data parallelism and of trainers that keep the model as an attribute.
_WRAPPERS = ("ema_model.", "module.", "model.")
# Bookkeeping of ema_pytorch and of trainers, and buffers that early checkpoints carried.
_SKIPPED = ("initted", "step", "update", "epoch", "ema_model.initted", "ema_model.step")
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


def read_state_dict(path: Path, use_ema: bool = True) -> dict[str, torch.Tensor]:
    """
    The DiT's state dict from any form that F5-TTS, its users and PyTorch write: `.safetensors` or `.pt`, flat or with
    `ema_model_state_dict` and `model_state_dict` in it, with the prefixes of `torch.compile` and of data parallelism.

    Args:
        path (`Path`): The file.
        use_ema (`bool`, defaults to `True`): The averaged weights where both are there; else those that were trained.

    Raises:
        ValueError: if the file cannot be read (truncated, corrupted), holds no weights of F5-TTS, or only averaged
            ones and `use_ema` is `False`.
    """
    with _named_checkpoint():
        state = read_weights(path)
        key = _EMA_STATE if use_ema and _EMA_STATE in state else _STATE
        if isinstance(state.get(key), Mapping):
            state = state[key]
        elif not use_ema and (_EMA_STATE in state or any(name.startswith("ema_model.") for name in state)):
            raise ValueError(f"{str(path)!r} holds averaged weights alone, no `{_STATE}`: leave `use_ema` as it is.")
        elif path.suffix != ".safetensors" and not any(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError(f"{str(path)!r} has no `{_EMA_STATE}` and no `{_STATE}`; it has {sorted(state)[:8]}.")
        # What a flat file of a trainer holds beside weights: numbers.
        state = {name: value for name, value in state.items() if name not in _SKIPPED}
        state = {_plain_name(name): value for name, value in check_tensors(state, path).items()}
    state = {name: value for name, value in state.items() if not name.startswith(_SKIPPED_PREFIX)}
    foreign = sorted(name for name in state if not name.startswith(_PREFIX))
    if foreign or not state:
        raise ValueError(
            f"`checkpoint` {str(path)!r} is not an F5-TTS checkpoint: expected `ema_model.{_PREFIX}*` weights, but "
            f"got {_some(foreign)}."
        )
    return {name.removeprefix(_PREFIX): value for name, value in state.items()}


def _plain_name(name: str) -> str:
    """Without what wrappers put before and between: `ema_model.module._orig_mod.transformer.x` is `transformer.x`."""
    name = name.replace("_orig_mod.", "")
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


@contextmanager
def _named_checkpoint() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"`checkpoint` {error}") from error


def named_variant(path: str | Path) -> str | None:
    """The variant whose official name stands in a path, in any folder of it: `F5TTS_v1_Base` in that of v1_base."""
    official = {name.casefold(): variant for variant, name in VARIANTS.items()}
    found = re.findall("|".join(official), str(path).casefold())
    return official[found[-1]] if found else None


def choose_variant(variant: str | None, path: str | Path, state: Mapping[str, torch.Tensor]) -> str:
    """
    The variant of a checkpoint: as asked for, else as its path is named, else as its size is; with a warning where
    that leaves open which of the two with the same shapes it is, and where the path names another than was asked for.
    """
    named, fits = named_variant(path), _variants_of_size(state)
    if variant is not None:
        if named not in (None, variant) and {variant, named} <= set(fits):
            warnings.warn(
                f"`checkpoint` {str(path)!r} is named as {VARIANTS[named]}, and is read as `variant` {variant!r}: the "
                "two have the same shapes, and the wrong one of them speaks noise.",
                stacklevel=2,
            )
        return variant
    if named is not None:
        return named
    chosen = next(iter(fits), DEFAULT_VARIANT)
    if len(fits) > 1:
        warnings.warn(
            f"`checkpoint` {str(path)!r} can be of the variants {', '.join(fits)}, which have the same shapes, and is "
            f"read as {chosen!r}: if it speaks noise, name the other as `variant`.",
            stacklevel=2,
        )
    return chosen


@dataclass
class F5Checkpoint:
    """
    Args:
        path (`Path`): the file of the weights, for messages.
        variant (`str`): key of `VARIANTS`.
        config (`dict`): arguments of an `F5Backbone`: the variant's architecture, the size of the vocabulary, names.
        state_dict (`dict[str, torch.Tensor]`): of that `DiT`.
    """

    path: Path
    variant: str
    config: dict[str, Any]
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
                f"{self.config['text_num_embeds']} tokens; " + "; ".join(problems) + f".{_guess_variant(state)}"
            )


def read_f5_checkpoint(
    checkpoint: str | Path,
    vocab: Any = None,
    variant: str | None = None,
    *,
    use_ema: bool = True,
    revision: str | None = None,
    **hub,
) -> F5Checkpoint:
    """
    The weights of a checkpoint, with the architecture of a `variant` and the number of tokens of `vocab`; arguments
    as in `F5Backbone.from_f5_checkpoint`.
    """
    if variant is not None:
        # A typo is said before gigabytes are read.
        variant_config(variant)
    if hasattr(vocab, "vocab_size"):
        num_tokens = vocab.vocab_size
    else:
        vocab_file = default_vocab() if vocab is None else resolve_file(vocab, revision=revision, **hub)
        # One token a line, as f5_tts counts them; a last line without its line end is a token too.
        with open(vocab_file, encoding="utf-8") as lines:
            num_tokens = sum(1 for _ in lines)
    path = resolve_file(checkpoint, revision=revision, **hub)
    state = read_state_dict(path, use_ema)
    variant = choose_variant(variant, checkpoint, state)
    names = {"text_num_embeds": num_tokens, "name": VARIANTS[variant], "revision": revision}
    return F5Checkpoint(path, variant, variant_config(variant) | names, state)


def _size(state: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Width and depth."""
    weight = state.get("proj_out.weight")
    depth = len({name.split(".")[1] for name in state if name.startswith("transformer_blocks.")})
    return (0 if weight is None else weight.shape[-1]), depth


def _variants_of_size(state: Mapping[str, torch.Tensor]) -> list[str]:
    size = _size(state)
    return [name for name in VARIANTS if (variant_config(name)["dim"], variant_config(name)["depth"]) == size]


def _guess_variant(state: dict[str, torch.Tensor]) -> str:
    """A closing sentence that names the variants whose width and depth the file has."""
    if "proj_out.weight" not in state:
        return ""
    (dim, depth), fits = _size(state), _variants_of_size(state)
    found = f" The file has width {dim} and depth {depth}"
    return f"{found}: that of {fits}." if fits else f"{found}: that of no known variant."


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "nothing"

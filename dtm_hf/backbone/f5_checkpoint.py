"""Reads official F5-TTS checkpoints into [`F5Backbone`]."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

if TYPE_CHECKING:
    from .backbone_f5 import F5Backbone


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


def resolve_file(path: str | Path, *, revision: str | None = None, **hub_kwargs) -> Path:
    """A local file, or `hf://org/repo/path/in/repo` fetched from the Hub."""
    text = str(path)
    if text.startswith("hf://"):
        parts = text.removeprefix("hf://").split("/")
        if len(parts) < 3:
            raise ValueError(f"A Hub file must read hf://org/repo/path, but got {text!r}.")
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:]), revision=revision, **hub_kwargs))
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


def load_f5_checkpoint(
    cls: type["F5Backbone"],
    checkpoint: str | Path,
    *,
    vocab=None,
    variant: str = "v1_base",
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    license: str = "cc-by-nc-4.0",
    **hub_kwargs,
) -> "F5Backbone":
    """
    Args:
        checkpoint (`str` or `Path`): Local file or `hf://org/repo/path`.
        vocab (`str`, `Path` or a tokenizer with `vocab_size`, *optional*): f5_tts's own vocabulary by default.
        variant (`str`): Key of `VARIANTS`. `base` and `v1_base` have the same shapes: the file cannot tell them apart.
        revision (`str`, *optional*): Hub revision of the file; recorded in the backbone.
        dtype (`torch.dtype`, *optional*): Of the parameters; that of the file by default.
        license (`str`): Licence of the weights. Official ones are CC-BY-NC-4.0.

    Raises:
        ValueError: for a wrong `variant`, a damaged file, or missing, unexpected or misshapen weights, by name.
    """
    config = variant_config(variant)
    if hasattr(vocab, "vocab_size"):
        config["text_num_embeds"] = vocab.vocab_size
    else:
        vocab_file = default_vocab() if vocab is None else resolve_file(vocab, revision=revision, **hub_kwargs)
        # One token a line, as f5_tts counts them; a last line without its line end is a token too.
        with open(vocab_file, encoding="utf-8") as lines:
            config["text_num_embeds"] = sum(1 for _ in lines)
    path = resolve_file(checkpoint, revision=revision, **hub_kwargs)
    state = read_state_dict(path)

    with torch.device("meta"):
        expected = {
            key: value.shape for key, value in _build(cls, config, variant, revision, license).dit.state_dict().items()
        }
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(set(state) - set(expected))
    misshapen = sorted(
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key])}"
        for key in set(expected) & set(state)
        if state[key].shape != expected[key]
    )
    if missing or unexpected or misshapen:
        problems = [
            f"{what}: {_some(keys)}"
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
            if keys
        ]
        raise ValueError(
            f"`checkpoint` {str(path)!r} does not fit `variant` {variant!r} with {config['text_num_embeds']} tokens; "
            + "; ".join(problems)
            + f".{_guess_variant(state)}"
        )
    backbone = _build(cls, config, variant, revision, license)
    backbone.dit.load_state_dict(state)
    return backbone.to(dtype or state["proj_out.weight"].dtype)


def _build(cls, config: dict, variant: str, revision: str | None, license: str) -> "F5Backbone":
    return cls(**config, name=VARIANTS[variant], revision=revision, license=license)


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

"""The models that the benchmarks build with random weights, in the sizes of what is shipped: read, not repeated."""

import argparse
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dtm_hf import DTMHead, F5Backbone
    from dtm_hf.training.config.arguments import TrainingConfig

MODELS = ("embedded", "full")
HEADS = ("guidance", "drawing")
_CONFIGS = Path(__file__).parents[1] / "training" / "configs"
# A recipe, and what a head that draws is trained with in its place. docs/full-size.md names the options of full size.
_RECIPES = {
    ("embedded", "guidance"): ("dtm_policy_voice.yaml", ""),
    ("embedded", "drawing"): ("dtm_voice.yaml", ""),
    ("full", "guidance"): ("dtm_f5_v1_base.yaml", ""),
    ("full", "drawing"): (
        "dtm_f5_v1_base.yaml",
        "--head_prediction residual --head_architecture conv --head_residual_layers 0 --baked_guidance_end 1.0 "
        "--num_inference_steps 8 --num_head_steps 2 --head_solver midpoint",
    ),
}
_SHAPE = ("dim", "depth", "heads", "dim_head", "ff_mult", "text_dim", "conv_layers", "qk_norm", "pe_attn_head")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, default="embedded", help="the embedded size, or F5-TTS v1 Base")


# Asked for again where new tensors have no content, which a recipe cannot be checked with.
@cache
def recipe(model: str, head: str = "guidance") -> "TrainingConfig":
    """What the head of a model is trained with."""
    from dtm_hf.training.systems import parse_config

    name, options = _RECIPES[model, head]
    return parse_config(["--config", str(_CONFIGS / name), *options.split()])


def random_backbone(model: str, vocab_size: int) -> "F5Backbone":
    """Of the embedded model without what its text is aligned with: a pass takes the same."""
    from dtm_hf import F5Backbone
    from dtm_hf.backbone.f5_checkpoint import variant_config
    from dtm_hf.commands.models import EMBEDDED

    if model == "full":
        sizes: dict[str, Any] = variant_config("v1_base")
    else:
        shipped = F5Backbone.load_config(EMBEDDED / "backbone")
        sizes = {name: shipped[name] for name in _SHAPE}
    return F5Backbone(**sizes, text_num_embeds=vocab_size, license="mit")


def random_head(model: str, backbone: "F5Backbone", head: str = "guidance", **overrides) -> "DTMHead":
    """A new head of a recipe. Its mean log-mel is zero, and what it would copy from its backbone is random."""
    from dtm_hf import DTMHead, DTMHeadConfig
    from dtm_hf.training.speech.head import head_settings

    settings = head_settings(backbone, recipe(model, head).objective)
    if head == "guidance":
        settings["mean_mel"] = [0.0] * backbone.config.mel_dim
    return DTMHead(DTMHeadConfig(**settings | overrides))

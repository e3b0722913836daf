"""The variants of `trained_ablations.py`: each one change of the recipe, and the trainer that takes it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dtm_hf.training.arguments import TrainingConfig
    from dtm_hf.training.components import Components


@dataclass(frozen=True)
class Variant:
    """
    One change of the recipe.

    Args:
        name (`str`): In the results.
        change (`str`): What is changed, for people.
        fields (`dict`): Fields of the training configuration and their values.
        rebuild (`Callable`, *optional*): Components of the package -> those of the variant.
        sampling (`dict`): Arguments of its [`Arm`].
        searches_grid (`bool`, defaults to `False`): Its global times are searched.
        weights_of (`str`, *optional*): It is not trained, but takes the head of this variant.
    """

    name: str
    change: str
    fields: dict[str, Any] = field(default_factory=dict)
    rebuild: Callable[["Components", "TrainingConfig"], "Components"] | None = None
    sampling: dict[str, float] = field(default_factory=dict)
    searches_grid: bool = False
    weights_of: str | None = None

    @property
    def trained_as(self) -> str:
        """The variant whose head it speaks with."""
        return self.weights_of or self.name

    def configured(self, recipe: "TrainingConfig") -> "TrainingConfig":
        """
        The recipe with this change.

        Raises:
            ValueError: for a field that a configuration does not have, or a value that it refuses.
        """
        from dtm_hf.training.parsing import check_values

        sections, unknown = {}, set(self.fields)
        for entry in dataclasses.fields(recipe):
            section = getattr(recipe, entry.name)
            known = {f.name for f in dataclasses.fields(section)}
            changed = {name: value for name, value in self.fields.items() if name in known}
            sections[entry.name] = dataclasses.replace(section, **changed)
            unknown -= known
        if unknown:
            raise ValueError(f"`fields` must be fields of a configuration, but got {', '.join(sorted(unknown))}.")
        config = type(recipe)(**sections)
        check_values(config)
        return config

    def components(self, config: "TrainingConfig") -> "Components":
        """What training and speaking need, around a backbone of its own; the head has fresh weights."""
        from dtm_hf.training.components import build_components

        components = build_components(config)
        return components if self.rebuild is None else self.rebuild(components, config)


def _several_layers(components: "Components", config: "TrainingConfig", layers: tuple[int, ...]) -> "Components":
    from ablation_heads import concatenate_layers

    from dtm_hf import DTMHead

    head_config = components.head.config
    head_config.backbone_hidden_size = concatenate_layers(components.backbone, layers)
    head = DTMHead(head_config)
    return dataclasses.replace(components, head=head, trained=head)


def _dit_blocks(components: "Components", config: "TrainingConfig", num_blocks: int) -> "Components":
    from ablation_heads import DiTBlocksHead, stream_as_features

    backbone = components.backbone
    head = DiTBlocksHead(components.head.config, backbone, num_blocks)
    stream_as_features(backbone, backbone.config.depth - num_blocks)
    return dataclasses.replace(components, head=head, trained=head)


def _oracle_target(components: "Components", config: "TrainingConfig") -> "Components":
    from ablation_heads import OracleTargetObjective

    objective = OracleTargetObjective(config.objective, components.backbone, components.scheduler.timesteps)
    return dataclasses.replace(components, objective=objective)


_UNBAKED = {"baked_guidance_scale": None, "baked_guidance_range": None, "baked_guidance_end": 1.0}

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("reference", "the recipe"),
        Variant("direct", "the network is g itself", {"head_prediction": "direct"}),
        Variant("mlp", "each frame alone", {"head_architecture": "mlp"}),
        Variant("dit-1", "a copy of the last DiT block", rebuild=partial(_dit_blocks, num_blocks=1)),
        Variant("dit-2", "copies of the last two DiT blocks", rebuild=partial(_dit_blocks, num_blocks=2)),
        Variant("layers", "features of layers 2, 4 and 6", rebuild=partial(_several_layers, layers=(2, 4))),
        Variant("oracle-target", "target g* in the place of Y - Y_0", rebuild=_oracle_target),
        Variant(
            "unbaked",
            "guidance 2 until t=0.25 on the head, two branches",
            _UNBAKED,
            sampling={"guidance_scale": 2.0, "guidance_end": 0.25},
        ),
        Variant("baked-2", "one guidance scale baked in, 2", {"baked_guidance_range": None}),
        Variant("k-1", "1 draw of (s, Y_0) a pass", {"head_batch_multiplier": 1}),
        Variant("no-mean-draws", "no draw at s=0 with the guided mean as its target", {"mean_draw_prob": 0.0}),
        Variant("k-4", "4 draws", {"head_batch_multiplier": 4}),
        Variant("k-16", "16 draws", {"head_batch_multiplier": 16}),
        Variant("s-logit-normal", "s drawn logit-normal", {"s_sampling": "logit_normal"}),
        Variant("s-weight-none", "the loss is that of y_hat", {"min_loss_remainder": 1.0}),
        Variant("s-weight-full", "1 - s bounded at 0.05 in the loss", {"min_loss_remainder": 0.05}),
        Variant("hidden-256", "width 256", {"head_hidden_size": 256}),
        Variant("t-sway-twice", "t drawn denser near 0, not from the grid", {"t_sampling": "sway_twice"}),
        Variant("searched-grid", "a searched grid of t", searches_grid=True, weights_of="reference"),
    )
}


def make_trainer(config: "TrainingConfig", variant: Variant):
    """
    The package's trainer around the components of a variant, on which only its loop is called: it writes no
    checkpoints.
    """
    from dtm_hf.training.speech import SpeechTask
    from dtm_hf.training.trainer import Trainer

    return Trainer(config, lambda run: SpeechTask(run, variant.components(run)))

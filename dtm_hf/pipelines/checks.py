"""Whether what a pipeline is made of belongs together: its parts, and what its files say of them."""

import os
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.backbone.fingerprint import other_backbone
from dtm_hf.head.modeling_dtm import DTMHead
from dtm_hf.mean_mel import MeanMel
from dtm_hf.reading import show
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.validation import check_values, naming

# The classes of each component of a `DTMPipeline`; one that is not among them is somebody's own, of whatever kind.
COMPONENT_CLASSES = {
    "backbone": ("F5Backbone", "PortedBackbone"),
    "head": ("DTMHead", "PortedHead"),
    "tokenizer": ("F5Tokenizer",),
    "feature_extractor": ("F5FeatureExtractor",),
    "scheduler": ("DTMScheduler",),
    "vocoder": ("GriffinLimVocoder", "VocosVocoder", "PortedVocoder"),
    "duration_predictor": ("DurationPredictor", "TokenDurations", "PortedTokenDurations"),
    "text_aligner": ("TextAligner", "PortedTextAligner"),
    "text_normalizer": ("TextNormalizer",),
}


def make_scheduler(sampler: dict[str, Any], name: str | os.PathLike) -> DTMScheduler:
    """
    The scheduler that the configuration of a head or a student asks for as its `sampler`.

    Raises:
        ValueError: for an entry of another type or out of its bounds.
    """
    source = f"{str(name)!r}, `sampler`"
    check_values(sampler, DTMScheduler.__init__, source)
    with naming(source):
        return DTMScheduler(**sampler)


REQUIRED_COMPONENTS = ("backbone", "tokenizer", "feature_extractor", "vocoder", "scheduler")


def check_index(
    content: dict[str, Any],
    path: str | os.PathLike,
    classes: Mapping[str, Sequence[str]] = COMPONENT_CLASSES,
    required: Sequence[str] = REQUIRED_COMPONENTS,
) -> None:
    """
    Args:
        content (`dict`): of a `model_index.json`.
        path (`str` or `os.PathLike`): of that, for messages.
        classes (mapping of `str` to `list[str]`): those of dtm-hf that each component may be of.
        required (`list[str]`): components that there must be.

    Raises:
        ValueError: if what a `model_index.json` says of a component is not a library and a class, or not one of the
            component's kind.
    """
    if not isinstance(content.get("_class_name"), str) or not content["_class_name"]:
        raise ValueError(
            f"{os.fspath(path)!r}: `_class_name` must be the class of a pipeline, but got "
            f"{show(content.get('_class_name'))}."
        )
    if missing := [name for name in required if name not in content]:
        raise ValueError(f"{os.fspath(path)!r}: `{missing[0]}` is missing.")
    if not isinstance(content.get("force_head", False), bool):
        raise ValueError(
            f"{os.fspath(path)!r}: `force_head` must be true or false, but got {content['force_head']!r}."
        )
    if content.get("mean_mel") is not None:
        try:
            MeanMel.of(content["mean_mel"])
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)!r}: {error}") from None
    for name, value in content.items():
        if name not in classes:
            continue
        named = isinstance(value, list) and len(value) == 2
        if not named or not (value == [None, None] or all(isinstance(part, str) for part in value)):
            raise ValueError(
                f"{os.fspath(path)!r}: `{name}` must be a library and a class, or two nulls, but got {show(value)}."
            )
        of_others = [known for other, classes in classes.items() if other != name for known in classes]
        if value[0] == "dtm_hf" and value[1] in of_others:
            wanted = " or ".join(classes[name])
            raise ValueError(f"{os.fspath(path)!r}: `{name}` must be of the class {wanted}, but got {value[1]!r}.")


def check_parts(backbone: F5Backbone, tokenizer: Any, feature_extractor: Any, vocoder: Any) -> None:
    """
    Raises:
        ValueError: for a tokenizer of another size than the backbone's vocabulary, and for mels that one part writes
            and another does not read.
    """
    config = backbone.config
    if tokenizer.vocab_size != config.text_num_embeds:
        raise ValueError(
            f"`tokenizer` must have the {config.text_num_embeds} tokens that `backbone` {config.name!r} was trained "
            f"with, but has {tokenizer.vocab_size}."
        )
    extractor = feature_extractor
    if extractor.feature_size != config.mel_dim:
        raise ValueError(
            f"`feature_extractor` must make the {config.mel_dim} mel bins that `backbone` {config.name!r} was trained "
            f"with, but makes {extractor.feature_size}."
        )
    # A vocoder of the user's own need not say how many bins it reads.
    bins = getattr(getattr(vocoder, "config", None), "input_channels", extractor.feature_size)
    made = {"mel bins": extractor.feature_size, "Hz": extractor.sampling_rate, "samples a frame": extractor.hop_length}
    read = {"mel bins": bins, "Hz": vocoder.sampling_rate, "samples a frame": vocoder.hop_length}
    for unit, value in made.items():
        if read[unit] != value:
            raise ValueError(
                f"`vocoder` must read the mels of `feature_extractor`, {value} {unit}, but is made for {read[unit]}."
            )


def check_head(head: DTMHead, backbone: F5Backbone, force: bool) -> None:
    """
    Raises:
        ValueError: if the head does not fit the backbone, or was trained on another one and `force` is not set.
    """
    config = head.config
    if (config.backbone_hidden_size, config.num_mel_bins) != (backbone.config.dim, backbone.config.mel_dim):
        raise ValueError(
            f"`head` reads features of size {config.backbone_hidden_size} and writes {config.num_mel_bins} mel bins, "
            f"but `backbone` {backbone.config.name!r} has {backbone.config.dim} and {backbone.config.mel_dim}."
        )
    # A port gives what it was exported with.
    given = (0, getattr(backbone, "residual_layers", config.residual_layers))
    if (
        config.residual_layers > getattr(backbone.config, "depth", 0)
        or config.residual_layers not in given
        or (config.prediction == "guidance" and "residual_layers" not in signature(backbone.forward).parameters)
    ):
        raise ValueError(
            f"`head` reads the residual stream before the last {config.residual_layers} blocks of its backbone, which "
            f"`backbone` {backbone.config.name!r}, a {type(backbone).__name__}, does not give."
        )
    if not force and (other := other_backbone(config, backbone)):
        raise ValueError(
            f"`head` was trained on {other} Use the backbone it was trained on, or pass `force_head=True`."
        )

"""Where what is trained comes from: what its configuration and its model card say of base model, data and results."""

from pathlib import Path
from typing import Any

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.backbone.fingerprint import WeightsSketch
from dtm_hf.hub import hub_name
from dtm_hf.training.config.arguments import TrainingConfig


def provenance(config: TrainingConfig, backbone: F5Backbone) -> dict[str, Any]:
    """
    The fields by which a head or a student names the frozen backbone that it belongs to. To be asked before adapters
    change the names of the backbone's layers, and with them its fingerprint.
    """
    return {
        "backbone_name": backbone.config.name,
        "backbone_revision": backbone.config.revision,
        "backbone_fingerprint": backbone.fingerprint,
        "backbone_sketch": str(WeightsSketch.of(backbone)),
        "base_model": hub_name(config.model.base_model),
        "base_model_revision": config.model.base_model_revision,
        "license": backbone.config.license,
        "training_data": data_description(config),
    }


def data_description(config: TrainingConfig) -> str:
    """What a model card says of the data."""
    names = [Path(source.dataset).name for source in config.data.all_sources()]
    return config.data.dataset_description or ", ".join(names)


def training_record(
    config: TrainingConfig, step: int, hours: float, results: dict[str, float] | None = None
) -> tuple[str, dict | None]:
    """What a model card says of the training, and of what was measured at this step: `{arm: {metric: value}}`."""
    training_data = f"{data_description(config)}; {step:,} steps, {hours:,.1f} hours of speech with repeats"
    if not results:
        return training_data, None
    figures = {name.replace("_", " "): f"{value:.4g}" for name, value in results.items()}
    return training_data, {f"averaged weights, step {step:,}": figures}

"""Where weights that were trained on a frozen F5-TTS backbone come from: the same fields for heads and students."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CARD_TEMPLATE = Path(__file__).parent / "model_card.md"
# What every card of this system says.
CARD = {
    "model_name": "dtm-f5",
    "pipeline_tag": "text-to-speech",
    "tags": ["text-to-speech", "dtm-hf", "f5-tts", "flow-matching"],
}


@dataclass(kw_only=True, repr=False, eq=False)
class Provenance:
    """
    Fields of the configuration of what was trained on a frozen backbone.

    Args:
        backbone_name (`str`, *optional*): name of the backbone it was trained on.
        backbone_revision (`str`, *optional*): revision of that.
        backbone_fingerprint (`str`, *optional*): [`F5Backbone.fingerprint`] of that.
        backbone_sketch (`str`, *optional*): [`~dtm_hf.backbone.fingerprint.WeightsSketch`] of that, by which copies in
            other types are known.
        base_model (`str`, *optional*): pipeline that holds the other components, for a repository with nothing else.
        base_model_revision (`str`, *optional*): revision of that.
        license (`str`, *optional*): inherited from the backbone.
        training_data (`str`, *optional*): for the model card.
        results (`dict`, *optional*): measured results `{arm: {metric: value}}`, for the model card.
    """

    backbone_name: str | None = None
    backbone_revision: str | None = None
    backbone_fingerprint: str | None = None
    backbone_sketch: str | None = None
    base_model: str | None = None
    base_model_revision: str | None = None
    license: str | None = None
    training_data: str | None = None
    results: dict | None = None

    def provenance_values(self) -> dict[str, Any]:
        """The part of [`~dtm_hf.hub.Publishable.card_values`] that heads and students share."""
        return CARD | {
            "license": self.license or "unknown",
            "base_model": self.base_model,
            "backbone_name": self.backbone_name or "not recorded",
            "backbone_revision": self.backbone_revision,
            "fingerprint": self.backbone_fingerprint,
            "training_data": self.training_data,
            "results": self.results,
        }

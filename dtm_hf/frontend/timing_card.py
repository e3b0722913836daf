"""What the networks that time text say on their model card."""

from pathlib import Path
from typing import Any


class TimingCardMixin:
    """Of a network with `num_tokens` and `training_data` in its configuration and a `card_summary`."""

    card_template = Path(__file__).parents[1] / "timing_card.md"
    card_summary: str

    def card_values(self) -> dict[str, Any]:
        """See [`~dtm_hf.hub.Publishable`]."""
        return {
            "model_name": "dtm-timing",
            "tags": ["text-to-speech", "dtm-hf"],
            "class_name": type(self).__name__,
            "summary": self.card_summary,
            "num_tokens": self.config.num_tokens,
            "training_data": self.config.training_data,
        }

"""What a [`TRMPipeline`] must be made of, and what its card says."""

from pathlib import Path
from typing import Any

from transformers.models.mimi.modeling_mimi import MimiModel

from dtm_hf.codec.mimi import SAMPLING_RATE
from dtm_hf.frontend.duration_prediction import describe_lengths
from dtm_hf.frontend.text_normalizer import describe_normalizer
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.pipelines.code_rows import CHARACTERS_PER_SECOND
from dtm_hf.pipelines.repository import PublishedMixin
from dtm_hf.trm.modeling_trm import TRMModel

# What every card of this system says.
_CARD = {
    "model_name": "trm",
    "pipeline_tag": "text-to-speech",
    "tags": ["text-to-speech", "dtm-hf", "mimi", "tiny-recursive-model"],
}


class TRMRepositoryMixin(PublishedMixin):
    """Loading, saving and pushing of [`TRMPipeline`]."""

    card_template = Path(__file__).parents[1] / "trm_card.md"
    component_classes = {
        "model": ("TRMModel", "PortedTRM"),
        "codec": ("PortedCodec",),
        "tokenizer": ("F5Tokenizer",),
        "scheduler": ("MaskingScheduler",),
        "duration_predictor": ("DurationPredictor",),
        "text_normalizer": ("TextNormalizer",),
    }
    required_components = ("model", "codec", "tokenizer", "scheduler")

    def card_values(self) -> dict[str, Any]:
        """What the model card says: see [`~dtm_hf.hub.Publishable`]."""
        config = self.model.config
        return _CARD | {
            "license": config.license or "unknown",
            "base_model": None,
            "model": config.to_dict(),
            "parameters": f"{self.model.num_parameters():,}",
            "codec_rate": self.sampling_rate,
            "codec_parameters": f"{self._codec_parameters():,}",
            "speakers": ", ".join(config.speakers[:20]) + (", ..." if len(config.speakers) > 20 else ""),
            "num_inference_steps": self.scheduler.config.num_inference_steps,
            "lengths": self.describe_lengths(),
            "normalizer": describe_normalizer(self.text_normalizer),
            "words": sorted(self.tokenizer.words or ()),
            "training_data": config.training_data,
            "results": config.results,
        }

    def _codec_parameters(self) -> int:
        # A port has graphs in the place of parameters.
        ported = hasattr(self.codec, "manifest")
        return self.codec.manifest.num_parameters if ported else self.codec.num_parameters()

    def describe_lengths(self) -> str:
        """Where the length of speech is from, in words."""
        if self.duration_predictor is None:
            return f"{CHARACTERS_PER_SECOND} characters a second"
        return describe_lengths(self.duration_predictor).removeprefix("in proportion to the prompt, ")


def check_trm_parts(model: TRMModel, codec: MimiModel, tokenizer: F5Tokenizer) -> None:
    """
    Raises:
        ValueError: for a tokenizer of another size than the network's vocabulary, and for a codec of another rate, of
            fewer codebooks or of others than the network writes.
    """
    wanted, has = model.config, codec.config
    if wanted.vocab_size != tokenizer.vocab_size + 1:
        raise ValueError(
            f"`tokenizer` must have the {wanted.vocab_size - 1} tokens that `model` was trained with, but has "
            f"{tokenizer.vocab_size}."
        )
    if has.sampling_rate != SAMPLING_RATE:
        raise ValueError(f"`codec` must code sound of {SAMPLING_RATE} Hz, but is for {has.sampling_rate} Hz.")
    if has.codebook_size != wanted.codebook_size or has.num_quantizers < wanted.num_codebooks:
        raise ValueError(
            f"`codec` must have the {wanted.num_codebooks} codebooks of {wanted.codebook_size} entries that `model` "
            f"writes, but has {has.num_quantizers} of {has.codebook_size}."
        )

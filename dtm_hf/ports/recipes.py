"""The table of what can be ported: a class of components, its graphs, and what stands in its place."""

from collections.abc import Mapping
from typing import Any

from transformers import MimiModel, SpeechT5ForTextToSpeech, SpeechT5HifiGan

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.frontend.text_aligner import TextAligner
from dtm_hf.frontend.token_durations import TokenDurations
from dtm_hf.head.modeling_dtm import DTMHead
from dtm_hf.ports.graph import Recipe
from dtm_hf.ports.graphs_codec import codec_graphs
from dtm_hf.ports.graphs_f5 import backbone_graphs
from dtm_hf.ports.graphs_head import head_graphs
from dtm_hf.ports.graphs_speecht5 import hifigan_graphs, speecht5_graphs
from dtm_hf.ports.graphs_timing import aligner_graphs, durations_graphs
from dtm_hf.ports.graphs_trm import trm_graphs
from dtm_hf.ports.graphs_vocoder import vocos_graphs
from dtm_hf.ports.ported import PortedBackbone, PortedHead, PortedVocoder
from dtm_hf.ports.ported_codec import PortedCodec
from dtm_hf.ports.ported_speecht5 import PortedHifiGan, PortedSpeechT5
from dtm_hf.ports.ported_timing import PortedTextAligner, PortedTokenDurations
from dtm_hf.ports.ported_trm import PortedTRM
from dtm_hf.trm.modeling_trm import TRMModel
from dtm_hf.vocoder.vocoder_vocos import VocosVocoder

RECIPES: dict[type, Recipe] = {
    F5Backbone: Recipe(backbone_graphs, PortedBackbone, gives_residual=True),
    DTMHead: Recipe(head_graphs, PortedHead),
    VocosVocoder: Recipe(vocos_graphs, PortedVocoder),
    TextAligner: Recipe(aligner_graphs, PortedTextAligner),
    TokenDurations: Recipe(durations_graphs, PortedTokenDurations),
    SpeechT5ForTextToSpeech: Recipe(speecht5_graphs, PortedSpeechT5),
    SpeechT5HifiGan: Recipe(hifigan_graphs, PortedHifiGan),
    MimiModel: Recipe(codec_graphs, PortedCodec),
    TRMModel: Recipe(trm_graphs, PortedTRM),
}

# What a port keeps as it is, for no network is in it. Of a `DTMPipeline`, `dtm_hf.runtime` has numpy in its place.
AS_THEY_ARE = frozenset(
    {
        "DTMScheduler",
        "DurationPredictor",
        "F5FeatureExtractor",
        "F5Tokenizer",
        "GriffinLimVocoder",
        "MaskingScheduler",
        "SpeakerTable",
        "SpeechT5Tokenizer",
        "TextNormalizer",
    }
)


def recipe_of(name: str, component: Any) -> Recipe | None:
    """
    How a component of a pipeline is ported; `None` if it stays as it is, or there is none.

    Raises:
        ValueError: if it cannot be ported.
    """
    if component is None or type(component).__name__ in AS_THEY_ARE:
        return None
    if type(component) not in RECIPES:
        able = ", ".join(sorted({*(known.__name__ for known in RECIPES), *AS_THEY_ARE}))
        raise ValueError(
            f"`{name}` cannot be exported: there are no graphs of {type(component).__name__}, but of {able}."
        )
    if isinstance(component, F5Backbone) and component.early is not None:
        raise ValueError(
            f"`{name}` cannot be exported: there are no graphs yet of a student that is one until t = "
            f"{component.config.adapted_until:g} alone."
        )
    return RECIPES[type(component)]


def residual_layers_read(components: Mapping[str, Any]) -> int:
    """Of the components of a pipeline, what the head reads of its backbone's residual stream: see `DTMHeadConfig`."""
    return getattr(getattr(components.get("head"), "config", None), "residual_layers", 0)

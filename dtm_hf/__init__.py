"""
dtm-hf: few-step text-to-speech with a small flow head on a frozen F5-TTS backbone.

Importing this package is cheap: classes are imported when they are first asked for, and the package makes itself
known to diffusers when diffusers is imported, before or after it.
"""

import importlib
import os

from . import _registration

# ONNX Runtime, which diffusers imports where it is installed, tells its makers of its sessions, and leaves a file
# among the temporary ones, unless it is told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_MODULES = {
    "DTMHead": "dtm_hf.head.modeling_dtm",
    "DTMHeadConfig": "dtm_hf.head.configuration_dtm",
    "DTMHeadOutput": "dtm_hf.head.contract",
    "DTMPipeline": "dtm_hf.pipelines.pipeline_dtm",
    "DTMPipelineOutput": "dtm_hf.pipelines.output",
    "DTMScheduler": "dtm_hf.scheduling.scheduling_dtm",
    "DTMSchedulerOutput": "dtm_hf.scheduling.scheduling_dtm",
    "DurationPredictor": "dtm_hf.frontend.duration_prediction",
    "F5Backbone": "dtm_hf.backbone.backbone_f5",
    "F5BackboneOutput": "dtm_hf.backbone.contract",
    "F5FeatureExtractor": "dtm_hf.frontend.feature_extraction_f5",
    "F5Tokenizer": "dtm_hf.frontend.tokenization_f5",
    "GriffinLimVocoder": "dtm_hf.vocoder.vocoder_griffin_lim",
    "MaskingScheduler": "dtm_hf.scheduling.scheduling_masking",
    "MaskingSchedulerOutput": "dtm_hf.scheduling.scheduling_masking",
    "PortedBackbone": "dtm_hf.ports.ported",
    "PortedCodec": "dtm_hf.ports.ported_codec",
    "PortedHead": "dtm_hf.ports.ported",
    "PortedHifiGan": "dtm_hf.ports.ported_speecht5",
    "PortedSpeechT5": "dtm_hf.ports.ported_speecht5",
    "PortedTRM": "dtm_hf.ports.ported_trm",
    "PortedTextAligner": "dtm_hf.ports.ported_timing",
    "PortedTokenDurations": "dtm_hf.ports.ported_timing",
    "PortedVocoder": "dtm_hf.ports.ported",
    "SpeakerTable": "dtm_hf.speecht5.speakers",
    "SpeechT5Pipeline": "dtm_hf.pipelines.pipeline_speecht5",
    "SpeechT5PipelineOutput": "dtm_hf.pipelines.output",
    "SpeechT5Reference": "dtm_hf.speecht5.reference",
    "Student": "dtm_hf.backbone.student",
    "StudentConfig": "dtm_hf.backbone.student",
    "TRMConfig": "dtm_hf.trm.configuration_trm",
    "TRMModel": "dtm_hf.trm.modeling_trm",
    "TRMPipeline": "dtm_hf.pipelines.pipeline_trm",
    "TRMPipelineOutput": "dtm_hf.pipelines.output",
    "TextAligner": "dtm_hf.frontend.text_aligner",
    "TextNormalizer": "dtm_hf.frontend.text_normalizer",
    "TokenDurations": "dtm_hf.frontend.token_durations",
    "VocosVocoder": "dtm_hf.vocoder.vocoder_vocos",
    "ZeroStarGuidance": "dtm_hf.pipelines.guidance",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_MODULES))


_registration.install()

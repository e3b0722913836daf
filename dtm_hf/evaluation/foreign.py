"""Which system judges the arms of which class of pipeline."""

from importlib import import_module
from typing import Any

from dtm_hf.evaluation.systems import ForeignSystem

# Kind of arms by the class of the pipeline that speaks them.
KINDS = {"SpeechT5Pipeline": "speecht5", "TRMPipeline": "trm"}
# Named and not imported: a benchmark needs the libraries of the systems that it has alone.
_SYSTEMS = {
    "speecht5": ("dtm_hf.evaluation.speecht5", "SpeechT5System"),
    "trm": ("dtm_hf.evaluation.trm", "TRMSystem"),
}


def foreign_system(pipe: Any, extractor: Any) -> ForeignSystem:
    """
    The system of a pipeline.

    Args:
        pipe: of one of the classes in `KINDS`, loaded, on its device.
        extractor ([`F5FeatureExtractor`]): of the mels that are judged.

    Raises:
        ValueError: if it cannot be judged.
    """
    module, name = _SYSTEMS[KINDS[type(pipe).__name__]]
    return getattr(import_module(module), name)(pipe, extractor)

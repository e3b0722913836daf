"""
Makes the components known to diffusers and transformers.

`DiffusionPipeline` loads a component only if its library stands in diffusers' table of loadable classes, and a
pipeline class only if it is an attribute of `diffusers`; the Auto classes know the head once its module is imported.
Importing the two costs seconds, so the entries are made when somebody else imports them: at once if that has
happened, else right after it does.
"""

import importlib
import importlib.abc
import importlib.util
import sys

_SAVE_AND_LOAD = ["save_pretrained", "from_pretrained"]
_COMPONENTS = (
    "F5Backbone",
    "DTMHead",
    "DTMScheduler",
    "MaskingScheduler",
    "TRMModel",
    "F5Tokenizer",
    "F5FeatureExtractor",
    "GriffinLimVocoder",
    "VocosVocoder",
    "DurationPredictor",
    "TextAligner",
    "TextNormalizer",
    "TokenDurations",
    "PortedBackbone",
    "PortedCodec",
    "PortedHead",
    "PortedHifiGan",
    "PortedSpeechT5",
    "PortedTRM",
    "PortedTextAligner",
    "PortedTokenDurations",
    "PortedVocoder",
    "SpeakerTable",
)


def register_with_diffusers() -> None:
    """Enter the components into diffusers' tables, and the pipelines into diffusers."""
    from diffusers.pipelines import pipeline_loading_utils as tables

    tables.LOADABLE_CLASSES["dtm_hf"] = {name: _SAVE_AND_LOAD for name in _COMPONENTS}
    tables.ALL_IMPORTABLE_CLASSES.update(tables.LOADABLE_CLASSES["dtm_hf"])

    # Each module puts its pipeline into `diffusers` at its end; it may be the one whose import brought us here.
    for name in ("pipeline_dtm", "pipeline_trm", "pipeline_speecht5"):
        importlib.import_module(f"dtm_hf.pipelines.{name}")


def register_with_transformers() -> None:
    """Enter head and TRM into `AutoConfig` and `AutoModel`, which their modules do at their ends."""
    layers = sys.modules.get("transformers.modeling_layers")
    if layers is not None and not hasattr(layers, "GradientCheckpointingLayer"):
        # It imports the Auto classes before it defines what the head is made of: at its own end we are called again.
        return
    importlib.import_module("dtm_hf.head.modeling_dtm")
    importlib.import_module("dtm_hf.trm.modeling_trm")


# What to do, by the module whose end means that what it needs is there.
_ACTIONS = {
    "diffusers.pipelines.pipeline_utils": register_with_diffusers,
    "transformers.models.auto.modeling_auto": register_with_transformers,
    "transformers.modeling_layers": register_with_transformers,
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Runs an action once the module it waits for has been executed by that module's ordinary loader."""

    def __init__(self, trigger: str):
        self.trigger = trigger

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.trigger:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _ACTIONS[self.trigger]()

        spec.loader.exec_module = exec_module
        return spec


def install() -> None:
    """Register now with what is loaded already, with the rest when it is."""
    waiting = {finder.trigger for finder in sys.meta_path if isinstance(finder, _AfterImport)}
    for trigger, action in _ACTIONS.items():
        if trigger in sys.modules:
            action()
        elif trigger not in waiting:
            sys.meta_path.insert(0, _AfterImport(trigger))

"""
Makes the components known to diffusers and transformers.

`DiffusionPipeline` loads a component only if its library stands in diffusers' table of loadable classes, and a pipeline class
only if it is an attribute of `diffusers`. Importing diffusers costs seconds, so the entries are made when somebody else
imports it: at once if that has happened, else right after it does.
"""

import importlib
import importlib.abc
import importlib.util
import sys


# The module whose end means that diffusers' pipelines, tables included, are there.
_TRIGGER = "diffusers.pipelines.pipeline_utils"
_SAVE_AND_LOAD = ["save_pretrained", "from_pretrained"]
_COMPONENTS = (
    "F5Backbone",
    "DTMHead",
    "DTMScheduler",
    "F5Tokenizer",
    "F5FeatureExtractor",
    "GriffinLimVocoder",
    "VocosVocoder",
)


def register() -> None:
    """Enter the components into diffusers' tables, and `DTMPipeline` into diffusers."""
    from diffusers.pipelines import pipeline_loading_utils as tables

    tables.LOADABLE_CLASSES["dtm_hf"] = {name: _SAVE_AND_LOAD for name in _COMPONENTS}
    tables.ALL_IMPORTABLE_CLASSES.update(tables.LOADABLE_CLASSES["dtm_hf"])

    # The module puts its pipeline into `diffusers` at its end; it may be the one whose import brought us here.
    importlib.import_module("dtm_hf.pipelines.pipeline_dtm")


class _AfterDiffusers(importlib.abc.MetaPathFinder):
    """Runs [`register`] once the trigger module has been executed by its ordinary loader."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _TRIGGER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            register()

        spec.loader.exec_module = exec_module
        return spec


def install() -> None:
    """Register now if diffusers' pipelines are loaded, else when they are."""
    if _TRIGGER in sys.modules:
        register()
    elif not any(isinstance(finder, _AfterDiffusers) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterDiffusers())

"""Imports single modules of `f5_tts` without its trainer.

`f5_tts/model/__init__.py` imports the trainer, and with it datasets, wandb, librosa, einx and torch dynamo: 20
seconds of a cold start for a DiT that needs none of them. [`import_f5`] runs the wanted submodule alone. Classes are
the same objects as those of a later, ordinary `import f5_tts.model`.
"""

import importlib
import importlib.util
import sys
import types
from contextlib import contextmanager

_PACKAGE = "f5_tts.model"

# Modules that the wanted files import at the top and call only in paths that dtm-hf does not take (BigVGAN's mel
# basis, Chinese segmentation) or, for einx, only inside functions. Name -> the functions imported from it by name.
_DEFERRED = {
    "librosa.filters": ("mel",),
    "einx": (),
}
_DEFERRED_CHINESE = {
    "rjieba": (),
    "pypinyin": ("Style", "lazy_pinyin"),
}


class _DeferredFunction:
    """Stands for `module.name` until it is first called or asked for an attribute."""

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def _resolve(self):
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args, **kwargs):
        return self._resolve()(*args, **kwargs)

    def __getattr__(self, attribute: str):
        return getattr(self._resolve(), attribute)


class _DeferredModule(types.ModuleType):
    """Stands for a module until one of its attributes is asked for."""

    def __getattr__(self, attribute: str):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self.__name__), attribute)


@contextmanager
def _deferred(modules: dict[str, tuple[str, ...]]):
    """Puts stand-ins for `modules` in `sys.modules` and takes them out again, so that nobody else ever sees one."""
    placed = []
    try:
        for name, functions in modules.items():
            if name in sys.modules:
                continue
            module = _DeferredModule(name)
            for function in functions:
                setattr(module, function, _DeferredFunction(name, function))
            sys.modules[name] = module
            placed.append((name, module))
        yield
    finally:
        for name, module in placed:
            if sys.modules.get(name) is module:
                del sys.modules[name]


def import_f5(name: str, chinese: bool = True) -> types.ModuleType:
    """
    Import one module of `f5_tts.model`, for example ``"f5_tts.model.backbones.dit"``, without its package's
    `__init__`.

    Args:
        name (`str`):
            Full name of the module.
        chinese (`bool`, defaults to `True`):
            Whether the Chinese packages (`rjieba`, `pypinyin`) are imported now if the module asks for them. With
            `False` they are imported on their first call.

    Raises:
        ImportError: if `f5_tts` is not installed or has no such module.
    """
    if not name.startswith(_PACKAGE + "."):
        raise ValueError(f"`name` must be a module of `{_PACKAGE}`, but got {name!r}.")
    if name in sys.modules:
        return sys.modules[name]
    if _PACKAGE in sys.modules:
        return importlib.import_module(name)

    import f5_tts

    bare = types.ModuleType(_PACKAGE)
    bare.__path__ = [f"{f5_tts.__path__[0]}/model"]
    sys.modules[_PACKAGE] = bare
    deferred = _DEFERRED if chinese else _DEFERRED | _DEFERRED_CHINESE
    try:
        with _deferred(deferred):
            return importlib.import_module(name)
    finally:
        # A later `import f5_tts.model` must run the real __init__; it finds these submodules already loaded.
        if sys.modules.get(_PACKAGE) is bare:
            del sys.modules[_PACKAGE]

"""
What comes from outside, checked before it is used: configurations against the types and bounds of the signatures that
they are for, with a sentence that names file and field. Imports no network.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any, Self, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from dtm_hf.hub_cache import discard_damaged
from dtm_hf.reading import read_json, show

# What may stand in a configuration. The bounds are far beyond the largest models that there are, and far below what
# fills a machine by being asked for.
Width = Annotated[int, Field(ge=1, le=8192)]
Depth = Annotated[int, Field(ge=1, le=256)]
Blocks = Annotated[int, Field(ge=0, le=256)]
Factor = Annotated[int, Field(ge=1, le=16)]
MelBins = Annotated[int, Field(ge=1, le=1024)]
Tokens = Annotated[int, Field(ge=1, le=200_000)]
SamplingRate = Annotated[int, Field(ge=4000, le=384_000)]
WindowSize = Annotated[int, Field(ge=16, le=65536)]
Iterations = Annotated[int, Field(ge=1, le=1000)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seconds = Annotated[float, Field(ge=0, le=60)]
# Mean and standard deviation of a logarithm.
LogMean = Annotated[float, Field(ge=-50, le=50)]
LogStd = Annotated[float, Field(gt=0, le=50)]


def check_values(values: Any, signature: Callable, source: str | None = None) -> None:
    """
    Compare values with the annotations of a function or a dataclass: the types as they are, without conversion, and
    the bounds of `Annotated` ones. Names that it does not have are passed over.

    Args:
        values (`dict`): by name.
        signature (`Callable`): a function, or a dataclass.
        source (`str`, *optional*): where the values are from, which begins the message.

    Raises:
        ValueError: for the first value that does not fit, or that is missing.
    """
    try:
        _schema(signature).model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = f"{source}: " if source else ""
        raise ValueError(f"{where}{_sentence(first, values)}") from error


def _sentence(error: Mapping[str, Any], values: Any) -> str:
    if not error["loc"]:
        return f"It must hold names with values, but holds a {type(values).__name__}."
    name = str(error["loc"][0])
    if error["type"] == "missing":
        return f"`{name}` is missing."
    # A place inside a list or a dictionary is named; which of several types was tried is nobody's business.
    found = values[name]
    inner = error["input"]
    place = "" if inner is found else f" in {show(found)}"
    wanted = error["msg"].replace("Input should be", "must be").replace("Value error, ", "")
    return f"`{name}` {wanted}, but got {show(inner)}{place}."


@cache
def _schema(signature: Callable) -> type[BaseModel]:
    parameters = inspect.signature(signature).parameters
    hints = get_type_hints(signature, include_extras=True)
    fields = {
        name: (hints[name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in parameters.items()
        # What begins with an underscore is bookkeeping, which pydantic has no fields for.
        if name in hints and not name.startswith("_")
    }
    rules = ConfigDict(
        strict=True, extra="ignore", allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
    )
    return create_model(getattr(signature, "__qualname__", "values"), __config__=rules, **fields)


@contextmanager
def naming(source: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> Iterator[None]:
    """
    Whatever a library makes of a damaged or foreign file becomes a `ValueError` of one sentence that names it, and a
    file that the Hub's cache holds damaged is deleted there. Errors of the system and of the Hub pass: they have
    sentences of their own.

    Args:
        source (`str` or `os.PathLike`): file, folder or repository.
        cache_dir (`str` or `os.PathLike`, *optional*): the Hub's cache.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        damaged = discard_damaged(source, cache_dir)
        message = " ".join(str(error).split()) or type(error).__name__
        if type(error).__name__ == "SafetensorError":
            message = f"a safetensors file in it is damaged ({message})."
        if damaged:
            message += (
                f" The cache held other bytes than the Hub's of {', '.join(damaged)}, which was deleted: load again."
            )
        elif isinstance(error, ValueError) and str(source) in message:
            raise
        message = message if len(message) <= 1000 else f"{message[:1000]}..."
        raise ValueError(f"{str(source)!r} cannot be loaded: {message}") from error


class CheckedConfigMixin:
    """
    Of a class that diffusers or transformers load from a folder: its configuration is checked against its `__init__`
    before anything is made, weights are read from safetensors alone, and a failure says which folder it was.
    """

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        content = read_json(json_file)
        check_values(content, cls.__init__, repr(os.fspath(json_file)))
        return content

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None = None, *args, **kwargs) -> Self:
        name, subfolder = str(pretrained_model_name_or_path), kwargs.get("subfolder") or ""
        source = os.path.join(name, subfolder).rstrip("/") if os.path.isdir(name) else name
        with naming(source, kwargs.get("cache_dir")):
            if not hasattr(cls, "load_state_dict") or kwargs.get("output_loading_info"):
                return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
            kwargs["output_loading_info"] = True
            model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
            # The libraries only warn of these, and a network with weights that it was not trained with speaks noise.
            for kind, what in (("missing_keys", "lacks"), ("unexpected_keys", "holds besides")):
                if names := sorted(info.get(kind, ())):
                    raise ValueError(f"its configuration and its weights do not fit: the file {what} {names[:3]}.")
            return model

"""Repositories that hold less than a pipeline: a head alone, or a student's adapters alone."""

import json
import os
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

from dtm_hf.backbone.student import MODEL_TYPE, StudentConfig
from dtm_hf.head.configuration_dtm import DTMHeadConfig

_PIPELINE_FILE = "model_index.json"
_CONFIG_FILE = "config.json"


def head_only_config(name: str | os.PathLike, **kwargs) -> DTMHeadConfig | None:
    """
    Configuration of the head if a folder or repository holds a head and no pipeline, else `None`; arguments as of
    [`partial_config`].
    """
    config = partial_config(name, **kwargs)
    return config if isinstance(config, DTMHeadConfig) else None


def partial_config(name: str | os.PathLike, **kwargs) -> DTMHeadConfig | StudentConfig | None:
    """
    Configuration of what a folder or repository holds if that is a head or a student's adapters alone; `None` for a
    whole pipeline, and for anything else.

    Args:
        name (`str` or `os.PathLike`): Folder or Hub name.
        kwargs: `revision`, `cache_dir`, `token`, `local_files_only` as in `hf_hub_download`.
    """
    if os.path.isdir(name):
        if os.path.isfile(os.path.join(name, _PIPELINE_FILE)):
            return None
        path = os.path.join(name, _CONFIG_FILE)
        if not os.path.isfile(path):
            return None
    else:
        hub = {key: kwargs.get(key) for key in ("revision", "cache_dir", "token") if kwargs.get(key) is not None}
        hub["local_files_only"] = bool(kwargs.get("local_files_only", False))
        try:
            hf_hub_download(str(name), _PIPELINE_FILE, **hub)
            return None
        except (EntryNotFoundError, LocalEntryNotFoundError):
            pass
        except RevisionNotFoundError:
            # diffusers would call this a model that is not fully cached.
            raise
        except (HfHubHTTPError, ValueError, OSError):
            # A missing repository, no connection, a name that is none: diffusers says it best.
            return None
        try:
            path = hf_hub_download(str(name), _CONFIG_FILE, **hub)
        except (EntryNotFoundError, LocalEntryNotFoundError):
            return None
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if content.get("model_type") == MODEL_TYPE:
        return StudentConfig.from_dict(content)
    return DTMHeadConfig.from_json_file(path) if content.get("model_type") == DTMHeadConfig.model_type else None

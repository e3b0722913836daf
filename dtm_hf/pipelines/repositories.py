"""Repositories on the Hub: filled model cards, and repositories with nothing but a head."""

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo, HfApi, ModelCard, ModelCardData, create_repo, hf_hub_download, upload_folder
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

from dtm_hf.backbone.student import MODEL_TYPE as STUDENT_TYPE
from dtm_hf.backbone.student import Student, StudentConfig
from dtm_hf.head.configuration_dtm import DTMHeadConfig
from dtm_hf.scheduling.solvers import effective_solver

if TYPE_CHECKING:
    from dtm_hf.head.modeling_dtm import DTMHead
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline

_TEMPLATE = Path(__file__).parent.parent / "model_card.md"
_PIPELINE_FILE = "model_index.json"
_CONFIG_FILE = "config.json"
_TAGS = ["text-to-speech", "dtm-hf", "f5-tts", "flow-matching"]


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
    if content.get("model_type") == STUDENT_TYPE:
        return StudentConfig.from_dict(content)
    return DTMHeadConfig.from_json_file(path) if content.get("model_type") == DTMHeadConfig.model_type else None


def fill_card(values: dict[str, Any], repo_id: str | None) -> ModelCard:
    """
    The model card of a repository from the `values` that [`pipeline_values`], [`head_values`] or
    [`student_values`] collect.
    """
    name = (repo_id or "dtm-f5").split("/")[-1]
    sampler = values["sampler"]
    # A student's has no head, and no solver.
    solver = effective_solver(sampler["head_solver"], sampler["num_head_steps"]) if "head_solver" in sampler else None
    data = ModelCardData(
        license=values["license"],
        library_name="dtm-hf",
        pipeline_tag="text-to-speech",
        tags=_TAGS,
        base_model=values["base_model"],
    )
    return ModelCard.from_template(
        data, template_path=str(_TEMPLATE), model_name=name, repo_id=repo_id or "PATH", head_solver=solver, **values
    )


def head_values(head: "DTMHead") -> dict[str, Any]:
    """What a card says of a head alone."""
    config = head.config
    default = {"num_inference_steps": 8, "num_head_steps": 2, "head_solver": "midpoint", "time_grid": "sway"}
    return {
        "license": config.license or "unknown",
        "base_model": config.base_model if _is_hub_name(config.base_model) else None,
        "backbone_name": config.backbone_name or "not recorded",
        "backbone_revision": config.backbone_revision,
        "fingerprint": config.backbone_fingerprint,
        "head": config,
        "step_counts": None,
        "adapter_parameters": None,
        "head_parameters": f"{head.num_parameters():,}",
        "sampler": default | (config.sampler or {}),
        "training_data": config.training_data,
        "results": _results_table(config.results),
    }


def student_values(student: Student) -> dict[str, Any]:
    """What a card says of a student's adapters alone."""
    config = student.config
    return {
        "license": config.license or "unknown",
        "base_model": config.base_model if _is_hub_name(config.base_model) else None,
        "backbone_name": config.backbone_name,
        "backbone_revision": config.backbone_revision,
        "fingerprint": config.backbone_fingerprint,
        "head": None,
        "head_parameters": None,
        "step_counts": config.step_counts,
        "adapter_parameters": f"{sum(tensor.numel() for tensor in student.tensors.values()):,}",
        "rank": config.rank,
        "sampler": config.sampler,
        "training_data": config.training_data,
        "results": _results_table(config.results),
    }


def pipeline_values(pipeline: "DTMPipeline") -> dict[str, Any]:
    """What a card says of a whole pipeline."""
    backbone = pipeline.backbone
    values = head_values(pipeline.head) if pipeline.head is not None else {}
    values = {
        "head": None,
        "head_parameters": None,
        "training_data": None,
        "results": None,
        "base_model": None,
        "adapter_parameters": None,
        "step_counts": backbone.config.step_counts,
    } | values
    return values | {
        "license": backbone.config.license,
        "backbone_name": backbone.config.name,
        "backbone_revision": backbone.config.revision,
        "fingerprint": backbone.fingerprint,
        "sampler": dict(pipeline.scheduler.config),
        "lengths": lengths(pipeline),
        "training_data": values["training_data"] or backbone.config.training_data,
    }


def lengths(pipeline: "DTMPipeline") -> str:
    """Where a pipeline has the length of its speech from, in words."""
    predictor = pipeline.duration_predictor
    if predictor is None:
        return "in proportion to the prompt, by bytes of text as in F5-TTS"
    # A user's own may be any callable.
    data = getattr(getattr(predictor, "config", None), "training_data", None)
    return f"in proportion to the prompt, by {type(predictor).__name__}" + (f", fitted on {data}" if data else "")


def write_card(pipeline: "DTMPipeline", folder: str | os.PathLike, repo_id: str | None = None) -> None:
    """Write the filled card of a pipeline to `folder/README.md`."""
    fill_card(pipeline_values(pipeline), repo_id).save(Path(folder) / "README.md")


def save_with_card(
    model: "DTMPipeline | DTMHead | Student",
    folder: str | os.PathLike,
    repo_id: str,
    results: dict | None = None,
    **kwargs,
) -> None:
    """
    Save a pipeline, a head or a student's adapters as the repository `repo_id` shall hold it.

    Args:
        model: a pipeline, a head or a student.
        folder (`str` or `os.PathLike`): where to.
        repo_id (`str`): `org/name`, for the card.
        results (`dict`, *optional*): measured results `{arm: {metric: value}}` for the card, in place of the head's.
        kwargs: for `save_pretrained`.
    """
    if isinstance(model, Student):
        values = student_values(model)
    else:
        values = pipeline_values(model) if hasattr(model, "scheduler") else head_values(model)
    if results:
        values["results"] = _results_table(results)
    card = fill_card(values, repo_id)
    model.save_pretrained(folder, **kwargs)
    card.save(os.path.join(folder, "README.md"))


def upload_with_card(
    folder: str | os.PathLike, repo_id: str, commit_message: str, private: bool | None = None, **hub
) -> CommitInfo:
    """
    Upload what [`save_with_card`] wrote, in one commit; the repository is made if it does not exist.

    Args:
        folder (`str` or `os.PathLike`): what to upload.
        repo_id (`str`): `org/name`.
        commit_message (`str`): title of the commit.
        private (`bool`, *optional*): whether a new repository is.
        hub: `token`, `create_pr`, `revision`.
    """
    # First: a card that is refused must not leave an empty repository behind. And not `card.validate()`: that one asks
    # huggingface.co whatever `HF_ENDPOINT` says.
    card = (Path(folder) / "README.md").read_text(encoding="utf-8")
    HfApi()._validate_yaml(card, repo_type="model", token=hub.get("token"))
    repo_id = create_repo(repo_id, private=private, token=hub.get("token"), exist_ok=True).repo_id
    return upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message, **hub)


def push_with_card(model: "DTMPipeline | DTMHead | Student", repo_id: str, **kwargs) -> CommitInfo:
    """
    Save, fill the card for `repo_id`, and upload in one commit.

    Args:
        model: a pipeline, a head or a student.
        repo_id (`str`): `org/name`.
        kwargs: `commit_message`, `private`, `token`, `create_pr`, `revision`; the rest goes to `save_pretrained`.

    Returns:
        `CommitInfo`: a string, the address of the commit, with its id in `oid`.
    """
    hub_names = ("commit_message", "private", "token", "create_pr", "revision")
    hub = {name: value for name in hub_names if (value := kwargs.pop(name, None)) is not None}
    hub.setdefault("commit_message", f"Upload {type(model).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        save_with_card(model, folder, repo_id, **kwargs)
        return upload_with_card(folder, repo_id, **hub)


def _is_hub_name(name: str | None) -> bool:
    return name is not None and name.count("/") == 1 and not os.path.exists(name) and not name.startswith((".", "/"))


def _results_table(results: dict | None) -> str | None:
    """A Markdown table from `{arm: {metric: value}}`."""
    if not results:
        return None
    metrics = list(next(iter(results.values())))
    lines = ["| | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for arm, figures in results.items():
        lines.append(f"| {arm} | " + " | ".join(str(figures.get(metric, "")) for metric in metrics) + " |")
    return "\n".join(lines)

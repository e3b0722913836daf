"""Repositories on the Hub: filled model cards, and pushes of whatever can say what its card shall. Knows no model."""

import os
import tempfile
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import CommitInfo, HfApi, ModelCard, ModelCardData, create_repo, upload_folder
from huggingface_hub.utils import HFValidationError, validate_repo_id


class Publishable(Protocol):
    """
    A model or a pipeline that goes to the Hub with a card of its own.

    Attributes:
        card_template (`str` or `os.PathLike`): Markdown with Jinja that begins with the lines `---`,
            `{{ card_data }}`, `---`.
    """

    card_template: str | os.PathLike

    def card_values(self) -> dict[str, Any]:
        """
        What the template asks for. Four go into the header too: `license`, `pipeline_tag`, `tags` and, if it is a name
        on the Hub, `base_model`. `model_name` is the title where there is no repository yet; `results`, measured
        results `{arm: {metric: value}}` or `None`, reaches the template as a table.
        """
        ...

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None: ...


def hub_name(name: str | os.PathLike | None) -> str | None:
    """The name if it is one on the Hub; a folder of this machine means nothing where what was trained is pulled."""
    name = "" if name is None else str(name)
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if name.count("/") == 1 and not os.path.exists(name) else None


def fill_card(model: Publishable, repo_id: str | None = None, results: dict | None = None) -> ModelCard:
    """
    The model card of a repository.

    Args:
        model ([`Publishable`]): gives the template and its values.
        repo_id (`str`, *optional*): `org/name`; "PATH" stands in its place if left out.
        results (`dict`, *optional*): measured results `{arm: {metric: value}}`, in place of the model's.
    """
    values = model.card_values()
    values["results"] = _results_table(results or values.get("results"))
    header = {name: values.pop(name, None) for name in ("license", "pipeline_tag", "tags", "base_model")}
    header["base_model"] = hub_name(header["base_model"])
    values = {name: _cell(value) if name != "results" else value for name, value in (header | values).items()}
    name = (repo_id or values.pop("model_name")).split("/")[-1]
    return ModelCard.from_template(
        ModelCardData(library_name="dtm-hf", **header),
        # Read here: `template_path` would be read in the encoding of the machine.
        template_str=Path(model.card_template).read_text(encoding="utf-8"),
        **values | {"model_name": name, "repo_id": repo_id or "PATH"},
    )


def save_with_card(
    model: Publishable, folder: str | os.PathLike, repo_id: str, results: dict | None = None, **kwargs
) -> None:
    """
    Save a model as the repository `repo_id` shall hold it.

    Args:
        model ([`Publishable`]): what to save.
        folder (`str` or `os.PathLike`): where to.
        repo_id (`str`): `org/name`, for the card.
        results (`dict`, *optional*): measured results `{arm: {metric: value}}` for the card, in place of the model's.
        kwargs: for `save_pretrained`.
    """
    card = fill_card(model, repo_id, results)
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


def push_with_card(model: Publishable, repo_id: str, **kwargs) -> CommitInfo:
    """
    Save, fill the card for `repo_id`, and upload in one commit.

    Args:
        model ([`Publishable`]): what to push.
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


def _cell(value: Any) -> Any:
    """Text, also in a mapping, as a cell of a Markdown table can hold it, whatever somebody named a model or data."""
    if isinstance(value, dict):
        return {name: _cell(entry) for name, entry in value.items()}
    return " ".join(value.split()).replace("|", r"\|").replace("<", "&lt;") if isinstance(value, str) else value


def _results_table(results: dict | None) -> str | None:
    """A Markdown table from `{arm: {metric: value}}`."""
    if not results:
        return None
    metrics = list(next(iter(results.values())))
    lines = ["| | " + " | ".join(map(_cell, metrics)) + " |", "|---" * (len(metrics) + 1) + "|"]
    for arm, figures in results.items():
        lines.append(
            f"| {_cell(arm)} | " + " | ".join(str(_cell(figures.get(metric, ""))) for metric in metrics) + " |"
        )
    return "\n".join(lines)

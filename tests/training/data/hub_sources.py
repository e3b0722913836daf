"""Run by test_data_hub.py in its own process: pushes data sets to the Hub of `HF_ENDPOINT` and reads them from it.

Writes what it saw as JSON into the folder it is given.
"""

import base64
import json
import pathlib
import sys

from huggingface_hub import HfApi

from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.data.sources import open_source


def read(split: str = "train", **arguments) -> dict:
    try:
        source = open_source(SourceArguments(**arguments), split)
    except ValueError as error:
        return {"error": str(error)}
    rows = [row for shard in source.shards for _, row in source.rows(shard)]
    rows = [[base64.b64encode(source.audio(row)).decode(), source.text(row), source.speaker(row)] for row in rows]
    return {
        "format": source.format,
        "shards": [shard.name for shard in source.shards],
        "rows": rows,
        "fingerprint": source.fingerprint,
    }


def push(folder: pathlib.Path) -> None:
    """The data sets, and then a changed one beside the tag of what it was."""
    api = HfApi()
    for path in (folder / "sets").iterdir():
        api.create_repo(f"org/{path.name}", repo_type="dataset")
        api.upload_folder(repo_id=f"org/{path.name}", folder_path=path, repo_type="dataset")
    api.create_tag("org/parquet", tag="v1", repo_type="dataset")
    api.upload_folder(repo_id="org/parquet", folder_path=folder / "changed", repo_type="dataset")


folder = pathlib.Path(sys.argv[1])
push(folder)
asked = json.loads((folder / "asked.json").read_text())
(folder / "answer.json").write_text(json.dumps({name: read(**arguments) for name, arguments in asked.items()}))

"""Data sets on the Hub, read over HTTP shard by shard."""

import base64

import pytest
from hub_server import hub_of_this_process
from huggingface_hub import HfApi
from speech_corpora import short_rows, tar_members, write_audio_files, write_parquet, write_tar

from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.data.sources import open_source

ROWS = short_rows(9)
WEB = {"audio_column": "wav", "text_column": "json.text", "speaker_column": "json.speaker"}
ASKED = {
    "parquet": {"dataset": "org/parquet"},
    "validation": {"dataset": "org/parquet", "split": "validation"},
    "revision": {"dataset": "org/parquet", "revision": "v1"},
    "webdataset": {"dataset": "org/emilia", "config": "EN", **WEB},
    "other config": {"dataset": "org/emilia", "config": "DE", **WEB},
    "audiofolder": {"dataset": "org/folder"},
    "absent": {"dataset": "org/absent"},
    "no split": {"dataset": "org/parquet", "split": "test"},
    "no column": {"dataset": "org/parquet", "text_column": "transcript"},
    "wrong format": {"dataset": "org/parquet", "format": "webdataset"},
}


def write_datasets(folder):
    write_parquet(folder / "parquet" / "data", ROWS, shards=3)
    write_parquet(folder / "parquet" / "data", ROWS[:2], split="validation")
    write_tar(folder / "emilia" / "Emilia" / "EN" / "EN-B000000.tar", tar_members(ROWS[:4]))
    write_tar(folder / "emilia" / "Emilia" / "EN" / "EN-B000001.tar", tar_members(ROWS[4:]))
    write_tar(folder / "emilia" / "Emilia" / "DE" / "DE-B000000.tar", tar_members(ROWS[:1]))
    configs = [f"- config_name: {name}\n  data_files: Emilia/{name}/*.tar\n" for name in ("EN", "DE")]
    (folder / "emilia" / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    names = write_audio_files(folder / "folder", ROWS)
    lines = [f"{name}|{entry['text']}|{entry['speaker']}" for name, entry in zip(names, ROWS, strict=True)]
    (folder / "folder" / "metadata.csv").write_text("\n".join(["audio_file|text|speaker", *lines]))


def read(split="train", **arguments):
    try:
        source = open_source(SourceArguments(**arguments), split)
    except ValueError as error:
        return {"error": str(error)}
    rows = [row for shard in source.shards for _, row in source.rows(shard)]
    rows = [
        [base64.b64encode(source.content(row, "audio")).decode(), source.text(row), source.label(row, "speaker")]
        for row in rows
    ]
    return {
        "format": source.format,
        "shards": [shard.name for shard in source.shards],
        "rows": rows,
        "fingerprint": source.fingerprint,
    }


def push(folder):
    """The data sets, and then a changed one beside the tag of what it was."""
    api = HfApi()
    for path in (folder / "sets").iterdir():
        api.create_repo(f"org/{path.name}", repo_type="dataset")
        api.upload_folder(repo_id=f"org/{path.name}", folder_path=path, repo_type="dataset")
    api.create_tag("org/parquet", tag="v1", repo_type="dataset")
    api.upload_folder(repo_id="org/parquet", folder_path=folder / "changed", repo_type="dataset")


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write_datasets(folder / "sets")
    write_parquet(folder / "changed" / "data", ROWS[::-1], shards=3)
    with hub_of_this_process(folder / "server"):
        push(folder)
        return {name: read(**arguments) for name, arguments in ASKED.items()}


def expected(rows):
    return [[base64.b64encode(r["audio"]["bytes"]).decode(), r["text"], r["speaker"]] for r in rows]


def test_parquet(answer):
    shards = [f"data/train-{i:05d}-of-00003.parquet" for i in range(3)]
    assert (answer["parquet"]["format"], answer["parquet"]["shards"]) == ("parquet", shards)
    turned = ROWS[::-1]
    assert answer["parquet"]["rows"] == expected(turned[0::3] + turned[1::3] + turned[2::3])
    assert answer["validation"]["rows"] == expected(ROWS[:2])


def test_a_revision_is_honoured(answer):
    assert answer["revision"]["rows"] == expected(ROWS[0::3] + ROWS[1::3] + ROWS[2::3])
    assert answer["revision"]["fingerprint"] != answer["parquet"]["fingerprint"]


def test_webdataset_with_configurations(answer):
    assert answer["webdataset"]["format"] == "webdataset"
    assert answer["webdataset"]["shards"] == [f"Emilia/EN/EN-B00000{i}.tar" for i in range(2)]
    assert answer["webdataset"]["rows"] == expected(ROWS)
    assert answer["other config"]["rows"] == expected(ROWS[:1])


def test_audio_folder(answer):
    assert answer["audiofolder"]["format"] == "audiofolder"
    assert answer["audiofolder"]["rows"] == expected(ROWS)


def test_what_is_wrong_is_said(answer):
    assert "'org/absent' is no folder here, and on the Hub: " in answer["absent"]["error"]
    assert "has no split 'test'; it has ['train', 'validation']" in answer["no split"]["error"]
    assert "no column 'transcript' (`text_column`)" in answer["no column"]["error"]
    assert "must be 'webdataset', but the Hub holds it as 'parquet'" in answer["wrong format"]["error"]

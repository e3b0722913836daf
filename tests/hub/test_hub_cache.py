"""Wrong bytes of the right length in the cache of the Hub are found by their hash, deleted and named."""

import json
import os

import pytest
from hub_server import hub_of_this_process

from dtm_hf import DTMHead
from dtm_hf.hub_cache import discard_damaged

REPO = "org/dtm-head"


@pytest.fixture
def hub(tmp_path, make_head):
    with hub_of_this_process(tmp_path / "hub") as server:
        make_head().push_to_hub(REPO)
        yield server


def damage(path) -> None:
    blob = os.path.realpath(path)
    content = bytearray(open(blob, "rb").read())
    content[:16] = bytes(b ^ 0xFF for b in content[:16])
    os.chmod(blob, 0o644)
    with open(blob, "wb") as file:
        file.write(content)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_deleted_and_fetched_anew(name, hub):
    from huggingface_hub import hf_hub_download

    DTMHead.from_pretrained(REPO)
    assert discard_damaged(REPO) == []
    damage(hf_hub_download(REPO, name))
    with pytest.raises(ValueError, match=f"of {name}, which was deleted: load again"):
        DTMHead.from_pretrained(REPO)
    head = DTMHead.from_pretrained(REPO)
    assert head.config.hidden_size == 32
    if name == "config.json":
        assert json.loads(open(hf_hub_download(REPO, name)).read())["model_type"] == "dtm_head"


def test_what_is_no_cached_repository_is_left_alone(tmp_path):
    (tmp_path / ("0" * 64)).write_text("mine")
    assert discard_damaged(tmp_path) == discard_damaged("org/absent") == []
    assert discard_damaged(tmp_path / ("0" * 64)) == []
    assert (tmp_path / ("0" * 64)).exists()

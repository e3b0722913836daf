"""A whole pipeline pushed in one process and loaded in another, over HTTP, with no `trust_remote_code`."""

import json
import pathlib
import runpy
import subprocess
import sys

import pytest
from hub_card_rules import check_card
from hub_server import hub_of_this_process
from huggingface_hub import HfApi

pytestmark = pytest.mark.slow  # starts a process that imports diffusers and f5_tts

REPO, HALF, HEAD = "org/dtm-f5", "org/dtm-f5-bf16", "org/dtm-head"
COMPONENTS = ("backbone", "head", "vocoder", "scheduler", "tokenizer", "feature_extractor")


SCRIPT = pathlib.Path(__file__).with_name("round_trip_pipeline.py")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with hub_of_this_process(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("round_trip")


@pytest.fixture(scope="module")
def pushed(hub, folder):
    return runpy.run_path(str(SCRIPT))["push"](folder)


@pytest.fixture(scope="module")
def loaded(hub, folder, pushed):
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env=hub.environment(folder / "home"),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "load.json").read_text())


def test_a_pipeline_speaks_as_before_in_a_new_process(loaded):
    assert loaded["main"] < 1e-4
    assert set(loaded["parts"]) >= set(COMPONENTS)
    assert loaded["parts"]["head"] == "DTMHead" and loaded["parts"]["vocoder"] == "GriffinLimVocoder"


def test_a_revision_is_honoured(pushed, loaded):
    assert pushed["first"] != pushed["second"]
    assert loaded["tag"] < 1e-4


def test_a_head_alone_finds_its_base_at_the_revision_it_names(loaded):
    assert loaded["head alone"] < 1e-4
    assert loaded["head mounted"] < 1e-4


def test_plain_diffusers_and_transformers_find_the_classes(loaded):
    assert loaded["generic class"] == "DTMPipeline"
    assert loaded["auto class"] == "dtm_hf.head.modeling_dtm.DTMHead"


def test_bf16_stays_bf16(loaded):
    assert loaded["bf16 dtypes"] == ["torch.bfloat16"] and loaded["bf16 is finite"]


def test_cached_files_need_no_request(hub, loaded):
    assert max(loaded["local main"], loaded["local tag"], loaded["local head"]) < 1e-4
    start, end = hub.requests.index("GET /mark/offline"), hub.requests.index("GET /mark/online")
    assert hub.requests[start + 1 : end] == []


def test_absent_things_are_named(loaded):
    assert "org/absent" in loaded["error org/absent"]
    assert "Revision Not Found" in loaded[f"error {REPO}"] and "/absent/" in loaded[f"error {REPO}"]


def test_weights_are_safetensors_and_no_code_is_shipped(pushed):
    for repo, files in pushed["files"].items():
        weights = [f for f in files if not f.endswith((".json", ".md", ".txt", ".gitattributes"))]
        assert weights and all(f.endswith(".safetensors") for f in weights), (repo, files)
    assert "model_index.json" in pushed["files"][REPO] and "model_index.json" not in pushed["files"][HEAD]


def test_the_index_names_plain_libraries(hub, pushed, tmp_path):
    path = HfApi(endpoint=hub.url).hf_hub_download(REPO, "model_index.json", cache_dir=tmp_path)
    index = json.loads(pathlib.Path(path).read_text())
    assert index["_class_name"] == "DTMPipeline"
    assert {name: index[name][0] for name in COMPONENTS} == dict.fromkeys(COMPONENTS, "dtm_hf")


def test_the_cards_are_filled_and_pass(hub, pushed, tmp_path):
    assert pushed["card warnings"] == []
    for repo in (REPO, HALF, HEAD):
        path = HfApi(endpoint=hub.url).hf_hub_download(repo, "README.md", cache_dir=tmp_path)
        text = pathlib.Path(path).read_text()
        assert check_card(text) == ([], [])
        assert "{{" not in text and "{%" not in text and "More Information Needed" not in text
        card = pushed["cards"][repo]
        assert card["license"] == "mit" and card["pipeline_tag"] == "text-to-speech"
    assert pushed["cards"][HEAD]["base_model"] == REPO

"""Heads pushed to and loaded from a Hub over HTTP: revisions, shards, bf16, a subfolder, and from the cache alone."""

import tempfile

import pytest
import torch
from hub_server import hub_of_this_process
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModel

from dtm_hf import DTMHead, DTMHeadConfig

REPO, SHARDED, NESTED = "org/dtm-head", "org/dtm-head-sharded", "org/dtm-nested"


def make_head(seed: int) -> DTMHead:
    torch.manual_seed(seed)
    config = DTMHeadConfig(
        backbone_hidden_size=24,
        num_mel_bins=10,
        hidden_size=32,
        num_hidden_layers=2,
        time_embed_dim=16,
        architecture="conv",
        backbone_name="tiny",
        backbone_fingerprint="0123456789abcdef",
        base_model="org/dtm-f5",
        license="cc-by-nc-4.0",
    )
    head = DTMHead(config).eval()
    for parameter in head.parameters():  # an untrained residual head says nothing: its last layer is zero
        torch.nn.init.normal_(parameter, std=0.2)
    return head


@torch.no_grad()
def speak(head: DTMHead) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    features, state, velocity = (torch.randn(2, 7, n, generator=draw) for n in (24, 10, 10))
    return head(features, state, 0.3, timestep=0.25, velocity=velocity).velocity


def distance(head: torch.nn.Module, expected: tuple[dict, torch.Tensor]) -> float:
    """Largest difference of the outputs; infinite unless the weights are equal to the bit."""
    weights, output = expected
    loaded = head.state_dict()
    if loaded.keys() != weights.keys() or not all(torch.equal(loaded[key], weights[key]) for key in weights):
        return float("inf")
    return (speak(head) - output).abs().max().item()


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    with hub_of_this_process(tmp_path_factory.mktemp("hub")) as hub:
        return pushed_and_loaded(hub)


def pushed_and_loaded(hub):
    """What was seen on the way."""
    api, result = HfApi(), {}
    first, second = make_head(1), make_head(2)
    expected_first, expected_second = (
        ({k: w.clone() for k, w in h.state_dict().items()}, speak(h)) for h in (first, second)
    )
    result["heads differ"] = (expected_first[1] - expected_second[1]).abs().max().item()

    old = first.push_to_hub(REPO, commit_message="first").oid
    new = second.push_to_hub(REPO, commit_message="second").oid
    second.push_to_hub(SHARDED, max_shard_size="20KB")
    api.create_branch(REPO, branch="bf16")
    second.to(torch.bfloat16).push_to_hub(REPO, revision="bf16")
    api.create_repo(NESTED)
    with tempfile.TemporaryDirectory() as folder:
        first.save_pretrained(folder)
        api.upload_folder(repo_id=NESTED, folder_path=folder, path_in_repo="head")

    result["main"] = distance(DTMHead.from_pretrained(REPO), expected_second)
    result["old revision"] = distance(DTMHead.from_pretrained(REPO, revision=old), expected_first)
    result["sharded"] = distance(DTMHead.from_pretrained(SHARDED), expected_second)
    nested = AutoModel.from_pretrained(NESTED, subfolder="head")
    result["auto class"] = f"{type(nested).__module__}.{type(nested).__name__}"
    result["auto config"] = type(AutoConfig.from_pretrained(REPO)).__name__
    result["nested"] = distance(nested, expected_first)
    half = DTMHead.from_pretrained(REPO, revision="bf16", dtype=torch.bfloat16)
    result["bf16 dtypes"] = sorted({str(p.dtype) for p in half.parameters()})
    config = DTMHead.from_pretrained(REPO).config
    result["config"] = [config.backbone_fingerprint, config.base_model, config.license, config.architecture]

    before = len(hub.requests)
    result["local files only"] = distance(DTMHead.from_pretrained(REPO, local_files_only=True), expected_second)
    result["local old"] = distance(DTMHead.from_pretrained(REPO, revision=old, local_files_only=True), expected_first)
    result["requests of the cached"] = hub.requests[before:]
    try:
        DTMHead.from_pretrained("org/absent")
    except OSError as problem:
        result["absent"] = str(problem)
    try:
        DTMHead.from_pretrained(REPO, revision="absent")
    except OSError as problem:
        result["absent revision"] = str(problem)
    result["files"] = {repo: api.list_repo_files(repo) for repo in (REPO, SHARDED, NESTED)}
    result["commits"] = [old, new, api.model_info(REPO).sha]
    return result


def test_a_head_comes_back_as_it_was_pushed(result):
    assert result["heads differ"] > 1e-2
    # Weights mapped from a file sit at another alignment, which moves the last bits of a matrix product.
    assert max(result[key] for key in ("main", "old revision", "sharded", "nested")) < 1e-5
    assert result["config"] == ["0123456789abcdef", "org/dtm-f5", "cc-by-nc-4.0", "conv"]
    old, new, head = result["commits"]
    assert old != new == head


def test_the_auto_classes_find_the_head(result):
    assert result["auto class"] == "dtm_hf.head.modeling_dtm.DTMHead"
    assert result["auto config"] == "DTMHeadConfig"


def test_a_bf16_head_stays_bf16(result):
    assert result["bf16 dtypes"] == ["torch.bfloat16"]


def test_a_cached_head_loads_without_a_request(result):
    assert max(result["local files only"], result["local old"]) < 1e-5
    assert result["requests of the cached"] == []


def test_an_absent_repository_or_revision_is_named(result):
    assert "org/absent" in result["absent"]
    assert "absent" in result["absent revision"]


def test_only_safetensors_is_written(result):
    for repo, files in result["files"].items():
        weights = [f for f in files if not f.endswith((".json", ".md", ".gitattributes"))]
        assert weights and all(f.endswith(".safetensors") for f in weights), (repo, files)
    assert sum(f.endswith(".safetensors") for f in result["files"]["org/dtm-head-sharded"]) > 1

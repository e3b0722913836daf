"""Run by test_hub_round_trip_head.py in its own process: pushes heads to the Hub of `HF_ENDPOINT`, loads them back.

Writes what it saw as JSON to the path it is given. A GET of /mark/NAME puts a mark into the server's list of requests.
"""

import json
import os
import pathlib
import sys
import tempfile

import httpx
import torch
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModel

from dtm_hf import DTMHead, DTMHeadConfig

REPO, SHARDED, NESTED = "org/dtm-head", "org/dtm-head-sharded", "org/dtm-nested"


def mark(name: str) -> None:
    httpx.get(f"{os.environ['HF_ENDPOINT']}/mark/{name}")


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

mark("offline")
result["local files only"] = distance(DTMHead.from_pretrained(REPO, local_files_only=True), expected_second)
result["local old"] = distance(DTMHead.from_pretrained(REPO, revision=old, local_files_only=True), expected_first)
mark("online")
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
pathlib.Path(sys.argv[1]).write_text(json.dumps(result))

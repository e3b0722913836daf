"""Of test_hub_round_trip.py: `push` fills the Hub of `HF_ENDPOINT`; run as a script with a folder, it reads it anew.

What it saw is then in `load.json` there. A GET of /mark/NAME puts a mark into the server's list of requests.
"""

import json
import os
import pathlib
import string
import sys
import warnings

import httpx
import numpy as np
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

import dtm_hf

REPO, HALF, HEAD = "org/dtm-f5", "org/dtm-f5-bf16", "org/dtm-head"
SAMPLER = {"num_inference_steps": 3, "num_head_steps": 2, "time_grid": "uniform"}


def mark(name: str) -> None:
    httpx.get(f"{os.environ['HF_ENDPOINT']}/mark/{name}")


def build(folder: pathlib.Path) -> "dtm_hf.DTMPipeline":
    """A pipeline with every part at its smallest, and random weights where F5 and the head start from zeros."""
    (folder / "vocab.txt").write_text("\n".join([" ", *string.ascii_letters, *".,?!'"]) + "\n")
    tokenizer = dtm_hf.F5Tokenizer(folder / "vocab.txt")
    sizes = {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "text_dim": 16, "conv_layers": 1}
    backbone = dtm_hf.F5Backbone(
        text_num_embeds=tokenizer.vocab_size, name="tiny", revision="1", license="mit", **sizes
    )
    torch.manual_seed(0)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    vocoder, scheduler = dtm_hf.GriffinLimVocoder(), dtm_hf.DTMScheduler(num_inference_steps=2, num_head_steps=2)
    parts = {"backbone": backbone, "tokenizer": tokenizer, "vocoder": vocoder, "scheduler": scheduler}
    parts["duration_predictor"] = dtm_hf.DurationPredictor(0.2, 0.05, {"a": 0.1, "o": 0.02}, 0.05)
    return dtm_hf.DTMPipeline(**parts, feature_extractor=dtm_hf.F5FeatureExtractor(), head=make_head(backbone, 1))


def make_head(backbone: "dtm_hf.F5Backbone", seed: int) -> "dtm_hf.DTMHead":
    config = dtm_hf.DTMHeadConfig(
        backbone_hidden_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        time_embed_dim=16,
        architecture="conv",
        backbone_name=backbone.config.name,
        backbone_revision=backbone.config.revision,
        backbone_fingerprint=backbone.fingerprint,
        license="mit",
    )
    torch.manual_seed(seed)
    head = dtm_hf.DTMHead(config).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return head


def speak(pipe: "dtm_hf.DTMPipeline") -> torch.Tensor:
    """Log-mel of one sentence, from a chirp as the voice."""
    seconds = np.arange(24_000) / 24_000
    voice = (0.3 * np.sin(2 * np.pi * (200 + 400 * seconds) * seconds)).astype(np.float32)
    pipe.set_progress_bar_config(disable=True)
    output = pipe(
        "Good morning to you.",
        reference_audio=(voice, 24_000),
        reference_text="Hello there.",
        generator=torch.Generator().manual_seed(0),
        output_type="mel",
    )
    return output.audios[0].float()


def push(folder: pathlib.Path) -> dict:
    api, result, mels = HfApi(), {}, {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe = build(folder)
        mels["first"] = speak(pipe)
        pipe.push_to_hub(REPO)
        first = api.model_info(REPO).sha
        api.create_tag(REPO, tag="v1", revision=first)

        head = make_head(pipe.backbone, 2)
        pipe.register_modules(head=head)
        mels["second"] = speak(pipe)
        pipe.push_to_hub(REPO)

        # A head alone, pinned to a base that has moved on since.
        head.config.base_model, head.config.base_model_revision, head.config.sampler = REPO, first, SAMPLER
        head.push_to_hub(HEAD)
        pipe.register_modules(scheduler=dtm_hf.DTMScheduler(**SAMPLER))
        mels["head alone"] = speak(pipe)
        pipe.to(torch.bfloat16).push_to_hub(HALF)
    result["card warnings"] = [str(w.message) for w in caught if "metadata" in str(w.message)]
    result["first"], result["second"] = first, api.model_info(REPO).sha
    result["files"] = {repo: api.list_repo_files(repo) for repo in (REPO, HALF, HEAD)}
    result["cards"] = {repo: api.model_info(repo).card_data.to_dict() for repo in (REPO, HALF, HEAD)}
    save_file({name: mel.contiguous() for name, mel in mels.items()}, folder / "mels.safetensors")
    return result


def load(folder: pathlib.Path) -> dict:
    result, mels = {}, load_file(folder / "mels.safetensors")

    def distance(pipe: "dtm_hf.DTMPipeline", name: str) -> float:
        return (speak(pipe) - mels[name]).abs().max().item()

    # First, while nothing but `import dtm_hf` has happened: a registration must not depend on what else was used.
    from transformers import AutoModel

    head = AutoModel.from_pretrained(REPO, subfolder="head")
    result["auto class"] = f"{type(head).__module__}.{type(head).__name__}"

    from diffusers import DiffusionPipeline

    result["generic class"] = type(DiffusionPipeline.from_pretrained(REPO)).__name__
    pipe = dtm_hf.DTMPipeline.from_pretrained(REPO)
    result["parts"] = {name: type(part).__name__ for name, part in pipe.components.items()}
    result["main"] = distance(pipe, "second")
    result["tag"] = distance(dtm_hf.DTMPipeline.from_pretrained(REPO, revision="v1"), "first")
    result["head alone"] = distance(dtm_hf.DTMPipeline.from_pretrained(HEAD), "head alone")
    mounted = dtm_hf.DTMPipeline.from_pretrained(REPO, head=dtm_hf.DTMHead.from_pretrained(HEAD), revision="v1")
    result["head mounted"] = distance(mounted, "head alone")
    half = dtm_hf.DTMPipeline.from_pretrained(HALF, torch_dtype=torch.bfloat16)
    parts = (half.backbone, half.head)
    result["bf16 dtypes"] = sorted({str(p.dtype) for part in parts for p in part.parameters()})
    result["bf16 is finite"] = bool(speak(half).isfinite().all())

    mark("offline")
    result["local main"] = distance(dtm_hf.DTMPipeline.from_pretrained(REPO, local_files_only=True), "second")
    local = dtm_hf.DTMPipeline.from_pretrained(REPO, revision="v1", local_files_only=True)
    result["local tag"] = distance(local, "first")
    result["local head"] = distance(dtm_hf.DTMPipeline.from_pretrained(HEAD, local_files_only=True), "head alone")
    mark("online")
    for name, kwargs in {"org/absent": {}, REPO: {"revision": "absent"}}.items():
        try:
            dtm_hf.DTMPipeline.from_pretrained(name, **kwargs)
        except OSError as problem:
            result[f"error {name}"] = str(problem)
    return result


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    (folder / "load.json").write_text(json.dumps(load(folder)))

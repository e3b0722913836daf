"""
Run by test_publishing.py: pushes training runs to a Hub in this process and loads them back.

Writes what it saw as JSON into the folder it is given. In a process of its own, since `huggingface_hub` reads the
endpoint when it is imported, and with the server inside, since it is made to fail and to wait at certain moments.
"""

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path

from hub_server import HubServer

FOLDER = Path(sys.argv[1])
hub = HubServer(FOLDER / "server", token="hf_test")
os.environ.clear()
os.environ.update(hub.environment(FOLDER / "home"))
token = os.environ.pop("HF_TOKEN")

import torch  # noqa: E402
from huggingface_hub import HfApi, hf_hub_download  # noqa: E402
from training_runs import LOOP, QUIET, SIZES, VOCABULARY  # noqa: E402

from dtm_hf import DTMPipeline  # noqa: E402
from dtm_hf.training.loop.publishing import Publisher  # noqa: E402
from dtm_hf.training.systems import build_task, parse_config  # noqa: E402

RUN, LOCAL, HEAD = "org/run", "org/run-dtm", "org/run-head"
STUDENT, MERGED = "org/run-student", "org/run-merged"
# Frames.
HOUR = 3600 * 24000 // 256
HEAD_SIZES = "--head_hidden_size 32 --head_num_layers 1 --head_architecture conv".split()


def make_run(name, *argv):
    """Folder and task of a run; nothing of its data is read."""
    (FOLDER / "vocab.txt").write_text("".join(f"{character}\n" for character in VOCABULARY))
    argv = [*argv, "--dataset", "data/read-aloud", "--output_dir", str(FOLDER / name), *LOOP, *QUIET]
    config = parse_config(argv)
    task = build_task(config)
    set_weights(task.module, 0)
    return FOLDER / name, task


@torch.no_grad()
def set_weights(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def weights_are(module, seed):
    """Whether the weights are those of `set_weights` to the bit."""
    generator = torch.Generator().manual_seed(seed)
    return all(torch.equal(p, 0.1 * torch.randn(p.shape, generator=generator)) for p in module.parameters())


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, (said, hub.requests)
        time.sleep(0.01)


def titles(repo):
    return [commit.title for commit in HfApi().list_repo_commits(repo)][::-1]


def card(repo):
    return Path(hf_hub_download(repo, "README.md")).read_text()


def left(name):
    return sorted(path.name for path in (FOLDER / name / "hub").iterdir())


def flow_matching():
    result = {}
    argv = ["--objective", "flow_matching", "--t_sampling", "uniform", *SIZES, "--license", "cc0-1.0"]
    folder, task = make_run("run", *argv, "--vocab_file", str(FOLDER / "vocab.txt"))
    for repo_id in ("run", "org/a b", "a/b/c"):
        try:
            Publisher(repo_id, folder, task)
        except ValueError as error:
            result[f"name {repo_id}"] = str(error)
    try:
        Publisher(RUN, folder, task)
    except ValueError as error:
        result["no token"] = str(error)
    os.environ["HF_TOKEN"] = token

    publisher = Publisher(RUN, folder, task, said.append)
    # The server answers nothing while its lock is held.
    with hub.store.lock:
        before = len(hub.requests)
        for step in (1, 2, 3):
            set_weights(task.module, step)
            publisher.submit(step, units=HOUR * step // 2, results={"validation_loss": 0.123456, "other": 2.0})
            wait_for(lambda: len(hub.requests) > before)
        set_weights(task.module, 99)
        result["while waiting"] = left("run")
    wait_for(lambda: len(said) == 2)
    result["titles"], result["said"] = titles(RUN), list(said)
    result["left"] = left("run")
    first = HfApi().list_repo_commits(RUN)[1].commit_id
    result["weights"] = [
        weights_are(DTMPipeline.from_pretrained(RUN, revision=first).backbone, 1),
        weights_are(DTMPipeline.from_pretrained(RUN).backbone, 3),
    ]
    result["card"] = card(RUN)
    result["files"] = HfApi().list_repo_files(RUN)

    # A checkpoint that cannot be pushed, and the next one that can.
    hub.fail_next(1, matching="/commit/")
    publisher.submit(4, units=2 * HOUR)
    wait_for(lambda: len(said) == 3)
    result["failed left"] = left("run")
    set_weights(task.module, 5)
    publisher.submit(5, units=5 * HOUR // 2)
    wait_for(lambda: len(said) == 4)
    result["after failure"] = [titles(RUN), said[2:], left("run")]
    # The last one fails, and is tried once more.
    hub.fail_next(1, matching="/commit/")
    set_weights(task.module, 6)
    publisher.submit(6, units=3 * HOUR)
    publisher.submit(6, units=3 * HOUR)
    result["closed"] = [publisher.close(), titles(RUN), said[4:], left("run")]
    result["last weights"] = weights_are(DTMPipeline.from_pretrained(RUN).backbone, 6)
    return result


def dtm():
    result = {}
    # A base on this machine: the pipeline is pushed whole. It is where the run before left it.
    DTMPipeline.from_pretrained(RUN).save_pretrained(FOLDER / "base")
    folder, task = make_run("local", "--base_model", str(FOLDER / "base"), *HEAD_SIZES)
    said.clear()
    publisher = Publisher(LOCAL, folder, task, said.append)
    publisher.submit(7, units=HOUR, results={"validation_loss": 0.5})
    result["local closed"] = publisher.close()
    pipeline = DTMPipeline.from_pretrained(LOCAL)
    result["local weights"] = [weights_are(pipeline.head, 0), weights_are(pipeline.backbone, 6)]
    result["local card"] = card(LOCAL)

    # A base on the Hub: a head alone. First with a Hub that is down, and with a folder that cannot be written.
    folder, task = make_run("head", "--base_model", RUN, *HEAD_SIZES)
    said.clear()
    publisher = Publisher(HEAD, folder, task, said.append)
    hub.fail_next(1000, matching="/commit/")
    publisher.submit(8, units=HOUR)
    result["down closed"] = [publisher.close(), list(said), left("head")]
    snapshot = DTMPipeline.from_pretrained(FOLDER / "head" / "hub" / "step-00000008")
    result["down snapshot"] = weights_are(snapshot.head, 0)
    hub.fail_next(0)

    said.clear()
    publisher = Publisher(HEAD, folder, task, said.append)
    set_weights(task.module, 9)
    publisher.submit(9, units=2469 * HOUR // 2, results={"validation_loss": 0.25})
    wait_for(lambda: said)
    publisher.folder.rmdir()
    publisher.folder.write_text("in the way")
    publisher.submit(10, units=1235 * HOUR)
    result["unwritable closed"] = [publisher.close(), list(said)]
    result["head titles"] = titles(HEAD)
    result["head files"] = HfApi().list_repo_files(HEAD)
    pipeline = DTMPipeline.from_pretrained(HEAD)
    result["head weights"] = [weights_are(pipeline.head, 9), weights_are(pipeline.backbone, 6)]
    result["head config"] = [pipeline.head.config.training_data, pipeline.head.config.results]
    result["head card"] = card(HEAD)
    return result


def tdm():
    """Adapters on a base of the Hub are pushed alone, on one of this machine merged into it."""
    result = {}
    student = "--objective tdm --lora_rank 2 --step_counts 1 2".split()
    for repo_id, base in ((STUDENT, RUN), (MERGED, str(FOLDER / "base"))):
        folder, task = make_run(repo_id.split("/")[1], *student, "--base_model", base)
        publisher = Publisher(repo_id, folder, task, said.append)
        publisher.submit(11, units=HOUR, results={"validation_mel_distance": 0.5})
        pipeline = DTMPipeline.from_pretrained(repo_id) if publisher.close() else None
        expected = task.components.pipeline().backbone.state_dict()
        weights = pipeline.backbone.state_dict()
        same = all(torch.equal(weights[name], expected[name]) for name in expected)
        config = pipeline.backbone.config
        result[repo_id] = [same, pipeline.head is None, config.step_counts, config.training_data]
        result[f"{repo_id} files"] = HfApi().list_repo_files(repo_id)
        result[f"{repo_id} card"] = card(repo_id)
    return result


said: list[str] = []
with hub:
    result = {}
    with contextlib.redirect_stdout(io.StringIO()):
        result["flow_matching"] = flow_matching()
        result["dtm"] = dtm()
        result["tdm"] = tdm()
    (FOLDER / "result.json").write_text(json.dumps(result))

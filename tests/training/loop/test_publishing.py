"""Pushing while training: the newest snapshot wins, a failure stops nothing, and what is pushed can be loaded."""

import os
import time
from pathlib import Path

import pytest
import torch
from hub_card_rules import check_card
from hub_server import hub_of_this_process
from huggingface_hub import HfApi, hf_hub_download
from training_runs import LOOP, QUIET, SIZES, VOCABULARY

from dtm_hf import DTMPipeline
from dtm_hf.training.loop.publishing import Publisher
from dtm_hf.training.systems import build_task, parse_config

RUN, LOCAL, HEAD = "org/run", "org/run-dtm", "org/run-head"
STUDENT, MERGED = "org/run-student", "org/run-merged"
# Frames.
HOUR = 3600 * 24000 // 256
HEAD_SIZES = "--head_hidden_size 32 --head_num_layers 1 --head_architecture conv".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("publishing")


@pytest.fixture(scope="module")
def hub(folder):
    with hub_of_this_process(folder / "server") as server:
        yield server


def make_run(folder, name, *argv):
    """Folder and task of a run; nothing of its data is read."""
    (folder / "vocab.txt").write_text("".join(f"{character}\n" for character in VOCABULARY))
    argv = [*argv, "--dataset", "data/read-aloud", "--output_dir", str(folder / name), *LOOP, *QUIET]
    config = parse_config(argv)
    task = build_task(config)
    set_weights(task.module, 0)
    return folder / name, task


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
        assert time.monotonic() < end
        time.sleep(0.01)


def titles(repo):
    return [commit.title for commit in HfApi().list_repo_commits(repo)][::-1]


def card(repo):
    return Path(hf_hub_download(repo, "README.md")).read_text()


def left(run):
    return sorted(path.name for path in (run / "hub").iterdir())


@pytest.fixture(scope="module")
def backbone_run(folder, hub):
    result, said = {}, []
    token = os.environ.pop("HF_TOKEN")
    argv = ["--objective", "flow_matching", "--t_sampling", "uniform", *SIZES, "--license", "cc0-1.0"]
    run, task = make_run(folder, "run", *argv, "--vocab_file", str(folder / "vocab.txt"))
    for repo_id in ("run", "org/a b", "a/b/c"):
        try:
            Publisher(repo_id, run, task)
        except ValueError as error:
            result[f"name {repo_id}"] = str(error)
    try:
        Publisher(RUN, run, task)
    except ValueError as error:
        result["no token"] = str(error)
    os.environ["HF_TOKEN"] = token

    publisher = Publisher(RUN, run, task, said.append)
    # The server answers nothing while its lock is held.
    with hub.store.lock:
        before = len(hub.requests)
        for step in (1, 2, 3):
            set_weights(task.module, step)
            publisher.submit(step, units=HOUR * step // 2, results={"validation_loss": 0.123456, "other": 2.0})
            wait_for(lambda: len(hub.requests) > before)
        set_weights(task.module, 99)
        result["while waiting"] = left(run)
    wait_for(lambda: len(said) == 2)
    result["titles"], result["said"] = titles(RUN), list(said)
    result["left"] = left(run)
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
    result["failed left"] = left(run)
    set_weights(task.module, 5)
    publisher.submit(5, units=5 * HOUR // 2)
    wait_for(lambda: len(said) == 4)
    result["after failure"] = [titles(RUN), said[2:], left(run)]
    # The last one fails, and is tried once more.
    hub.fail_next(1, matching="/commit/")
    set_weights(task.module, 6)
    publisher.submit(6, units=3 * HOUR)
    publisher.submit(6, units=3 * HOUR)
    result["closed"] = [publisher.close(), titles(RUN), said[4:], left(run)]
    result["last weights"] = weights_are(DTMPipeline.from_pretrained(RUN).backbone, 6)
    return result


@pytest.fixture(scope="module")
def head_run(folder, hub, backbone_run):
    result, said = {}, []
    # A base on this machine: the pipeline is pushed whole. It is where the run before left it.
    DTMPipeline.from_pretrained(RUN).save_pretrained(folder / "base")
    run, task = make_run(folder, "local", "--base_model", str(folder / "base"), *HEAD_SIZES)
    said.clear()
    publisher = Publisher(LOCAL, run, task, said.append)
    publisher.submit(7, units=HOUR, results={"validation_loss": 0.5})
    result["local closed"] = publisher.close()
    pipeline = DTMPipeline.from_pretrained(LOCAL)
    result["local weights"] = [weights_are(pipeline.head, 0), weights_are(pipeline.backbone, 6)]
    result["local card"] = card(LOCAL)

    # A base on the Hub: a head alone. First with a Hub that is down, and with a folder that cannot be written.
    run, task = make_run(folder, "head", "--base_model", RUN, *HEAD_SIZES)
    said.clear()
    publisher = Publisher(HEAD, run, task, said.append)
    hub.fail_next(1000, matching="/commit/")
    publisher.submit(8, units=HOUR)
    result["down closed"] = [publisher.close(), list(said), left(run)]
    snapshot = DTMPipeline.from_pretrained(run / "hub" / "step-00000008")
    result["down snapshot"] = weights_are(snapshot.head, 0)
    hub.fail_next(0)

    said.clear()
    publisher = Publisher(HEAD, run, task, said.append)
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


@pytest.fixture(scope="module")
def student_runs(folder, head_run):
    """Adapters on a base of the Hub are pushed alone, on one of this machine merged into it."""
    result = {}
    student = "--objective tdm --lora_rank 2 --step_counts 1 2".split()
    for repo_id, base in ((STUDENT, RUN), (MERGED, str(folder / "base"))):
        run, task = make_run(folder, repo_id.split("/")[1], *student, "--base_model", base)
        publisher = Publisher(repo_id, run, task)
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


def test_a_name_that_is_none_and_a_missing_token_are_refused_at_the_start(backbone_run):
    for repo_id in ("run", "org/a b", "a/b/c"):
        assert backbone_run[f"name {repo_id}"] == f"`push_to_hub` must be `org/name`, but got {repo_id!r}."
    assert "`push_to_hub` needs a token" in backbone_run["no token"]


def test_training_does_not_wait_and_the_newest_snapshot_wins(backbone_run):
    # The second one gave way to the third while the first was on its way.
    assert backbone_run["while waiting"] == ["step-00000001", "step-00000003"]
    assert backbone_run["titles"] == ["initial commit", "Training step 1", "Training step 3"]
    assert backbone_run["said"] == ["Pushed step 1 to org/run.", "Pushed step 3 to org/run."]
    assert backbone_run["left"] == []


def test_what_is_pushed_is_the_weights_of_its_step(backbone_run):
    assert backbone_run["weights"] == [True, True]
    assert "model_index.json" in backbone_run["files"]
    assert not [name for name in backbone_run["files"] if name.endswith((".bin", ".pt", ".py"))]


def test_the_card_says_what_was_trained_and_measured(backbone_run, head_run):
    card = backbone_run["card"]
    assert "| Training data | read-aloud; 3 steps, 1.5 hours of speech with repeats |" in card
    assert "license: cc0-1.0" in card
    assert "| | validation loss | other |" in card and "| averaged weights, step 3 | 0.1235 | 2 |" in card
    assert 'from_pretrained("org/run")' in card
    assert "read-aloud; 7 steps, 1.0 hours" in head_run["local card"] and "0.5" in head_run["local card"]
    assert "9 steps, 1,234.5 hours" in head_run["head card"] and "license: cc0-1.0" in head_run["head card"]
    assert "base_model: org/run" in head_run["head card"]
    for text in (card, head_run["local card"], head_run["head card"]):
        assert check_card(text) == ([], [])


def test_a_failed_push_is_reported_and_the_next_checkpoint_takes_its_place(backbone_run):
    assert backbone_run["failed left"] == ["step-00000004"]
    titles, said, left = backbone_run["after failure"]
    assert titles[-2:] == ["Training step 3", "Training step 5"]
    assert said[0].startswith("Not pushed to org/run, but training goes on. Step 4 failed with HfHubHTTPError: ")
    assert "500 Internal Server Error" in said[0] and "\n" not in said[0]
    assert said[1] == "Pushed step 5 to org/run." and left == []


def test_the_last_push_is_tried_once_more(backbone_run):
    closed, titles, said, left = backbone_run["closed"]
    assert closed is True
    assert titles[-2:] == ["Training step 5", "Training step 6"]
    assert "Step 6 failed" in said[0] and said[1:] == ["Pushed step 6 to org/run."] and left == []
    assert backbone_run["last weights"]


def test_a_base_on_this_machine_is_pushed_with_its_head(head_run):
    assert head_run["local closed"] is True
    assert head_run["local weights"] == [True, True]


def test_a_base_on_the_hub_is_named_by_a_head_alone(head_run):
    assert head_run["head weights"] == [True, True]
    assert set(head_run["head files"]) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    training_data, results = head_run["head config"]
    assert training_data == "read-aloud; 9 steps, 1,234.5 hours of speech with repeats"
    assert results == {"averaged weights, step 9": {"validation loss": "0.25"}}


def test_a_hub_that_stays_down_costs_nothing_but_the_push(head_run):
    closed, said, left = head_run["down closed"]
    assert closed is False and len(said) == 3
    assert "weights of step 8 are NOT in org/run-head" in said[-1] and "hf upload org/run-head" in said[-1]
    assert left == ["step-00000008"] and head_run["down snapshot"]


def test_a_snapshot_that_cannot_be_written_stops_nothing(head_run):
    closed, said = head_run["unwritable closed"]
    assert closed is False
    assert said[0] == "Pushed step 9 to org/run-head." and "step 10 was not written" in said[1]
    assert "weights of step 10 are NOT" in said[2]
    assert head_run["head titles"] == ["initial commit", "Training step 9"]


def test_a_student_is_pushed_as_adapters_or_merged(student_runs):
    run = student_runs
    for repo_id in ("org/run-student", "org/run-merged"):
        same, headless, step_counts, training_data = run[repo_id]
        assert same and headless and step_counts == [1, 2]
        assert training_data == "read-aloud; 11 steps, 1.0 hours of speech with repeats"
        card = run[f"{repo_id} card"]
        assert "A few-step student" in card and "| | validation mel distance |" in card
        assert check_card(card) == ([], [])
    assert set(run["org/run-student files"]) == {".gitattributes", "README.md", "config.json", "student.safetensors"}
    assert (
        "base_model: org/run" in run["org/run-student card"] and "| Adapters | rank 2, " in run["org/run-student card"]
    )
    assert "model_index.json" in run["org/run-merged files"] and "Adapters" not in run["org/run-merged card"]

"""Pushing while training: the newest snapshot wins, a failure stops nothing, and what is pushed can be loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_card_rules import check_card

pytestmark = pytest.mark.slow  # one process that imports diffusers and f5_tts


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("publishing")
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("publishing_runs.py")), str(folder)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def backbone_run(result):
    return result["flow_matching"]


@pytest.fixture
def head_run(result):
    return result["dtm"]


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


def test_a_student_is_pushed_as_adapters_or_merged(result):
    run = result["tdm"]
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

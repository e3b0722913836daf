"""What is heard and fetched of a run while it goes on: speech from prompts, and pushes to a Hub that fails once."""

import json

import pytest
import soundfile
from hub_server import hub_of_this_process
from training_runs import Run, flow_matching_arguments, log, write_corpus

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder, output and commits of a run that speaks and pushes every two steps."""
    folder = tmp_path_factory.mktemp("watched")
    corpus = write_corpus(folder / "corpus", train_rows=12)
    (folder / "prompts.txt").write_text("# by whom|what\na|a clip of mine\n\na|\n")
    watching = [
        "--sample_prompts_file",
        str(folder / "prompts.txt"),
        "--sample_interval",
        "2",
        "--push_to_hub",
        "me/run",
    ]
    with hub_of_this_process(folder / "server") as hub:
        # The first push fails.
        hub.fail_next(1, 500, matching="POST /api/repos/create")
        argv = flow_matching_arguments(
            corpus, folder / "run", "--max_steps", "5", *watching, "--report_to", "tensorboard"
        )
        process = Run(argv)
        assert process.wait() == 0, process.output.read_text()[-3000:]
        repository = hub.store.load("models", "me/run")
    return folder / "run", process.output.read_text(), repository


def test_speech_from_prompts_at_its_steps(run):
    folder, _, _ = run
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [
        "ground-truth",
        "step-00000002",
        "step-00000004",
        "step-00000005",
    ]
    for step in (2, 4, 5):
        written = folder / "samples" / f"step-{step:08d}"
        info = json.loads((written / "info.json").read_text())
        assert info["step"] == step and [sample["speaker"] for sample in info["samples"]] == ["a", "a"]
        for sample in info["samples"]:
            assert soundfile.info(written / f"{sample['name']}.wav").frames > 0
            assert (written / f"{sample['name']}.png").stat().st_size > 0
    assert len(list((folder / "samples" / "ground-truth").glob("*.wav"))) == 1


def test_speaking_changes_no_draw(run, tmp_path):
    folder, _, _ = run
    corpus = folder.parent / "corpus"
    quiet = Run(flow_matching_arguments(corpus, tmp_path / "quiet", "--max_steps", "5"))
    assert quiet.wait() == 0
    assert log(tmp_path / "quiet", "loss") == log(folder, "loss")


def test_a_failed_push_is_told_and_the_last_checkpoint_arrives(run):
    _, output, repository = run
    assert "Not pushed to me/run, but training goes on." in output
    assert "Pushed step 5 to me/run." in output
    head = repository["commits"][repository["branches"]["main"]]
    assert head["title"] == "Training step 5"
    assert {"model_index.json", "README.md", "backbone/diffusion_pytorch_model.safetensors"} <= head["tree"].keys()

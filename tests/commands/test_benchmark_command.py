"""`dtm-hf benchmark` as a user runs it: on a list of his own, killed and gone on with, and what it refuses."""

import csv
import json

import numpy as np
import pytest
import soundfile
from processes import Forked, command, wait_until
from tiny import SAMPLING_RATE, voice
from tiny_speecht5 import tiny_speecht5_pipeline
from typer.testing import CliRunner

from dtm_hf.commands.main import app

FILES = ["fronts.png", "mels-0.png", "mels-1.png", "results.json", "results.md", "steps.png", "timings.json"]


def run(*arguments: object):
    return CliRunner().invoke(app, ["benchmark", *(str(argument) for argument in arguments)])


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def model(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sentences(tmp_path):
    """A list of four sentences, with recordings."""
    folder = tmp_path / "list"
    folder.mkdir()
    rows = []
    for i in range(4):
        for kind, seconds in (("prompt", 1.0), ("said", 0.4 + 0.1 * i)):
            soundfile.write(folder / f"{kind}{i}.wav", voice(seconds, 100 + 20 * i, seed=i), SAMPLING_RATE)
        rows.append((f"prompt{i}.wav", "what is said", f"item {'abcd'[i]}", f"said{i}.wav"))
    with (folder / "sentences.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("reference_audio", "reference_text", "text", "recording"), *rows])
    return folder / "sentences.csv"


def test_a_list_of_ones_own(model, sentences, tmp_path):
    arguments = ["--model", model, "--set", sentences, "--metrics", "mel,difference", "--seeds", "0,1", "--repeats", 1]
    arguments += ["--arms", "euler-2,dtm-2x2", "--reference", "euler-2", "-o", tmp_path / "run"]
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "| dtm-2x2 | 4 | 8 |" in result.stdout
    assert set(FILES) <= {path.name for path in (tmp_path / "run").iterdir()}
    assert (tmp_path / "run" / "results.md").read_text() in result.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["arms"]["dtm-2x2"]["metrics"]["mel"]["n"] == 4
    assert results["arms"]["dtm-2x2"]["cost"]["timings"]["8"]["seconds"] > 0
    assert results["settings"]["set"] and results["settings"]["head"]
    assert len(list((tmp_path / "run" / "samples").glob("*.wav"))) == 2 * (3 + 2)

    # Another arm joins: what is known is not judged again.
    before = (tmp_path / "run" / "records.jsonl").read_text()
    arguments[arguments.index("euler-2,dtm-2x2")] = "euler-2,dtm-2x2,euler-1@1"
    assert run(*arguments).exit_code == 0
    after = (tmp_path / "run" / "records.jsonl").read_text()
    added = after.removeprefix(before).splitlines()
    assert added and {json.loads(line)["arm"] for line in added} == {"euler-1@1"}


def test_a_head_that_is_told_otherwise_is_another_one(model, sentences, tmp_path):
    """Its weights are the same; what stands in its place at t = 0 is not."""
    arguments = ["--model", model, "--set", sentences, "--metrics", "difference", "--repeats", 0, "--limit", 1]
    arguments += ["--arms", "dtm-2x1", "-o", tmp_path / "run"]
    assert run(*arguments).exit_code == 0
    path = model / "head" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mean_mel": [0.0] * 100}))
    mixed = run(*arguments)
    assert mixed.exit_code == 1 and "a benchmark with head_guidance" in mixed.stderr


def test_killed_it_goes_on_to_the_same_results(model, sentences, tmp_path):
    def arguments(output):
        options = f"--model {model} --set {sentences} --metrics mel,difference --seeds 0,1 --repeats 0 --batch-size 1"
        return f"{options} --arms euler-8,dtm-2x2 --reference euler-8 -o {output}".split()

    lines = tmp_path / "killed" / "records.jsonl"
    output = tmp_path / "killed.out"
    process = Forked(command, "dtm_hf.commands.main", "benchmark", *arguments(tmp_path / "killed"), output=output)
    wait_until(process, lambda: lines.exists() and lines.read_text().count("\n") >= 6)
    process.kill()
    assert not (tmp_path / "killed" / "results.json").exists()
    for folder in ("killed", "whole"):
        result = run(*arguments(tmp_path / folder))
        assert result.exit_code == 0, result.stderr
    killed, whole = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("killed", "whole"))
    assert lines.read_text().count("\n") == (tmp_path / "whole" / "records.jsonl").read_text().count("\n")
    for arm in whole["arms"]:
        for name, figure in whole["arms"][arm]["metrics"].items():
            assert killed["arms"][arm]["metrics"][name] == pytest.approx(figure, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--arms euler-4,fast-4", "`arms`.*'fast-4'"),
        ("--arms euler-4,sway-4", "`arms`.*'sway-4'"),
        ("--seeds 0,x", "`--seeds`.*'0,x'"),
        ("--seeds 1,1", "`--seeds`"),
        ("--voice slt", "`--voice`.*has prompts of its own"),
        ("--recognizer ears:base", "`--recognizer`.*'ears:base'"),
        ("--metrics mel,beauty", "`--metrics`.*'beauty'"),
        ("--reference euler-3", "`--reference`.*'euler-3'"),
        ("--set absent.csv", "absent.csv"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_loaded(options, named, sentences, tmp_path, monkeypatch):
    import re

    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("dtm_hf.commands.benchmarking.load_pipeline", load)
    result = run("--set", sentences, "-o", tmp_path / "run", *options.split())
    assert result.exit_code == 2
    assert re.search(named, result.stderr) and result.stderr.startswith("Error: ")
    assert not (tmp_path / "run").exists()


def test_an_arm_that_the_pipeline_cannot_run_is_refused_before_hours_are_spent(model, sentences, tmp_path):
    result = run("--model", model, "--set", sentences, "-o", tmp_path / "run", "--arms", "euler-32,dtm-4x3")
    assert result.exit_code == 1 and "num_head_steps" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_lengths_of_the_recordings(model, sentences, tmp_path):
    common = ["--model", model, "--arms", "euler-1", "--metrics", "difference", "--repeats", 0]
    common += ["--durations", "recording"]
    assert run("--set", sentences, "-o", tmp_path / "run", *common).exit_code == 0
    lengths = [len(np.load(path)) for path in sorted((tmp_path / "run" / "mels").rglob("*.npy"))]
    assert lengths == pytest.approx([93.75 * (0.4 + 0.1 * i) for i in range(4)], abs=2)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["settings"]["durations"] == "recording"
    rows = list(csv.reader(sentences.open()))
    with sentences.with_name("unsaid.csv").open("w", newline="") as file:
        csv.writer(file).writerows([row[:3] for row in rows])
    refused = run("--set", sentences.with_name("unsaid.csv"), "-o", tmp_path / "other", *common)
    assert refused.exit_code == 2 and "`--durations recording` needs a recording" in refused.stderr


def test_a_predictor_is_the_default_and_bytes_can_be_asked_for(model, sentences, tmp_path):
    from dtm_hf import DTMPipeline, DurationPredictor

    # Whatever the text, as long as the prompt.
    alike = DTMPipeline.from_pretrained(model, duration_predictor=DurationPredictor(1.0, 0.0, {}, 0.0))
    alike.save_pretrained(tmp_path / "alike")
    common = ["--model", tmp_path / "alike", "--arms", "euler-1", "--metrics", "difference", "--repeats", 0]
    lengths, settings = {}, {}
    for durations in ("predicted", "bytes"):
        folder = tmp_path / durations
        result = run("--set", sentences, "-o", folder, *common, "--durations", durations)
        assert result.exit_code == 0, result.stderr
        lengths[durations] = [len(np.load(path)) for path in sorted((folder / "mels").rglob("*.npy"))]
        settings[durations] = json.loads((folder / "results.json").read_text())["settings"]["durations"]
    assert settings["bytes"] == "bytes" and settings["predicted"].startswith("predicted by DurationPredictor ")
    assert f"lengths: {settings['predicted']}" in (tmp_path / "predicted" / "results.md").read_text()
    # Figures of one predictor are not mixed with those of another.
    refitted = DTMPipeline.from_pretrained(model, duration_predictor=DurationPredictor(2.0, 0.0, {}, 0.0))
    refitted.save_pretrained(tmp_path / "refitted")
    mixed = run("--set", sentences, "-o", tmp_path / "predicted", "--model", tmp_path / "refitted", *common[2:])
    assert mixed.exit_code != 0 and "a benchmark with durations" in mixed.stderr
    assert len(set(lengths["predicted"])) == 1 and lengths["predicted"] != lengths["bytes"]
    # Without a predictor it is bytes that lengths are predicted from, and the record says so.
    assert run("--set", sentences, "-o", tmp_path / "none", "--model", model, *common[2:]).exit_code == 0
    assert json.loads((tmp_path / "none" / "results.json").read_text())["settings"]["durations"] == "bytes"


def test_a_folder_of_another_benchmark_is_refused(model, sentences, tmp_path):
    common = ["--model", model, "-o", tmp_path / "run", "--arms", "euler-1", "--metrics", "difference", "--repeats", 0]
    assert run("--set", sentences, *common).exit_code == 0
    other = sentences.with_name("other.csv")
    other.write_bytes(sentences.read_bytes())
    result = run("--set", other, *common)
    assert result.exit_code == 1 and "choose another folder" in result.stderr


def test_texts_alone_are_spoken_in_the_packaged_voices_by_turns(model, tmp_path):
    common = [
        "--model",
        model,
        "--set",
        tmp_path / "texts.txt",
        "--recognizer",
        "pocketsphinx",
        "--metrics",
        "wer,cer",
    ]
    common += ["--arms", "euler-1", "--repeats", 0, "-o", tmp_path / "run"]
    (tmp_path / "texts.txt").write_text("Say this.|calm\nWhat is that?|asked\nOne more.|calm\n")
    refused = run(*common)
    assert refused.exit_code == 2 and "`--reference-audio` and `--reference-text` are needed" in refused.stderr
    for name, seconds in (("reference-a", 1.0), ("reference-b", 1.5)):
        soundfile.write(model / f"{name}.wav", voice(seconds), SAMPLING_RATE)
        (model / f"{name}.txt").write_text("what is said")
    result = run(*common)
    assert result.exit_code == 0, result.stderr
    lengths = [len(np.load(path)) for path in sorted((tmp_path / "run" / "mels").rglob("*.npy"))]
    # By bytes, as long as the prompt of each: 9 letters in the first voice, 13 in the second, 9 in the first.
    assert lengths[0] == lengths[2] != lengths[1]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {kind: found["euler-1"]["wer"]["n"] for kind, found in results["kinds"].items()} == {"calm": 2, "asked": 1}
    assert "| calm | 2 |" in (tmp_path / "run" / "results.md").read_text()


def test_a_word_that_cannot_be_heard_is_listed_and_ends_nothing(model, sentences, tmp_path):
    said = sentences.read_text().replace("item b", "item kubernetes")
    sentences.write_text(said)
    common = ["--model", model, "--set", sentences, "--arms", "euler-1", "--repeats", 0, "-o", tmp_path / "run"]
    result = run(*common, "--metrics", "wer,cer,difference")
    assert result.exit_code == 0, result.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["unheard"] == {"kubernetes": ["sentences-0003"]}
    figures = results["arms"]["euler-1"]["metrics"]
    assert (figures["wer"]["n"], figures["cer"]["n"], figures["difference"]["n"]) == (3, 3, 4)
    assert results["settings"]["recognizer"].startswith("pocketsphinx 5")
    report = (tmp_path / "run" / "results.md").read_text()
    assert "1 of 4 sentences have no word error: the recogniser cannot hear kubernetes." in report
    assert f"Recogniser: {results['settings']['recognizer']}." in report
    # Figures of one recogniser are not mixed with those of another.
    settings = tmp_path / "run" / "settings.json"
    settings.write_text(settings.read_text().replace("pocketsphinx 5", "pocketsphinx 4"))
    mixed = run(*common, "--metrics", "wer")
    assert mixed.exit_code == 1 and "a benchmark with recognizer 'pocketsphinx 4" in mixed.stderr


@pytest.fixture
def speecht5(tokenizer, tmp_path):
    import torch

    pipe = tiny_speecht5_pipeline(tokenizer)
    with torch.no_grad():
        # Random weights say nothing of their end.
        pipe.model.speech_decoder_postnet.prob_out.bias.fill_(50.0)
    pipe.save_pretrained(tmp_path / "speecht5")
    return tmp_path / "speecht5"


def test_another_system_joins_the_table(model, speecht5, sentences, tmp_path):
    arguments = [
        "--model",
        model,
        "--set",
        sentences,
        "--metrics",
        "difference",
        "--repeats",
        0,
        "-o",
        tmp_path / "run",
    ]
    assert run(*arguments, "--arms", "euler-2").exit_code == 0
    before = (tmp_path / "run" / "records.jsonl").read_text()
    result = run(*arguments, "--arms", "euler-2,speecht5", "--beside", speecht5)
    assert result.exit_code == 0, result.stderr
    assert "stop rate" in result.stdout and "\n| speecht5 |  |  |" in result.stdout
    # The arm of before is not judged again.
    after = (tmp_path / "run" / "records.jsonl").read_text()
    assert {json.loads(line)["arm"] for line in after.removeprefix(before).splitlines()} == {"speecht5"}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["arms"]["speecht5"]["metrics"]["stopped"]["value"] == 1
    assert results["settings"]["speecht5"].endswith(" torch SpeechT5HifiGan")
    assert (tmp_path / "run" / "samples" / "0-speecht5.wav").is_file()
    # Another one of its kind is another benchmark.
    from dtm_hf import SpeechT5Pipeline

    other = SpeechT5Pipeline.from_pretrained(speecht5)
    other.model.speech_decoder_postnet.prob_out.bias.data.fill_(-50.0)
    other.save_pretrained(tmp_path / "other")
    refused = run(*arguments, "--arms", "euler-2,speecht5", "--beside", tmp_path / "other")
    assert refused.exit_code == 1 and "holds a benchmark with speecht5" in refused.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--arms euler-2,speecht5", "`--arms` holds 'speecht5': name the SpeechT5Pipeline that speaks it, `--beside`"),
        (
            "--arms speecht5-4 --beside speecht5",
            "`arms` of speecht5 must be of the form speecht5, but got 'speecht5-4'",
        ),
        (
            "--arms speecht5 --beside model",
            "`--beside` 'model' must be a SpeechT5Pipeline or a TRMPipeline, but is a DTMPipeline",
        ),
        ("--arms speecht5 --beside absent", "`--beside` 'absent' is neither an existing folder"),
        ("--arms speecht5 --beside empty", "`--beside` 'empty' holds no pipeline"),
        ("--arms speecht5 --beside speecht5 --beside again", "`--beside` may name one SpeechT5Pipeline"),
        ("--arms euler-2 --model speecht5", "`--model` must be a DTMPipeline, but 'speecht5' is a SpeechT5Pipeline"),
    ],
)
def test_what_is_beside_is_refused_before_anything_is_loaded(options, named, sentences, tmp_path, monkeypatch):
    def load(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("dtm_hf.commands.benchmarking.load_pipeline", load)
    monkeypatch.chdir(tmp_path)
    classes = {"speecht5": "SpeechT5Pipeline", "again": "SpeechT5Pipeline", "model": "DTMPipeline"}
    for name, kind in classes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    (tmp_path / "empty").mkdir()
    result = run("--set", sentences, "-o", tmp_path / "run", *options.split())
    assert result.exit_code == 2 and named in result.stderr, result.stderr
    assert not (tmp_path / "run").exists()


def test_one_without_a_voice_cannot_be_judged(tokenizer, model, sentences, tmp_path):
    tiny_speecht5_pipeline(tokenizer, speakers=None).save_pretrained(tmp_path / "mute")
    arguments = ["--model", model, "--set", sentences, "--arms", "speecht5", "-o", tmp_path / "run"]
    result = run(*arguments, "--beside", tmp_path / "mute")
    assert result.exit_code == 2 and "must have `speakers`" in result.stderr and "`--beside` '" in result.stderr
    assert not (tmp_path / "run").exists()

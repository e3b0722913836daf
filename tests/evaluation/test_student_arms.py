"""Arms of a distilled student, beside those of the pipeline whose backbone it was distilled from."""

import json

import pytest
import torch
from tiny import SAMPLING_RATE, randomise, voice
from typer.testing import CliRunner

from dtm_hf import DTMPipeline
from dtm_hf.backbone.student import Student, StudentConfig
from dtm_hf.commands.main import app
from dtm_hf.evaluation.arms import parse_arm
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.samplers import mounted, run_arm
from dtm_hf.training.objectives.adapters import F5_LAYERS, AdapterNetworks

ITEMS = [BenchmarkItem("a", "what else is there to say", voice(1.0), "some words. ")]


@pytest.fixture
def student(make_backbone, backbone):
    """Adapters that change the backbone, for 2 and 4 steps."""
    torch.manual_seed(0)
    networks = AdapterNetworks(make_backbone(), F5_LAYERS, 4, step_counts=(2, 4))
    randomise(networks.trained["student"], 0)
    sampler = {"num_inference_steps": 4, "time_grid": "sway", "sway_coefficient": -1.0}
    names = {"backbone_name": "tiny", "backbone_fingerprint": backbone.fingerprint, "license": "mit"}
    return Student(StudentConfig(networks.rank, networks.alpha, [2, 4], sampler, **names), networks.state())


@pytest.fixture
def distilled(tiny_pipeline, student):
    return DTMPipeline(**tiny_pipeline.components | {"head": None}).load_student(student)


def mel(pipe, name, **kwargs):
    return run_arm(pipe, parse_arm(name), ITEMS, SAMPLING_RATE, [7], "mel", **kwargs).audios[0]


def test_the_student_speaks_for_its_arms_alone(tiny_pipeline, distilled):
    expected = distilled(
        ITEMS[0].text,
        (ITEMS[0].reference_audio, SAMPLING_RATE),
        ITEMS[0].reference_text,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(7),
        output_type="mel",
    ).audios[0]
    assert torch.equal(mel(tiny_pipeline, "student-2", student=distilled), expected)
    plain = mel(tiny_pipeline, "euler-2@1", student=distilled)
    assert torch.equal(plain, mel(tiny_pipeline, "euler-2@1"))
    assert (plain - expected).abs().max() > 0.01


def test_a_student_that_is_absent_or_serves_other_steps_is_refused(tiny_pipeline, distilled):
    with (
        pytest.raises(ValueError, match="'student-4', but there is no student"),
        mounted(tiny_pipeline, parse_arm("student-4")),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"'student-3', but the student serves \[2, 4\]"),
        mounted(tiny_pipeline, parse_arm("student-3"), student=distilled),
    ):
        pass


def test_the_student_speaks_from_the_command_line(tiny_pipeline, student, tmp_path):
    import soundfile

    tiny_pipeline.save_pretrained(tmp_path / "model")
    student.save_pretrained(tmp_path / "student")
    soundfile.write(tmp_path / "prompt.wav", voice(1.0), SAMPLING_RATE)
    arguments = ["speak", "more", "--model", tmp_path / "model", "--reference-audio", tmp_path / "prompt.wav"]
    arguments += ["--reference-text", "said", "-o", tmp_path / "out.wav", "--student", tmp_path / "student"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.stderr
    assert "4 backbone passes, 0 head calls" in result.stdout and (tmp_path / "out.wav").exists()
    (tmp_path / "student" / "student.safetensors").write_bytes(b"torn")
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 1 and "`--student`" in result.stderr and "damaged" in result.stderr


def test_student_and_head_in_one_run(tiny_pipeline, student, tmp_path):
    import soundfile

    tiny_pipeline.save_pretrained(tmp_path / "model")
    student.save_pretrained(tmp_path / "student")
    for name, seconds in (("prompt", 1.0), ("said", 0.5)):
        soundfile.write(tmp_path / f"{name}.wav", voice(seconds), SAMPLING_RATE)
    line = {"reference_audio": "prompt.wav", "reference_text": "said", "text": "more", "recording": "said.wav"}
    (tmp_path / "list.jsonl").write_text(json.dumps(line) + "\n")
    arguments = ["--set", tmp_path / "list.jsonl", "--model", tmp_path / "model", "-o", tmp_path / "run"]
    arguments += ["--arms", "euler-2,dtm-2x2,student-2", "--metrics", "mel", "--repeats", 1]
    missing = CliRunner().invoke(app, ["benchmark", *map(str, arguments)])
    assert missing.exit_code == 1 and "there is no student" in missing.stderr
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments), "--student", str(tmp_path / "student")])
    assert result.exit_code == 0, result.stderr
    assert "| student-2 | 2 | 0 |" in result.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["settings"]["student"] not in (None, results["settings"]["backbone"])
    assert results["arms"]["student-2"]["against_best_training_free"] is not None

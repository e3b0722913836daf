"""What is refused before anything is spoken, what is gone on with, and what a batch and a push come to."""

import io
import shutil

import pyarrow.parquet
import pytest
import soundfile
import torch
from hub_server import hub_of_this_process
from synthesized import FAST, contents, run
from tiny import MEAN_MEL
from typer.testing import CliRunner

from dtm_hf.commands.console import ArgumentError
from dtm_hf.synthesize.__main__ import app


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--texts", "{tmp}/absent.txt"), "absent.txt"),
        (("--texts", "{tmp}/texts.docx"), ".jsonl"),
        (("--texts", "{tmp}/broken.jsonl"), "broken.jsonl"),
        (("--voices", "{tmp}/absent"), "`--voices`"),
        (("--voices", "{tmp}"), "`--voices`"),
        (("--output", "{tmp}/texts.docx"), "`--output`"),
        (("--output", "{tmp}"), "`--output`"),
        (("--head-steps", "3"), "`--head-steps`"),
        (("--model", "{tmp}/absent"), "`--model`"),
        (("--push-to-hub", "a b"), "`--push-to-hub`"),
        (("--recognizer", "nobody"), "`--recognizer`"),
        (("--recognizer", "whisper:{tmp}"), "`--recognizer`"),
    ],
)
def test_what_cannot_be_done_is_one_line(more, named, sources, tmp_path):
    (tmp_path / "texts.docx").write_text("x")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": ')
    more = [each.replace("{tmp}", str(tmp_path)) for each in more]
    result = run(sources, tmp_path / "out", *more)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and named in lines[0], result.stderr


def test_a_table_without_the_column_is_refused_and_nothing_is_written(sources, tmp_path):
    (tmp_path / "texts.csv").write_text("line\nOne two.\n")
    (tmp_path / "empty.jsonl").write_text("")
    for texts, held in (("texts.csv", "['line']"), ("empty.jsonl", "")):
        result = run(sources, tmp_path / "out", "--texts", str(tmp_path / texts))
        assert result.exit_code == 1 and held in result.stderr
    assert "`--text-column` 'text'" in run(sources, tmp_path / "out", "--texts", str(tmp_path / "texts.csv")).stderr
    # The same folder takes the right one.
    right = ("--texts", str(tmp_path / "texts.csv"), "--text-column", "line")
    result = run(sources, tmp_path / "out", *right)
    assert result.exit_code == 0 and "1 rows in" in result.stdout, result.output


def test_a_voice_whose_text_cannot_be_spoken_is_refused_at_the_start(sources, tmp_path):
    voices = tmp_path / "voices"
    shutil.copytree(sources / "voices", voices)
    (voices / "ben.txt").write_text("語")
    result = run(sources, tmp_path / "out", "--voices", str(voices))
    assert result.exit_code == 2 and "'ben' cannot be used" in result.stderr and "text" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def other_parts(port_source, make_backbone, make_head):
    """Pipelines that differ from `port_source` in one component each, by its name."""
    from dtm_hf import DTMPipeline, DTMScheduler, DurationPredictor, GriffinLimVocoder, TextNormalizer

    def with_parts(mean_mel=None, **parts):
        made = DTMPipeline(**port_source.components | parts, mean_mel=mean_mel)
        made.set_progress_bar_config(disable=True)
        return made

    config = dict(port_source.scheduler.config)
    head = {"architecture": "conv", "guidance_scale": 2.0, "guidance_scale_range": [1.0, 3.0]}
    return {
        "head": with_parts(head=make_head(seed=1, **head)),
        "backbone": with_parts(backbone=make_backbone(1, text_embedding_average_upsampling=True)),
        "vocoder": with_parts(vocoder=GriffinLimVocoder(num_iters=2)),
        "scheduler": with_parts(scheduler=DTMScheduler.from_config(config, head_solver="euler")),
        "duration_predictor": with_parts(duration_predictor=DurationPredictor(0.1, 0.1, {"a": 0.05}, 0.03)),
        "text_normalizer": with_parts(text_normalizer=TextNormalizer()),
        "mean_mel": with_parts(mean_mel=MEAN_MEL),
    }


def test_what_was_begun_with_other_parts_is_not_gone_on_with(other_parts, sources, tmp_path):
    (tmp_path / "texts.txt").write_text("One.\n")
    model, texts = tmp_path / "model", ("--texts", str(tmp_path / "texts.txt"), "--model", str(tmp_path / "model"))
    shutil.copytree(sources / "tiny", model)
    assert run(sources, tmp_path / "out", *texts).exit_code == 0
    before = contents(tmp_path / "out")
    for name, pipeline in other_parts.items():
        # The folder of the model holds something else now.
        shutil.rmtree(model)
        pipeline.save_pretrained(model)
        result = run(sources, tmp_path / "out", *texts)
        assert result.exit_code == 1 and f"was begun with another `{name}`" in result.stderr, result.output
    shutil.rmtree(model)
    shutil.copytree(sources / "tiny", model)
    assert run(sources, tmp_path / "out", *texts).exit_code == 0
    assert contents(tmp_path / "out") == before


def test_a_batch_that_the_memory_does_not_hold_is_sampled_in_parts(sources, tmp_path, monkeypatch):
    from dtm_hf.serving.pipeline_speaker import PipelineSpeaker

    frames = ("--max-batch-frames", "600")
    assert run(sources, tmp_path / "whole", *frames).exit_code == 0
    sample = PipelineSpeaker.sample

    def small(speaker, rows, *, generators, **sampling):
        if len(rows) > 1:
            torch.randn(3, generator=generators[0])
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return sample(speaker, rows, generators=generators, **sampling)

    monkeypatch.setattr(PipelineSpeaker, "sample", small)
    assert run(sources, tmp_path / "parts", *frames).exit_code == 0

    def heard(output):
        tables = [pyarrow.parquet.read_table(path).to_pylist() for path in sorted(output.glob("data/*.parquet"))]
        rows = sorted((row["id"], row["audio"]["bytes"]) for table in tables for row in table)
        return {row: soundfile.read(io.BytesIO(audio))[0] for row, audio in rows}

    whole, parts = heard(tmp_path / "whole"), heard(tmp_path / "parts")
    assert set(whole) == set(parts)
    # From the same noise, and with another rounding.
    assert all(abs(whole[row] - parts[row]).max() < 1e-3 for row in whole)

    monkeypatch.setattr(
        PipelineSpeaker, "sample", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    )
    result = run(sources, tmp_path / "none")
    assert result.exit_code == 1 and result.stderr.splitlines()[-1] == "Error: full"


def test_the_voices_of_a_pipeline_of_the_hub_are_those_packaged_with_it(sources, tmp_path):
    from huggingface_hub import HfApi

    from dtm_hf.commands.serving import ServiceModel

    model = tmp_path / "tiny"
    shutil.copytree(sources / "tiny", model)
    for suffix in (".wav", ".txt"):
        shutil.copyfile(sources / f"voices/anna{suffix}", model / f"reference-eva{suffix}")
    (tmp_path / "texts.txt").write_text("One.\n")
    with hub_of_this_process(tmp_path / "hub"):
        HfApi().create_repo("org/tiny")
        HfApi().upload_folder(repo_id="org/tiny", folder_path=model)
        served = ServiceModel(model="org/tiny").recordings("org/tiny")
        assert list(served) == ["eva"] and served["eva"].text == "What is said."
        with pytest.raises(ArgumentError, match="`--model` 'org/absent'"):
            ServiceModel(model="org/absent").recordings("org/absent")
        texts, output = str(tmp_path / "texts.txt"), str(tmp_path / "out")
        result = CliRunner().invoke(app, ["--texts", texts, "--model", "org/tiny", "-o", output, *FAST])
        assert result.exit_code == 0, result.output
        rows = [
            row for path in (tmp_path / "out").glob("data/*") for row in pyarrow.parquet.read_table(path).to_pylist()
        ]
        assert [row["speaker"] for row in rows] == ["eva"]


def test_what_cannot_be_pushed_is_said_before_anything_is_spoken(sources, tmp_path):
    with hub_of_this_process(tmp_path / "hub") as hub:
        hub.fail_next(9, status=403, matching="preupload")
        result = run(sources, tmp_path / "out", "--push-to-hub", "org/speech")
        assert result.exit_code == 2 and "`--push-to-hub` 'org/speech' cannot be written" in result.stderr
        assert not (tmp_path / "out").exists()


def test_a_push_replaces_the_shards_that_are_there(sources, tmp_path):
    from huggingface_hub import HfApi

    (tmp_path / "texts.txt").write_text("One.\nTwo.\n")
    with hub_of_this_process(tmp_path / "hub"):
        for shards in ("3", "2"):
            push = ("--texts", str(tmp_path / "texts.txt"), "--num-shards", shards, "--push-to-hub", "org/speech")
            result = run(sources, tmp_path / shards, *push)
            assert result.exit_code == 0, result.output
        names = HfApi().list_repo_files("org/speech", repo_type="dataset")
    assert sorted(name for name in names if name.startswith("data/")) == [
        f"data/train-0000{k}-of-00002.parquet" for k in range(2)
    ]

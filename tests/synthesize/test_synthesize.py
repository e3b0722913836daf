"""A data set spoken: killed and gone on with, by one process or two, to the same bytes."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
import soundfile
import torch
from hub_server import hub_of_this_process
from loopback import free_port
from processes import Forked, command, wait_until
from tiny import MEAN_MEL
from typer.testing import CliRunner

from dtm_hf.synthesize.__main__ import app
from dtm_hf.synthesize.journal import Journal

NUM_ROWS = 16
LINES = [f"Line {'one two three four five six seven eight'[: 3 + 5 * (i % 8)]}." for i in range(NUM_ROWS)]
LONG = 5
FAST = ("--steps", "1", "--head-steps", "0", "--device", "cpu", "--num-shards", "3")


@pytest.fixture(scope="module")
def sources(port_source, reference_audio, tmp_path_factory):
    """Folder of a model with two voices, and a list of texts of which three cannot be spoken."""
    folder = tmp_path_factory.mktemp("sources")
    port_source.save_pretrained(folder / "tiny")
    voices = folder / "voices"
    voices.mkdir()
    for name, said in {"anna": "What is said.", "ben": "What was said."}.items():
        (voices / f"{name}.wav").write_bytes(reference_audio.read_bytes())
        (voices / f"{name}.txt").write_text(said)
    rows = [{"text": line, "voice": None} for line in LINES]
    rows[3]["text"], rows[7]["voice"], rows[11]["text"], rows[9]["voice"] = " ", "carl", "語", "ben"
    # Of several chunks.
    rows[LONG]["text"] = "A long line, which is cut into chunks, " * 12
    (folder / "texts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def arguments(sources, output, *more):
    model, voices = str(sources / "tiny"), str(sources / "voices")
    texts = str(sources / "texts.jsonl")
    return ["--texts", texts, "--model", model, "--voices", voices, "-o", str(output), *FAST, *more]


def run(sources, output, *more):
    return CliRunner().invoke(app, arguments(sources, output, *more))


def contents(output):
    """What is not bookkeeping."""
    paths = [path for path in Path(output).rglob("*") if path.is_file() and ".work" not in path.parts]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def straight(sources, tmp_path_factory):
    """Folder of a run by one process that nobody disturbed."""
    output = tmp_path_factory.mktemp("straight") / "speech"
    result = run(sources, output)
    assert result.exit_code == 0, result.output
    assert f"{NUM_ROWS - 3} rows in" in result.stdout and "3 left out" in result.stdout
    return output


def test_rows_are_what_the_pipeline_says_and_bad_ones_are_listed(straight, sources, port_source):
    from datasets import Audio, load_dataset

    rows = load_dataset(str(straight), split="train", streaming=True)
    assert isinstance(rows.features["audio"], Audio)
    rows = {row["id"]: row for row in rows.cast_column("audio", Audio(decode=False))}
    assert sorted(rows) == [i for i in range(NUM_ROWS) if i not in (3, 7, 11)]
    assert list(rows) != sorted(rows)
    assert {row["speaker"] for row in rows.values()} == {"anna", "ben"} and rows[9]["speaker"] == "ben"
    assert len({row["seed"] for row in rows.values()}) == len(rows)
    for number in (0, LONG):
        row = rows[number]
        audio, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]))
        voice = sources / "voices" / row["speaker"]
        generator = torch.Generator().manual_seed(row["seed"])
        sampling = {"num_inference_steps": 1, "num_head_steps": 0, "max_batch_frames": 1}
        said = voice.with_suffix(".txt").read_text()
        alone = port_source(row["text"], str(voice) + ".wav", said, generator=generator, **sampling).audios[0]
        assert row["seconds"] == len(alone) / rate == len(audio) / rate
        assert abs(audio - alone.clip(-1, 1)).max() < 1e-4
        assert json.loads(row["settings"])["num_inference_steps"] == 1
    bad = [json.loads(line) for line in (straight / "bad_rows.jsonl").read_text().splitlines()]
    assert [each["id"] for each in bad] == [3, 7, 11]
    assert ["`text`" in bad[0]["error"], "'carl'" in bad[1]["error"], "vocabulary" in bad[2]["error"]] == [True] * 3
    summary = json.loads((straight / "summary.json").read_text())
    assert (summary["rows"], summary["bad_rows"]) == (NUM_ROWS - 3, 3)
    assert summary["hours"] == pytest.approx(sum(row["seconds"] for row in rows.values()) / 3600, abs=1e-6)


def test_a_killed_run_goes_on_at_its_row(straight, sources, tmp_path):
    output = tmp_path / "speech"

    def journals():
        return list((output / ".work").glob("*.journal"))

    def spoken():
        return sum(path.stat().st_size for path in journals())

    running = Forked(command, "dtm_hf.synthesize", *arguments(sources, output), output=tmp_path / "log")
    wait_until(running, lambda: spoken() > 20_000)
    running.kill()
    (journal,) = journals()
    with Journal(journal) as left:
        kept = {row: left.audio(row) for row in left.positions}
    assert kept
    # As if it had been killed in the middle of a record.
    with open(journal, "ab") as file:
        file.write(b"\x10\0\0\0\xff\xff\0\0 half a record")
    again, said = [], []
    result = run_listening(sources, output, again, said)
    assert result.exit_code == 0, result.output
    # No row twice, none lost: what was spoken before is not spoken again.
    assert not set(again) & set(kept)
    assert contents(output) == contents(straight)
    assert journals() == []
    assert run_listening(sources, output, again := [], said).exit_code == 0 and again == []


def run_listening(sources, output, ids, said):
    """A run that notes the ids of the rows that it writes."""
    add = Journal.add

    def noted(journal, header, audio=b""):
        ids.append(header["id"])
        add(journal, header, audio)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "add", noted)
        return run(sources, output)


def test_two_processes_write_the_same_bytes(straight, sources, tmp_path):
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    processes = [
        Forked(
            command,
            "dtm_hf.synthesize",
            *arguments(sources, tmp_path / "speech"),
            output=tmp_path / f"log-{rank}",
            environment=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    for process in processes:
        assert process.wait() == 0, process.output.read_text()
    assert contents(tmp_path / "speech") == contents(straight)


def test_batches_go_on_to_the_bit_as_well(sources, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    frames = ("--max-batch-frames", "600")
    assert run(sources, whole, *frames).exit_code == 0

    class Cut(Exception):
        pass

    add, left = Journal.add, [7]

    def failing(journal, header, audio=b""):
        left[0] -= 1
        if left[0] < 0:
            raise Cut
        add(journal, header, audio)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "add", failing)
        assert isinstance(run(sources, broken, *frames).exception, Cut)
    assert run(sources, broken, *frames).exit_code == 0
    assert contents(broken) == contents(whole)


def test_texts_and_voices_stream_from_the_hub_and_speech_goes_to_it(sources, tmp_path):
    import datasets
    from huggingface_hub import HfApi

    with hub_of_this_process(tmp_path / "hub"):
        api = HfApi()
        for name in ("org/texts", "org/voices"):
            api.create_repo(name, repo_type="dataset")
        lines = "".join(f"{json.dumps({'text': line})}\n" for line in LINES[:3]).encode()
        api.upload_file(
            repo_id="org/texts", repo_type="dataset", path_or_fileobj=lines, path_in_repo="data/train-0.jsonl"
        )
        voice = {"audio": [str(sources / "voices/anna.wav")], "text": ["What is said."], "voice": ["eva"]}
        rows = datasets.Dataset.from_dict(voice).cast_column("audio", datasets.Audio(decode=False))
        rows = rows.map(lambda row: {"audio": {"bytes": Path(row["audio"]["path"]).read_bytes(), "path": None}})
        rows.to_parquet(tmp_path / "voices.parquet")
        api.upload_file(
            repo_id="org/voices",
            repo_type="dataset",
            path_or_fileobj=tmp_path / "voices.parquet",
            path_in_repo="data/train-0.parquet",
        )
        hub = ("--texts", "org/texts", "--voices", "org/voices", "--push-to-hub", "org/speech")
        result = run(sources, tmp_path / "out", *hub)
        assert result.exit_code == 0, result.output
        pushed = datasets.load_dataset("org/speech", split="train", streaming=True)
        rows = list(pushed.cast_column("audio", datasets.Audio(decode=False)))
        assert sorted(row["text"] for row in rows) == sorted(LINES[:3])
        assert {row["speaker"] for row in rows} == {"eva"} and rows[0]["audio"]["bytes"].startswith(b"fLaC")
        assert not [name for name in api.list_repo_files("org/speech", repo_type="dataset") if ".work" in name]


def test_what_a_recogniser_does_not_hear_is_left_out(sources, tmp_path, monkeypatch):
    from dtm_hf.evaluation.recognizers import RECOGNIZERS, VocabularyRecognizer

    # Whisper would have to be downloaded: this one hears these words alone, and not in the noise of a tiny model.
    monkeypatch.setitem(RECOGNIZERS, "words", lambda *_: VocabularyRecognizer(["good", "morning", "seven"]))
    (tmp_path / "texts.txt").write_text("Good morning.\nHello there.\nSeven.\n")
    heard = ("--texts", str(tmp_path / "texts.txt"), "--recognizer", "words")
    result = run(sources, tmp_path / "out", *heard)
    assert result.exit_code == 0, result.output
    bad = [json.loads(line) for line in (tmp_path / "out/bad_rows.jsonl").read_text().splitlines()]
    # The second has words that it never hears, by which nobody can be judged.
    assert [each["id"] for each in bad] == [0, 2]
    assert all(re.fullmatch(r"word error \d\.\d\d: '.*' was heard\.", each["error"]) for each in bad)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["rows"], summary["bad_rows"]) == (1, 2)
    assert "pocketsphinx" in summary["settings"]["recognizer"] and summary["settings"]["max_word_error"] == 0.3
    # What was left out for other ears, or to another bound, is not gone on with.
    assert "another `recognizer`" in run(sources, tmp_path / "out", *heard[:2]).stderr
    assert "another `max_word_error`" in run(sources, tmp_path / "out", *heard, "--max-word-error", "9").stderr
    assert run(sources, tmp_path / "all", *heard, "--max-word-error", "9").exit_code == 0
    assert json.loads((tmp_path / "all/summary.json").read_text())["rows"] == 3


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


def test_another_run_is_not_gone_on_with(straight, sources):
    before = contents(straight)
    result = run(sources, straight, "--seed", "1")
    assert result.exit_code == 1 and "was begun with another `seed`" in result.stderr
    assert contents(straight) == before


def test_two_runs_do_not_write_one_journal(tmp_path):
    with Journal(tmp_path / "shard.journal") as journal:
        journal.add({"id": 1, "seconds": 1.0}, b"x")
        with pytest.raises(OSError, match="another process"):
            Journal(tmp_path / "shard.journal")
    with Journal(tmp_path / "shard.journal") as journal:
        assert journal.audio(1) == ({"id": 1, "seconds": 1.0}, b"x")


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
        with pytest.raises(OSError, match="`--model` 'org/absent'"):
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

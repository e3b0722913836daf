"""A data set spoken: killed and gone on with, by one process or two, to the same bytes."""

import io
import itertools
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
from hub_server import hub_of_this_process
from loopback import free_port
from processes import Forked, command, wait_until
from synthesized import LINES, LONG, NUM_ROWS, arguments, contents, run

from dtm_hf.synthesize.journal import Journal


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


def test_each_process_says_how_far_it_is_and_how_fast(sources, tmp_path, monkeypatch):
    """By a clock that goes on by two seconds at each look."""
    looks = itertools.count(0, 2)
    clock = SimpleNamespace(monotonic=lambda: float(next(looks)), sleep=time.sleep)
    monkeypatch.setattr("dtm_hf.synthesize.run.time", clock)
    monkeypatch.setattr("dtm_hf.synthesize.run._TOLD_SECONDS", 9.0)
    result = run(sources, tmp_path / "out")
    assert result.exit_code == 0, result.output
    hours = json.loads((tmp_path / "out/summary.json").read_text())["hours"]
    said = r"process 0: (\d+) of (\d+) rows of its shards so far, ([\d.]+) h, (\S+) hours of speech a second"
    told = [tuple(map(float, each)) for each in re.findall(said, result.stderr)]
    # Every fifth row, and at the end. Of the sixteen, two are no rows to begin with.
    assert [each[0] for each in told] == [5, 10, 14]
    assert told[-1][1] == 14 and all(done <= wanted for done, wanted, *_ in told)
    assert [each[2] for each in told] == sorted(each[2] for each in told)
    # Looks: the start, one a row, and one more each time that something is said.
    assert told[-1][3] == pytest.approx(hours / (2 * (14 + len(told))), rel=0.01)
    assert told[-1][2] == pytest.approx(hours, abs=5e-4)


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

"""Speech while training runs: refused prompts, fixed noise, undisturbed draws, files and trackers."""

import io
import json
import random
import shutil
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from tiny import SAMPLING_RATE, voice

from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.speech.prompts import ValidationRow, find_recordings, read_prompts, validation_rows
from dtm_hf.training.speech.rows import decode_audio
from dtm_hf.training.speech.samples import SpeechSamples
from dtm_hf.training.speech.speaker import PipelineSpeaker


def row(speaker, text, seconds=0.4, pitch=120.0):
    buffer = io.BytesIO()
    soundfile.write(buffer, voice(seconds, pitch), SAMPLING_RATE, format="WAV")
    return ValidationRow(speaker, text, partial(decode_audio, buffer.getvalue()))


@pytest.fixture(scope="module")
def rows():
    return [
        ValidationRow("slt", "broken", partial(decode_audio, b"no audio")),
        ValidationRow("slt", "", lambda *_: pytest.fail("read without need")),
        row("slt", "far too long", 12.5),
        row("slt", "Good morning.", 0.4, pitch=200),
        row("rms", "Good evening.", 0.5, pitch=90),
        row("slt", "See you later.", 0.5, pitch=210),
        row("rms", "Good night.", 0.3, pitch=95),
        row("solo", "Only this.", 0.4),
    ]


def found(lines, rows, pipeline):
    return find_recordings(read_prompts(lines), rows, pipeline.feature_extractor.sampling_rate)


def test_a_file_of_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# what to say\n\nslt | Good morning.\n  # more\nrms|\n")
    prompts = read_prompts(["|no speaker"], path)
    assert [(p.speaker, p.text) for p in prompts] == [("slt", "Good morning."), ("rms", ""), ("", "no speaker")]
    assert [p.source for p in prompts] == [f"{path}:3", f"{path}:5", "`sample_prompts` entry 1"]


def test_a_line_without_a_speaker_is_of_the_one_that_is_named(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# what to say\nGood morning.\nrms|Good night.\n")
    prompts = read_prompts(["Just text."], path, "slt")
    expected = [("slt", "Good morning."), ("rms", "Good night."), ("slt", "Just text.")]
    assert [(p.speaker, p.text) for p in prompts] == expected


def test_voices_that_are_known_need_no_recording(rows):
    spoken = find_recordings(read_prompts(["solo|", "rms|What nobody said.", "solo|Else."]), rows, 24000, False)
    assert [(p.text, p.reference, p.reference_text) for p in spoken] == [
        ("Only this.", None, None),
        ("What nobody said.", None, None),
        ("Else.", None, None),
    ]
    assert [p.truth is not None for p in spoken] == [True, False, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# a\nslt Good morning.\n", r"prompts\.txt:2: expected `speaker\|text` with one `\|`, but got 'slt Good"),
        ("slt|one|two\n", r"prompts\.txt:1: .*one\|two"),
        ("# nothing\n", r"prompts\.txt: expected .* but there are none"),
        (b"slt|\xff\n", r"prompts\.txt: not in UTF-8"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "prompts.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_prompts(file=path)
    with pytest.raises(ValueError, match="`sample_prompts_file` must be a file .* 'absent.txt'"):
        read_prompts(file="absent.txt")


def test_recordings_are_the_first_usable_rows_of_the_speaker(rows, tiny_pipeline):
    new, said, other = found(["slt|Hello there.", "slt|Good morning.", "rms|"], rows, tiny_pipeline)
    assert (new.reference_text, new.truth) == ("Good morning.", None)
    assert len(new.reference) == round(0.4 * SAMPLING_RATE)
    # What is to be said is not shown to the network first.
    assert said.reference_text == "See you later." and len(said.truth) == round(0.4 * SAMPLING_RATE)
    assert (other.reference_text, other.text) == ("Good evening.", "Good night.")
    assert len(other.truth) == round(0.3 * SAMPLING_RATE)


def test_reading_stops_when_nothing_is_missing(rows, tiny_pipeline):
    def endless():
        yield from rows
        pytest.fail("read on")

    found(["slt|See you later.", "rms|"], endless(), tiny_pipeline)


def test_rows_come_from_the_validation_split_of_every_source(rows, tiny_pipeline, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, split, part in (("one", "train", rows[3:4]), ("two", "validation", rows[3:])):
        table = [
            {"sound": {"bytes": row.samples.args[0], "path": None}, "said": f" {row.text}", "who": row.speaker}
            for row in part
        ]
        table[0]["sound"]["bytes"] = None
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(table), tmp_path / name / f"{split}-00000-of-00001.parquet")

    def sources(*names, speaker_column="who"):
        columns = {"audio_column": "sound", "text_column": "said", "speaker_column": speaker_column}
        return DataArguments(sources=[SourceArguments(dataset=str(tmp_path / name), **columns) for name in names])

    # Its first row, "Good morning." is without a recording.
    (prompt,) = found(["slt|Hello."], validation_rows(sources("one", "two")), tiny_pipeline)
    assert (prompt.reference_text, len(prompt.reference)) == ("See you later.", round(0.5 * SAMPLING_RATE))
    (prompt,) = found(["|Hello."], validation_rows(sources("two", speaker_column=None)), tiny_pipeline)
    assert (prompt.reference_text, prompt.speaker) == ("Good evening.", "")
    with pytest.raises(ValueError, match="validation"):
        next(validation_rows(sources("one")))
    with pytest.raises(ValueError, match="`validation_split`, but got none"):
        next(validation_rows(DataArguments(dataset=str(tmp_path / "two"), validation_split=None)))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["bob|Hello."], r"entry 1: the speaker must be one of .* \['rms', 'slt', 'solo'\], but got 'bob'"),
        (["slt|Hello.", "solo|"], r"entry 2: speaker 'solo' needs 2 usable"),
        (["solo|Only this."], r"entry 1: speaker 'solo' needs 1 usable .* but has 0"),
        (["rms|", "rms|Good night."], r"entry 2: the same speaker and text as `sample_prompts` entry 1"),
        (["slt|Hello.", "slt|щ"], r"entry 2: `text` must hold characters of the vocabulary, but got 'щ'"),
    ],
)
def test_what_cannot_be_spoken_is_refused_before_training(rows, tiny_pipeline, tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        SpeechSamples(PipelineSpeaker(tiny_pipeline), read_prompts(lines), rows, tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


@pytest.fixture
def samples(rows, tiny_pipeline, tmp_path):
    prompts = read_prompts(["slt|Hello there $1.", "rms|"])
    return SpeechSamples(PipelineSpeaker(tiny_pipeline), prompts, rows, tmp_path / "samples", seed=3)


NAMES = ["01-slt-hello-there-1", "02-rms-good-night"]


def test_files_of_a_step(samples, rows, tmp_path):
    folder = samples.write(1000)
    assert folder == tmp_path / "samples" / "step-00001000"
    files = {f"{name}.{kind}" for name in NAMES for kind in ("wav", "png")}
    assert {path.name for path in folder.iterdir()} == files | {"info.json"}
    truth = tmp_path / "samples" / "ground-truth"
    assert {path.name for path in truth.iterdir()} == {f"{NAMES[1]}.{kind}" for kind in ("wav", "png")}
    audio, rate = soundfile.read(truth / f"{NAMES[1]}.wav")
    assert rate == SAMPLING_RATE and np.abs(audio - voice(0.3, 95)).max() < 1e-4
    info = json.loads((folder / "info.json").read_text())
    assert (info["step"], info["seed"], info["num_inference_steps"], info["num_head_steps"]) == (1000, 3, 4, 2)
    assert info["guidance_scale"] == 3.0 and info["time_grid"] == "sway"
    for entry, name in zip(info["samples"], NAMES, strict=True):
        assert entry["name"] == name
        assert entry["seconds"] == soundfile.info(folder / f"{name}.wav").duration > 0
    assert [entry["ground_truth"] for entry in info["samples"]] == [False, True]
    assert info["samples"][0] | {"speaker": "slt", "text": "Hello there $1."} == info["samples"][0]


def read(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.wav")}


def test_the_noise_is_the_same_every_time_and_the_weights_tell(make_head, rows, tiny_pipeline, tmp_path):
    head = make_head(architecture="conv")
    tiny_pipeline.register_modules(head=head)
    prompts = read_prompts(["slt|Hello there.", "rms|Hello there."])
    samples = SpeechSamples(PipelineSpeaker(tiny_pipeline), prompts, rows, tmp_path / "samples")
    first = read(samples.write(1))
    torch.manual_seed(99)
    assert read(samples.write(2)) == first
    # A prompt sounds the same whatever is spoken beside it.
    alone = SpeechSamples(PipelineSpeaker(tiny_pipeline), prompts[:1], rows, tmp_path / "alone")
    assert read(alone.write(1)).items() <= first.items()
    with torch.no_grad():
        head.output_proj.bias.add_(0.5)
    changed = read(samples.write(3))
    assert all(changed[name] != first[name] for name in first)
    again = SpeechSamples(PipelineSpeaker(tiny_pipeline), prompts, rows, tmp_path / "again", seed=1)
    assert all(content != changed[name] for name, content in read(again.write(1)).items())


def test_training_draws_what_it_would_have_drawn(rows, tiny_pipeline, tmp_path, monkeypatch):
    def states():
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()

    # A vocoder may draw from any generator.
    plain = type(tiny_pipeline.vocoder).forward

    def drawing(self, *args, **kwargs):
        torch.rand(1), np.random.rand(), random.random()
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(type(tiny_pipeline.vocoder), "forward", drawing)
    before = states()
    samples = SpeechSamples(PipelineSpeaker(tiny_pipeline), read_prompts(["slt|Hello."]), rows, tmp_path)
    samples.write(1)
    assert states() == before


def test_a_repeated_step_replaces_what_a_killed_run_left(samples, rows, tiny_pipeline, tmp_path):
    folder = samples.write(5)
    (folder / "old.wav").write_bytes(b"")
    shutil.copytree(folder, folder.with_name(".step-00000007.4321"))
    again = SpeechSamples(PipelineSpeaker(tiny_pipeline), read_prompts(["slt|Hello."]), rows, tmp_path / "samples")
    assert {path.name for path in again.write(5).iterdir()} == {"01-slt-hello.wav", "01-slt-hello.png", "info.json"}
    # The ground truth went with its prompt.
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"step-00000005"}


def test_a_network_that_diverged_is_reported_and_stops_nothing(make_head, rows, tiny_pipeline, tmp_path):
    head = make_head(architecture="conv")
    tiny_pipeline.register_modules(head=head)
    samples = SpeechSamples(PipelineSpeaker(tiny_pipeline), read_prompts(["slt|Hello."]), rows, tmp_path)
    with torch.no_grad():
        head.output_proj.bias.fill_(float("nan"))
    folder = samples.write(1)
    assert [path.name for path in folder.iterdir()] == ["info.json"]
    assert json.loads((folder / "info.json").read_text())["samples"][0]["finite"] is False


def test_tensorboard_hears_and_sees_the_samples(samples, tmp_path):
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    PartialState()  # which decides what a tracker's messages are worth
    tracker = TensorBoardTracker("run", tmp_path / "logs")
    tracker.start()
    samples.write(10, [tracker])
    samples.write(20, [tracker])
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "logs" / "run"), size_guidance={"audio": 0, "images": 0}).Reload()
    spoken = [f"samples/{name}" for name in NAMES]
    assert set(events.Tags()["audio"]) == {*spoken, f"ground_truth/{NAMES[1]}"}
    assert [event.step for event in events.Audio(spoken[0])] == [10, 20]
    assert [event.step for event in events.Audio(f"ground_truth/{NAMES[1]}")] == [10]
    assert [event.step for event in events.Images(f"{spoken[0]}/mel")] == [10, 20]
    heard, rate = soundfile.read(io.BytesIO(events.Audio(spoken[0])[1].encoded_audio_string))
    written, _ = soundfile.read(tmp_path / "samples" / "step-00000020" / f"{NAMES[0]}.wav")
    assert rate == SAMPLING_RATE and np.abs(heard - written).max() < 1e-4


def test_wandb_hears_and_sees_the_samples(samples, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from accelerate import PartialState
    from accelerate.tracking import WandBTracker

    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    PartialState()
    tracker = WandBTracker("run", mode="offline", dir=str(tmp_path), settings=wandb.Settings(console="off"))
    tracker.start()
    try:
        samples.write(10, [tracker])
        media = [path for path in (tmp_path / "wandb").rglob("media/*/**/*") if path.is_file()]
    finally:
        tracker.finish()
    for kind, suffix in ((".wav", ""), (".png", "/mel")):
        paths = " ".join(path.as_posix() for path in media if path.suffix == kind)
        wanted = [
            f"samples/{NAMES[0]}{suffix}_",
            f"samples/{NAMES[1]}{suffix}_",
            f"ground_truth/{NAMES[1]}{suffix}_",
        ]
        assert all(name in paths for name in wanted) and paths.count(kind) == 3, paths

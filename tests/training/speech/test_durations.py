"""`python -m dtm_hf.training.durations`: recordings in, a predictor in a pipeline out."""

import runpy
import sys

import numpy as np
import pytest
from speech_corpora import encoded, row, write_parquet
from typer.testing import CliRunner

from dtm_hf import DTMPipeline, DurationPredictor
from dtm_hf.pipelines.chunking import num_bytes
from dtm_hf.training.speech.durations import Timed, app, fit_durations, proportion_error

WEIGHTS = {"a": 0.02, "b": 0.1, "c": 0.05, "d": 0.0}
RATE = 8000


def texts(count, seed=0):
    draw = np.random.default_rng(seed)
    words = ["".join(draw.choice(list(WEIGHTS), size=draw.integers(1, 6))) for _ in range(40)]
    return [" ".join(draw.choice(words, size=draw.integers(1, 5))) + "." for _ in range(count)]


def true_seconds(text):
    return 0.3 + 0.04 * len(text.split()) + sum(WEIGHTS.get(character, 0.0) for character in text)


def recordings(count, seed=0):
    """Noise that lasts as long as its text takes, two percent more or less, said by a fast and by a slow voice."""
    draw = np.random.default_rng(seed)
    rows = []
    for index, text in enumerate(texts(count, seed)):
        tempo = (0.8 if index % 2 else 1.2) * (1 + 0.02 * draw.standard_normal())
        samples = draw.standard_normal(round(true_seconds(text) * tempo * RATE)) * 0.1
        content = encoded(samples.astype(np.float32), RATE, "FLAC", "PCM_16")
        rows.append(row(index, 0, text=text, speaker="ab"[index % 2], content=content))
    return rows


def fit(*argv):
    return CliRunner().invoke(app, [str(argument) for argument in argv])


def test_the_weights_are_found():
    rows = [Timed(text, true_seconds(text), "a") for text in texts(3000)]
    config = fit_durations(rows).config
    assert config.base_seconds == pytest.approx(0.3, abs=0.005)
    assert config.word_seconds == pytest.approx(0.04, abs=0.005)
    found = config.character_seconds
    assert {c: found[c] for c in WEIGHTS} == pytest.approx(WEIGHTS, abs=0.003)
    # All texts end with it, so it is part of what any text takes, also of one without it.
    assert found["."] == pytest.approx(0, abs=0.005)
    assert min(WEIGHTS.values()) < config.other_byte_seconds < max(WEIGHTS.values())


def test_a_rare_character_has_no_weight_of_its_own():
    rows = [Timed(text, true_seconds(text), None) for text in texts(100)]
    rows += [Timed("zaa.", 5.0, None)] * 3
    assert "z" not in fit_durations(rows).config.character_seconds


def test_in_proportion_to_another_of_the_same_speaker():
    """A predictor that is right has no error whatever the tempo of the speaker; bytes have one."""
    rows = [Timed(t, true_seconds(t) * (0.8 if i % 2 else 1.2), "ab"[i % 2]) for i, t in enumerate(texts(200))]
    # F5-TTS ends the prompt's text with ". ", which these end with, and counts whole frames.
    error, pairs = proportion_error(rows, true_seconds)
    assert error < 0.02 and pairs == 198
    assert proportion_error(rows, num_bytes)[0] > 0.05
    assert proportion_error(rows[:2], true_seconds)[1] == 0


def test_a_saved_pipeline_takes_it_in(tiny_pipeline, reference_audio, tmp_path, monkeypatch, capsys):
    corpus = write_parquet(tmp_path / "corpus", recordings(400), shards=2)
    tiny_pipeline.save_pretrained(tmp_path / "model")
    assert DTMPipeline.from_pretrained(tmp_path / "model").duration_predictor is None
    monkeypatch.setattr(sys, "argv", ["durations", str(corpus), str(tmp_path / "model")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("dtm_hf.training.durations", run_name="__main__")
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    assert "fitted on 360 recordings, 5 characters" in said.out and "held-out pairs" in said.out
    card = (tmp_path / "model" / "README.md").read_text()
    assert "by DurationPredictor, fitted on 360 recordings of corpus" in card

    pipeline = DTMPipeline.from_pretrained(tmp_path / "model")
    predictor = pipeline.duration_predictor
    assert predictor.config.training_data == "360 recordings of corpus"
    unseen = texts(50, seed=1)
    spread = {f: np.std([np.log(f(text) / true_seconds(text)) for text in unseen]) for f in (predictor, len)}
    assert spread[predictor] < 0.05 < 0.15 < spread[len]
    pipeline.set_progress_bar_config(disable=True)
    said, text = "ab.", "cab bad dab."
    mel = pipeline(text, reference_audio, said, num_inference_steps=1, output_type="mel").audios[0]
    # The recording lasts 1.2 s, and 50 ms are appended; its text is ended as F5-TTS ends it.
    assert len(mel) == pytest.approx(1.25 * 93.75 * predictor(text) / predictor("ab. "), abs=2)


def test_alone_and_from_other_columns(tmp_path):
    folder = tmp_path / "clips"
    (folder / "wavs").mkdir(parents=True)
    lines = ["file_name,said"]
    for index, entry in enumerate(recordings(60)):
        (folder / "wavs" / f"{index}.flac").write_bytes(entry["audio"]["bytes"])
        lines.append(f"wavs/{index}.flac,{entry['text']}")
    (folder / "wavs" / "3.flac").write_bytes(b"no audio")
    # As an encoder leaves it that writes to a pipe: 0 samples in the header, which libsndfile takes for very many.
    endless = bytearray((folder / "wavs" / "4.flac").read_bytes())
    endless[21] &= 0xF0
    endless[22:26] = bytes(4)
    (folder / "wavs" / "4.flac").write_bytes(endless)
    (folder / "metadata.csv").write_text("\n".join(lines))
    done = fit(folder, tmp_path / "it", "--audio-column", "file_name", "--text-column", "said", "--speaker-column", "")
    assert done.exit_code == 0, done.stderr
    assert "fitted on 52 recordings" in done.stdout
    assert "left out: 1 undecodable audio" in done.stderr and "left out: 1 longer than 30.0 s" in done.stderr
    assert 0.3 < DurationPredictor.from_pretrained(tmp_path / "it")("abc") < 1


@pytest.mark.parametrize(
    ("count", "argv", "named"),
    [(15, [], "must hold 20 recordings"), (60, ["--split", "test"], "test-"), (60, ["--text-column", "x"], "'x'")],
)
def test_what_cannot_be_fitted_leaves_nothing_behind(count, argv, named, tmp_path):
    corpus = write_parquet(tmp_path / "corpus", recordings(count))
    done = fit(corpus, tmp_path / "it", *argv)
    assert done.exit_code == 1 and done.stderr.startswith("Error: ") and named in done.stderr, done.stderr
    assert not (tmp_path / "it").exists()


def test_rows_that_are_mostly_bad_are_refused(tmp_path):
    rows = recordings(60)
    for entry in rows[:5]:
        entry["audio"]["bytes"] = b"no audio"
    done = fit(write_parquet(tmp_path / "corpus", rows), tmp_path / "it")
    assert done.exit_code == 1 and "5 of 60 rows cannot be used (5 undecodable audio)" in done.stderr, done.stderr


def test_syllables_in_the_place_of_a_text_are_refused(tmp_path):
    """F5-TTS's own format has Chinese as pinyin, which no text that is spoken later looks like."""
    from dtm_hf.training.data.rows import BadRow
    from dtm_hf.training.speech.durations import _timed

    class Tokens:
        def text(self, row):
            return row

    with pytest.raises(BadRow, match="tokens in the place of a text"):
        _timed(Tokens(), [" ", "ni3", " ", "hao3"])


def test_a_folder_of_something_else_is_refused_before_reading(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text("")
    for output in (tmp_path / "run", tmp_path / "run" / "log.jsonl"):
        done = fit(tmp_path / "no-corpus", output)
        assert done.exit_code == 1 and "`output` must be the folder of a saved pipeline" in done.stderr, done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.jsonl"]


def test_durations_that_do_not_grow_with_the_texts_are_refused():
    rows = [Timed(text, 10.0 - true_seconds(text), "a") for text in texts(200)]
    with pytest.raises(ValueError, match="do not grow with the texts"):
        fit_durations(rows)

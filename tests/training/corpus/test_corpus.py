"""The corpus builder: sentences, rendering, shards."""

import dataclasses
import io
import itertools
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from typer.testing import CliRunner

from dtm_hf.training.corpus.build import Recipe, app, build_corpus, shard_lines, write_shard
from dtm_hf.training.corpus.inflection import article, conjugate, plural
from dtm_hf.training.corpus.numbers import spell_number
from dtm_hf.training.corpus.render import SAMPLE_RATE, VOICES, MissingProgramError, render, synthesize, trim_silence
from dtm_hf.training.corpus.sentences import (
    CLOSED_VOCABULARY,
    DOMAINS,
    held_out_sentences,
    normalize,
    split_of,
    train_sentences,
)
from dtm_hf.training.corpus.wide import lexicon, wide_word_list

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite (apt-get install flite)")
SMALL = Recipe(
    domain="closed", voices=("slt", "rms"), num_train=10, num_validation=2, num_test=3, shard_size=4, seed=3
)


def _take(sentences, number):
    return list(itertools.islice(sentences, number))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(SMALL, folder, workers=2, command="python -m dtm_hf.training.corpus build")
    return folder


def _level(waveform):
    """RMS of each 10 ms in dB below the loudest."""
    blocks = waveform[: len(waveform) // 240 * 240].reshape(-1, 240)
    power = np.mean(blocks.astype(np.float64) ** 2, axis=1) + 1e-14
    return 10 * np.log10(power / power.max())


class TestSentences:
    @pytest.mark.parametrize("domain", DOMAINS)
    def test_seed_and_stream_decide_the_sentences(self, domain):
        first = _take(train_sentences(domain, 1, 0), 50)
        assert first == _take(train_sentences(domain, 1, 0), 50)
        assert first != _take(train_sentences(domain, 2, 0), 50)
        assert first != _take(train_sentences(domain, 1, 1), 50)

    @pytest.mark.parametrize("domain", DOMAINS)
    def test_splits_share_no_sentence_whatever_the_seed(self, domain):
        held_out = {
            split: {normalize(text) for seed in (0, 1) for text in _take(held_out_sentences(domain, split, seed), 300)}
            for split in ("validation", "test")
        }
        assert not held_out["validation"] & held_out["test"]
        train = {normalize(text) for seed in (0, 7) for text in _take(train_sentences(domain, seed), 20_000)}
        assert not train & (held_out["validation"] | held_out["test"])

    @pytest.mark.parametrize("domain", DOMAINS)
    def test_held_out_sentences_are_distinct_and_of_three_words_or_more(self, domain):
        texts = _take(held_out_sentences(domain, "test", 0), 300)
        assert len({normalize(text) for text in texts}) == 300
        assert min(len(normalize(text).split()) for text in texts) == 3

    def test_the_split_does_not_depend_on_case_or_punctuation(self):
        for text in _take(held_out_sentences("wide", "test", 0), 50):
            assert split_of(text.upper().replace(".", " !")) == "test"

    def test_shares_of_the_splits(self):
        splits = [split_of(spell_number(number)) for number in range(20_000)]
        assert splits.count("train") / 20_000 == pytest.approx(0.90, abs=0.01)
        assert splits.count("test") / 20_000 == pytest.approx(0.05, abs=0.01)

    def test_closed_sentences_use_the_whole_closed_vocabulary_and_nothing_else(self):
        texts = _take(train_sentences("closed", 0), 5000) + _take(held_out_sentences("closed", "validation", 0), 300)
        assert {word for text in texts for word in normalize(text).split()} == set(CLOSED_VOCABULARY)
        assert len(CLOSED_VOCABULARY) == 73
        assert list(CLOSED_VOCABULARY) == sorted(CLOSED_VOCABULARY)

    def test_wide_sentences_reach_thousands_of_words(self):
        texts = _take(train_sentences("wide", 0), 20_000)
        assert len({word for text in texts for word in normalize(text).split()}) > 5000
        assert any(text.endswith("?") for text in texts)

    @pytest.mark.parametrize("domain", DOMAINS)
    def test_sentences_are_plain_capitalised_and_ended(self, domain):
        for text in _take(train_sentences(domain, 5), 3000):
            assert re.fullmatch(r"[A-Z][A-Za-z' ,]*[A-Za-z][.?]", text), text
            assert "  " not in text

    def test_word_lists_hold_no_word_twice(self):
        for name, words in lexicon().words.items():
            assert len(words) == len(set(words)), name
        assert len(wide_word_list()) > 5000

    def test_refusals(self):
        with pytest.raises(ValueError, match="`domain` must be one of .* but got 'poems'"):
            next(train_sentences("poems", 0))
        with pytest.raises(ValueError, match="`split` must be one of"):
            next(held_out_sentences("closed", "train", 0))
        with pytest.raises(ValueError, match="`number` must be between"):
            spell_number(-1)

    @pytest.mark.parametrize(
        "entry, forms",
        [
            ("stop", "stop stops stopped stopped stopping"),
            ("carry", "carry carries carried carried carrying"),
            ("prefer+", "prefer prefers preferred preferred preferring"),
            ("visit", "visit visits visited visited visiting"),
            ("rain", "rain rains rained rained raining"),
            ("agree", "agree agrees agreed agreed agreeing"),
            ("tie", "tie ties tied tied tying"),
            ("fix", "fix fixes fixed fixed fixing"),
            ("go", "go goes went gone going"),
        ],
    )
    def test_verbs(self, entry, forms):
        verb = conjugate(entry, {"go": ("went", "gone")})
        assert " ".join(dataclasses.astuple(verb)) == forms

    def test_nouns_and_articles(self):
        assert [plural(noun) for noun in ("box", "city", "day", "match", "quiz")] == [
            "boxes", "cities", "days", "matches", "quizzes",
        ]  # fmt: skip
        assert [article(word) for word in ("owl", "unique plan", "unusual plan", "honest man", "dog")] == [
            "an", "a", "an", "an", "a",
        ]  # fmt: skip
        assert [spell_number(n) for n in (0, 40, 321, 1005, 2310)] == [
            "zero", "forty", "three hundred and twenty one", "one thousand and five",
            "two thousand three hundred and ten",
        ]  # fmt: skip


class TestRender:
    @pytest.mark.parametrize("voice", VOICES)
    def test_each_voice_is_trimmed_level_and_dithered(self, voice, tmp_path):
        if shutil.which(VOICES[voice][0]) is None:
            pytest.skip(f"{VOICES[voice][0]} is not installed")
        text = "Meet me at half past ten on Monday."
        waveform = render(text, voice, tmp_path, np.random.default_rng(0))
        assert waveform.dtype == np.float32 and waveform.ndim == 1
        assert 1.2 < len(waveform) / SAMPLE_RATE < 4
        rms, peak = np.sqrt(np.mean(waveform**2)), np.abs(waveform).max()
        # kal16 is spiky: its level is what the peak allows.
        assert rms == pytest.approx(0.1, rel=0.01) or (0.08 < rms < 0.1 and peak == pytest.approx(0.98, abs=0.002))
        assert peak < 0.983
        quiet = np.flatnonzero(_level(waveform) > -45)
        assert quiet[0] <= 4 and len(_level(waveform)) - 1 - quiet[-1] <= 4
        # A run of exact zeros would be digital silence.
        assert np.count_nonzero(waveform == 0) < 5
        assert list(tmp_path.iterdir()) == []

    @needs_flite
    def test_the_program_alone_leaves_silence(self, tmp_path):
        synthesize("Monday.", "rms", tmp_path / "a.wav")
        waveform, rate = sf.read(tmp_path / "a.wav", dtype="float32")
        assert rate != SAMPLE_RATE
        assert len(waveform) > len(trim_silence(waveform, rate)) + 0.1 * rate

    def test_trimming_keeps_25_ms(self):
        tone = 0.3 * np.sin(np.arange(SAMPLE_RATE) * 0.2).astype(np.float32)
        padded = np.concatenate([np.zeros(9000), tone, np.zeros(12_000)]).astype(np.float32)
        trimmed = trim_silence(padded)
        # The 10 ms window sees the tone 5 ms before it starts.
        assert len(trimmed) == pytest.approx(len(tone) + 2 * (600 + 120), abs=10)
        assert np.flatnonzero(trimmed)[0] == pytest.approx(720, abs=5)

    def test_silence_alone_is_refused(self):
        with pytest.raises(ValueError, match="`waveform` holds no sound"):
            trim_silence(np.zeros(1000, np.float32))

    @needs_flite
    def test_a_loud_peak_lowers_the_level_instead_of_clipping(self, tmp_path, monkeypatch):
        monkeypatch.setattr("dtm_hf.training.corpus.render.TARGET_RMS", 0.9)
        waveform = render("Monday.", "slt", tmp_path, np.random.default_rng(0))
        assert 0.97 < np.abs(waveform).max() < 0.99

    def test_a_missing_program_names_its_package(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(MissingProgramError, match="`flite` is not installed: run `apt-get install flite`"):
            synthesize("Hello.", "slt", tmp_path / "a.wav")
        result = CliRunner().invoke(app, ["build", str(tmp_path / "out"), "--voices", "espeak-en-us"])
        assert result.exit_code == 1 and "apt-get install espeak-ng" in result.output
        assert not (tmp_path / "out").exists()


@needs_flite
class TestBuild:
    def test_files_and_card(self, corpus):
        names = sorted(path.name for path in corpus.iterdir())
        assert names == sorted(["corpus.json", *(shard.file_name for shard in SMALL.shards())])
        assert "train-00002-of-00003.parquet" in names
        card = json.loads((corpus / "corpus.json").read_text())
        assert card["complete"] is True and card["rows"] == {"train": 10, "validation": 2, "test": 3}
        assert set(card["hours_per_speaker"]) == {"slt", "rms"} and set(card["programs"]) == {"flite"}
        assert "flite-2" in card["programs"]["flite"]["version"] and card["vocabulary"] == list(CLOSED_VOCABULARY)

    def test_rows_decode_and_speakers_are_balanced(self, corpus):
        rows = pq.read_table(corpus / "train-00000-of-00003.parquet").to_pylist()
        assert [row["speaker"] for row in rows].count("slt") == 2
        for row in rows:
            waveform, rate = sf.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
            assert rate == SAMPLE_RATE and waveform.ndim == 1
            assert sf.info(io.BytesIO(row["audio"]["bytes"])).format == "FLAC"
            assert row["duration"] == pytest.approx(len(waveform) / SAMPLE_RATE)
            assert row["audio"]["path"] == row["id"] + ".flac"

    def test_a_deleted_shard_comes_back_with_the_same_bytes_and_the_others_stay(self, corpus, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(corpus, copy)
        lost, kept = copy / "train-00001-of-00003.parquet", copy / "train-00000-of-00003.parquet"
        before, kept_time = lost.read_bytes(), kept.stat().st_mtime_ns
        lost.unlink()
        build_corpus(SMALL, copy, workers=1)
        assert lost.read_bytes() == before
        assert kept.stat().st_mtime_ns == kept_time

    def test_a_shard_depends_on_seed_and_index_alone(self, corpus, tmp_path):
        longer = dataclasses.replace(SMALL, num_train=100)
        assert shard_lines(longer, longer.shards()[1]) == shard_lines(SMALL, SMALL.shards()[1])
        other = dataclasses.replace(SMALL, seed=4)
        assert shard_lines(other, other.shards()[1]) != shard_lines(SMALL, SMALL.shards()[1])
        shard = SMALL.shards()[-1]
        assert write_shard(SMALL, shard, tmp_path) == 3
        assert (tmp_path / shard.file_name).read_bytes() == (corpus / shard.file_name).read_bytes()

    def test_another_recipe_in_the_same_folder_is_refused(self, corpus):
        with pytest.raises(ValueError, match="`out_dir` .* holds another corpus"):
            build_corpus(dataclasses.replace(SMALL, seed=9), corpus)

    def test_datasets_streams_it_as_audio(self, corpus):
        from datasets import Audio, load_dataset

        files = {split: str(corpus / f"{split}-*.parquet") for split in ("train", "validation", "test")}
        dataset = load_dataset("parquet", data_files=files, streaming=True)
        assert dataset["train"].features["audio"] == Audio(sampling_rate=SAMPLE_RATE)
        rows = list(dataset["train"].cast_column("audio", Audio(decode=False)))
        assert len(rows) == 10 and len({row["id"] for row in rows}) == 10
        assert sf.read(io.BytesIO(rows[0]["audio"]["bytes"]))[1] == SAMPLE_RATE


def test_recipes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="`voices` must be names of .* but got 'bob'"):
        Recipe(voices=("slt", "bob"))
    with pytest.raises(ValueError, match="`shard_size` must be 1 or more, but got 0"):
        Recipe(shard_size=0)
    with pytest.raises(ValueError, match="`num_test` must be 0 or more, but got -1"):
        Recipe(num_test=-1)

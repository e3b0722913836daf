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

from dtm_hf.training.corpus.__main__ import app
from dtm_hf.training.corpus.build import build_corpus, write_shard
from dtm_hf.training.corpus.engine import Unspeakable
from dtm_hf.training.corpus.numbers import spell_number
from dtm_hf.training.corpus.phrases import FIXED, KINDS, phrases
from dtm_hf.training.corpus.programs import Flite
from dtm_hf.training.corpus.recipe import Recipe, working_order
from dtm_hf.training.corpus.render import SAMPLE_RATE, render, trim_silence
from dtm_hf.training.corpus.sentences import (
    CLOSED_VOCABULARY,
    held_out_sentences,
    normalize,
    read_sentences,
    split_of,
    train_sentences,
)

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite (apt-get install flite)")
SMALL = Recipe(voices=("slt", "rms"), num_train=10, num_validation=2, num_test=3, shard_size=4, seed=3)
LISTED = Recipe(
    engine="kokoro",
    voices=("af_heart", "am_puck", "bf_emma"),
    unseen_voices=("bm_george",),
    num_train=500,
    num_validation=6,
    num_test=4,
    num_unseen=5,
    shard_size=5,
    sentences=tuple(f"This is sentence {spell_number(i)}." for i in range(200)),
)


def _take(sentences, number):
    return list(itertools.islice(sentences, number))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(SMALL, folder, workers=2, command="python -m dtm_hf.training.corpus build")
    return folder


class TestSentences:
    def test_seed_and_stream_decide_the_sentences(self):
        first = _take(train_sentences(1, 0), 50)
        assert first == _take(train_sentences(1, 0), 50)
        assert first != _take(train_sentences(2, 0), 50)
        assert first != _take(train_sentences(1, 1), 50)

    def test_splits_share_no_sentence_whatever_the_seed(self):
        held_out = {
            split: {normalize(text) for seed in (0, 1) for text in _take(held_out_sentences(split, seed), 300)}
            for split in ("validation", "test")
        }
        assert not held_out["validation"] & held_out["test"]
        train = {normalize(text) for seed in (0, 7) for text in _take(train_sentences(seed), 20_000)}
        assert not train & (held_out["validation"] | held_out["test"])

    def test_held_out_sentences_are_distinct_and_of_three_words_or_more(self):
        texts = _take(held_out_sentences("test", 0), 300)
        assert len({normalize(text) for text in texts}) == 300
        assert min(len(normalize(text).split()) for text in texts) == 3

    def test_the_split_does_not_depend_on_case_or_punctuation(self):
        for text in _take(held_out_sentences("test", 0), 50):
            assert split_of(text.upper().replace(".", " !")) == "test"

    def test_shares_of_the_splits(self):
        splits = [split_of(spell_number(number)) for number in range(20_000)]
        assert splits.count("train") / 20_000 == pytest.approx(0.90, abs=0.01)
        assert splits.count("test") / 20_000 == pytest.approx(0.05, abs=0.01)

    def test_closed_sentences_use_the_whole_closed_vocabulary_and_nothing_else(self):
        texts = _take(train_sentences(0), 5000) + _take(held_out_sentences("validation", 0), 300)
        assert {word for text in texts for word in normalize(text).split()} == set(CLOSED_VOCABULARY)
        assert len(CLOSED_VOCABULARY) == 73
        assert list(CLOSED_VOCABULARY) == sorted(CLOSED_VOCABULARY)

    def test_sentences_are_plain_capitalised_and_ended(self):
        for text in _take(train_sentences(5), 3000):
            assert re.fullmatch(r"[A-Z][A-Za-z' ,]*[A-Za-z][.?]", text), text
            assert "  " not in text

    def test_refusals(self):
        with pytest.raises(ValueError, match="`split` must be one of"):
            next(held_out_sentences("train", 0))
        with pytest.raises(ValueError, match="`number` must be between"):
            spell_number(-1)

    def test_numbers(self):
        assert [spell_number(n) for n in (0, 40, 321, 1005, 2310)] == [
            "zero", "forty", "three hundred and twenty one", "one thousand and five",
            "two thousand three hundred and ten",
        ]  # fmt: skip


class TestLists:
    def test_files_are_read_in_order_without_ids_blanks_and_repeats(self, tmp_path):
        (tmp_path / "a.txt").write_text("LJ001|One, two.\n\n  Three four. \n...\n")
        (tmp_path / "b.txt").write_text("one two\nFive é six.\n", encoding="utf-8")
        assert read_sentences([tmp_path / "a.txt", tmp_path / "b.txt"]) == ("One, two.", "Three four.", "Five é six.")

    @pytest.mark.parametrize("content, message", [(b"\n...\n", "holds none"), (b"\xff\xfe\xff", "UTF-8")])
    def test_files_without_a_sentence_are_refused(self, content, message, tmp_path):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(ValueError, match=f"`sentences` must .*{message}"):
            read_sentences([tmp_path / "a.txt"])

    def test_each_sentence_is_said_once_then_again_in_another_voice(self):
        pool = [text for text in LISTED.sentences if split_of(text) == "train"]
        rows = [line for shard in LISTED.shards() if shard.split == "train" for line in LISTED.lines(shard)]
        rounds = [rows[i : i + len(pool)] for i in range(0, 2 * len(pool), len(pool))]
        for said in rounds:
            assert sorted(text for text, _ in said) == sorted(pool)
        assert [text for text, _ in rounds[0]] == [text for text, _ in rounds[1]] != pool
        assert all(first != second for first, second in zip(*rounds, strict=True))

    def test_any_stretch_has_every_voice_and_the_unseen_one_only_in_its_split(self):
        for shard in LISTED.shards():
            voices = {voice for _, voice in LISTED.lines(shard)}
            held_out = shard.split == "unseen"
            assert voices == ({"bm_george"} if held_out else {"af_heart", "am_puck", "bf_emma"}) or shard.size < 3
            wanted = "test" if held_out else shard.split
            assert {split_of(text) for text, _ in LISTED.lines(shard)} == {wanted}

    def test_the_split_and_order_do_not_depend_on_engine_or_number_of_rows(self):
        other = dataclasses.replace(LISTED, engine="flite", voices=("slt",), unseen_voices=("rms",), num_train=1000)
        for shard in LISTED.shards()[:5]:
            twin = next(s for s in other.shards() if (s.split, s.index) == (shard.split, shard.index))
            assert [text for text, _ in other.lines(twin)] == [text for text, _ in LISTED.lines(shard)]

    def test_held_out_shards_come_early_and_training_between_them(self):
        order = [(shard.split, shard.index) for shard in working_order(LISTED.shards())]
        assert order[:8] == [
            ("validation", 0), ("train", 0), ("test", 0), ("train", 1), ("unseen", 0), ("train", 2), ("validation", 1),
            ("train", 3),
        ]  # fmt: skip
        assert sorted(order) == sorted((shard.split, shard.index) for shard in LISTED.shards())
        assert order[8:] == [("train", index) for index in range(4, 100)]

    def test_a_list_without_held_out_sentences_is_refused(self):
        sentence = next(text for text in LISTED.sentences if split_of(text) == "train")
        with pytest.raises(ValueError, match="`sentences` holds none of the split validation"):
            Recipe(sentences=(sentence,))

    def test_phrases_are_distinct_spelled_out_and_of_every_kind(self):
        found = _take(phrases(0), 1500)
        assert found == _take(phrases(0), 1500) != _take(phrases(1), 1500)
        assert len(set(found)) == 1500 and set(FIXED) == set(found[: len(FIXED)])
        for text in found:
            assert re.fullmatch(r"[A-Z][A-Za-zé' ,.?!-]*[.?!]", text) and ".." not in text, text
        makers = sum(len(kind) for kind in KINDS.values())
        assert makers > 50 and len({text.split()[0] for text in found}) > 100

    def test_examples_of_wordnet_by_command(self, tmp_path):
        """Made of files in WordNet's format: what cannot be said as it stands is left out, and what is there twice."""
        lines = {
            "noun": '  1 a licence\n0001 03 n 01 car 0 000 | a vehicle; "he needs a car to get to work"; "no, 3"\n',
            "verb": '0002 29 v 01 say 0 000 | "He said so, did he?"; "too short"; "wait -- there is more of this"\n',
            "adj": '0003 00 a 01 calm 0 000 | "He needs a car, to get to work."\n',
            "adv": "0004 02 r 01 well 0 000 | without an example\n",
        }
        for name, text in lines.items():
            (tmp_path / f"data.{name}").write_text(text, encoding="latin-1")
        result = CliRunner().invoke(app, ["examples", str(tmp_path), str(tmp_path / "out.txt")])
        assert result.exit_code == 0, result.output
        said = {"He needs a car to get to work.", "He said so, did he?"}
        assert set((tmp_path / "out.txt").read_text().splitlines()) == said
        result = CliRunner().invoke(app, ["examples", str(tmp_path / "none"), str(tmp_path / "out.txt")])
        assert result.exit_code == 1 and "has no data.noun" in result.output

    def test_words_and_names_of_wordnet_by_command(self, tmp_path):
        """A word, a place and a person in turns; neither a kind of people nor a name with digits is one of them."""
        nouns = (
            "  1 a licence\n0001 03 n 01 car 0 000 | a vehicle\n"
            "0002 15 n 02 Lake_Como 0 Como 0 001 @i 0003 n 0000 | a lake\n"
            "0004 18 n 01 Ada_Lovelace 0 001 @i 0005 n 0000 | who wrote\n"
            "0006 18 n 01 Scot 0 001 @ 0007 n 0000 | people\n"
            "0008 15 n 01 A1 0 001 @i 0003 n 0000 | a road\n0009 03 n 01 x-ray 0 000 | a picture\n"
        )
        for name, text in {"noun": nouns, "verb": "", "adj": "", "adv": ""}.items():
            (tmp_path / f"data.{name}").write_text(text, encoding="latin-1")
        result = CliRunner().invoke(app, ["examples", str(tmp_path), str(tmp_path / "out.txt"), "--words"])
        assert result.exit_code == 0, result.output
        word, place, person = (tmp_path / "out.txt").read_text().splitlines()
        assert word == "Car." and "Lake Como" in place and "Ada Lovelace" in person

    def test_phrases_by_command(self, tmp_path):
        result = CliRunner().invoke(app, ["phrases", str(tmp_path / "a" / "p.txt"), "--num", "120", "--seed", "3"])
        assert result.exit_code == 0, result.output
        assert read_sentences([tmp_path / "a" / "p.txt"])[:120] == tuple(_take(phrases(3), 120))


class TestRender:
    @needs_flite
    def test_the_program_alone_leaves_silence(self):
        waveform, rate = Flite().speak("Monday.", "rms", np.random.default_rng(0))
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
        with pytest.raises(Unspeakable, match="`waveform` holds no sound"):
            trim_silence(np.zeros(1000, np.float32))

    @needs_flite
    def test_a_loud_peak_lowers_the_level_instead_of_clipping(self, monkeypatch):
        monkeypatch.setattr("dtm_hf.training.corpus.render.TARGET_RMS", 0.9)
        waveform = render(Flite(), "Monday.", "slt", np.random.default_rng(0))
        assert 0.97 < np.abs(waveform).max() < 0.99

    def test_a_missing_program_names_its_package(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        arguments = ["build", str(tmp_path / "out"), "--engine", "espeak-ng", "--voices", "espeak-en-us"]
        result = CliRunner().invoke(app, arguments)
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
        assert longer.lines(longer.shards()[1]) == SMALL.lines(SMALL.shards()[1])
        other = dataclasses.replace(SMALL, seed=4)
        assert other.lines(other.shards()[1]) != SMALL.lines(SMALL.shards()[1])
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


@needs_flite
def test_a_list_by_command_goes_on_and_counts_what_cannot_be_said(tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("\n".join(LISTED.sentences))
    out = tmp_path / "out"
    command = ["build", str(out), "--sentences", str(tmp_path / "list.txt"), "--voices", "slt", "--workers", "1"]
    command += ["--unseen-voices", "rms", "--num-unseen", "2", "--num-train", "4", "--num-validation", "2"]
    result = CliRunner().invoke(app, [*command, "--num-test", "2", "--shard-size", "2"])
    assert result.exit_code == 0, result.output
    card = json.loads((out / "corpus.json").read_text())
    assert card["rows"] == {"train": 4, "validation": 2, "test": 2, "unseen": 2} and card["left_out"] == 0
    assert card["recipe"]["sentences"]["number"] == 200 and len(card["recipe"]["sentences"]["sha256"]) == 64
    (row, _) = pq.read_table(out / "unseen-00000-of-00001.parquet").to_pylist()
    assert row["speaker"] == "rms" and row["text"] in LISTED.sentences and split_of(row["text"]) == "test"
    # The same words in another order are another list.
    (tmp_path / "list.txt").write_text("\n".join(LISTED.sentences[::-1]))
    result = CliRunner().invoke(app, [*command, "--num-test", "2", "--shard-size", "2"])
    assert result.exit_code == 1 and "holds another corpus" in result.output


@needs_flite
def test_what_cannot_be_said_is_left_out(tmp_path, monkeypatch):
    recipe = dataclasses.replace(LISTED, engine="flite", voices=("slt",), unseen_voices=(), num_unseen=0)
    shard = recipe.shards()[0]
    refused = recipe.lines(shard)[1][0]

    def speak(self, text, voice, rng):
        if text == refused:
            raise Unspeakable("no")
        return np.ones(24_000, np.float32), 24_000

    monkeypatch.setattr(Flite, "speak", speak)
    assert write_shard(recipe, shard, tmp_path) == shard.size - 1
    texts = [row["text"] for row in pq.read_table(tmp_path / shard.file_name).to_pylist()]
    assert texts == [text for text, _ in recipe.lines(shard) if text != refused]


def test_recipes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="`voices` must be names of .* but got 'bob'"):
        Recipe(voices=("slt", "bob"))
    with pytest.raises(ValueError, match="`engine` must be one of .* but got 'festival'"):
        Recipe(engine="festival")
    with pytest.raises(ValueError, match="`unseen_voices` must be none of `voices`, but got slt in both"):
        Recipe(unseen_voices=("slt",))
    with pytest.raises(ValueError, match="`unseen_voices` must name a voice for `num_unseen` 5"):
        Recipe(num_unseen=5)
    with pytest.raises(ValueError, match="`shard_size` must be 1 or more, but got 0"):
        Recipe(shard_size=0)
    with pytest.raises(ValueError, match="`num_test` must be 0 or more, but got -1"):
        Recipe(num_test=-1)

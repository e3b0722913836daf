"""From sources to batches: the frame budget, padding, pairs, what is counted, and what is held in memory."""

import gc
from collections import Counter

import numpy as np
import pytest
import torch
from speech_corpora import encoded, row, short_rows, write_parquet
from tiny import SAMPLING_RATE, voice

from dtm_hf import F5FeatureExtractor
from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.speech.rows import Utterance, UtteranceMaker, build_loader

HOP_LENGTH = 256


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """24 clips of two speakers, 0.3 to 0.99 s, in four shards."""
    seconds = np.random.default_rng(0).permutation(0.3 + 0.03 * np.arange(24))
    rows = [row(i, length, speaker="ab"[i % 2]) for i, length in enumerate(seconds)]
    return write_parquet(tmp_path_factory.mktemp("clips"), rows, shards=4)


@pytest.fixture
def batches(tokenizer, feature_extractor):
    """One pass by default."""

    def build(folder, seed=0, endless=False, extractor=feature_extractor, **settings):
        defaults = {"bucket_size": 8, "min_seconds": 0.01, "max_bad_fraction": 1.0, "num_workers": 0}
        if folder is not None:
            defaults["dataset"] = str(folder)
        return build_loader(
            DataArguments(**defaults | settings), "train", tokenizer, extractor, seed=seed, endless=endless
        )

    return build


def frames(batch):
    return batch["waveform"].shape[1] // HOP_LENGTH + 1


def text_of(tokenizer, ids):
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    return "".join(names[index] for index in ids.tolist() if index >= 0)


def test_a_batch(clips, batches, tokenizer):
    (batch,) = batches(clips, bucket_size=100)
    assert batch["waveform"].shape == (24, batch["num_samples"].max())
    assert batch["waveform"].dtype == torch.float32
    past = torch.arange(batch["waveform"].shape[1])[None] >= batch["num_samples"][:, None]
    assert not batch["waveform"][past].any()
    texts = [text_of(tokenizer, ids) for ids in batch["text_ids"]]
    assert set(texts) == {f"clip {chr(97 + i)}" for i in range(24)}
    assert torch.equal(batch["text_ids"], tokenizer(texts)) and batch["text_ids"].dtype == torch.int64
    assert not batch["prompt_samples"].any() and batch["rows"] == 24
    assert batch["bad_rows"] == {} and batch["dropped"] == {} and batch["bad_row_details"] == []


@pytest.mark.parametrize("pair_probability", [0.0, 1.0])
@pytest.mark.parametrize("budget", [100, 150, 400])
def test_no_batch_exceeds_the_budget(clips, batches, budget, pair_probability):
    total, largest = 0, 0
    for batch in batches(clips, frames_per_batch=budget, pair_probability=pair_probability):
        size = len(batch["waveform"]) * frames(batch)
        assert size <= budget
        total, largest = total + len(batch["waveform"]), max(largest, size)
    assert total == 24
    assert largest > 0.5 * budget


def test_no_batch_has_too_many_samples(clips, batches):
    sizes = [len(batch["waveform"]) for batch in batches(clips, max_samples=3)]
    assert max(sizes) == 3 and sum(sizes) == 24


@pytest.mark.parametrize(
    ("lengths", "budget", "multiple"),
    [
        # Most of it 3 to 15 s, as in-the-wild corpora are cut.
        (lambda rng, n: np.exp(rng.normal(np.log(6), 0.6, n)).clip(1, 30), 38400, 1),
        (lambda rng, n: rng.uniform(0.3, 2.5, n), 4000, 1),
        (lambda rng, n: rng.uniform(1.0, 3.0, n), 4000, 16),
    ],
    ids=["long", "short", "short in multiples of 16 frames"],
)
def test_padding_stays_below_a_tenth(tmp_path, batches, lengths, budget, multiple):
    """With the default window. 750 Hz and 8 samples a frame give as many frames a second as 24 kHz and 256."""
    extractor = F5FeatureExtractor(sampling_rate=750, hop_length=8, n_fft=32, win_length=32)
    seconds = lengths(np.random.default_rng(0), 3072)
    noise = (3000 * np.random.default_rng(1).standard_normal(750 * 30)).astype(np.int16)
    rows = [row(0, 0, content=encoded(noise[: int(s * 750)], 750, subtype="PCM_16")) for s in seconds]
    window = DataArguments().bucket_size
    loader = batches(
        write_parquet(tmp_path, rows),
        extractor=extractor,
        frames_per_batch=budget,
        frame_multiple=multiple,
        bucket_size=window,
    )
    valid, sizes = 0, []
    for batch in loader:
        count = batch["num_samples"] // 8 + 1
        valid += int(count.sum())
        sizes.append(len(count) * -(-int(count.max()) // multiple) * multiple)
    assert 1 - valid / sum(sizes) < 0.1
    assert max(sizes) <= budget and np.mean(sizes) > 0.75 * budget


# What is wrong with rows


def test_bad_and_dropped_rows_are_counted_by_reason_and_named(tmp_path, batches):
    good = voice(0.5)
    hole = np.where(np.arange(len(good)) == 100, np.nan, good)
    rows = [
        row(0, 0.5),
        row(1, 0, content=b"RIFF, but not really"),
        row(2, 0, content=encoded(hole)),
        row(3, 0, content=encoded(0 * good)),
        row(4, 0.05),
        row(5, 2.5),
        row(6, 0.5, text="  "),
        row(7, 0.5, text="\u2603 \u2603"),
        {"audio": None, "text": "nothing", "speaker": "a"},
        row(9, 1.5),
        row(10, 0.6),
        row(11, 0.5, text=""),
    ]
    folder = write_parquet(tmp_path, rows)
    (batch,) = batches(folder, min_seconds=0.1, max_seconds=2.0, frames_per_batch=130, bucket_size=100)
    assert sorted(batch["num_samples"].tolist()) == [12000, 14400]
    assert batch["rows"] == 12
    assert batch["bad_rows"] == {
        "undecodable audio": 1,
        "audio with NaN or infinity": 1,
        "silent audio": 1,
        "text without a known token": 3,
        "no audio": 1,
    }
    assert batch["dropped"] == {"shorter than 0.1 s": 1, "longer than 2.0 s": 1, "more frames than a batch": 1}
    reasons = {detail["row"]: detail["reason"] for detail in batch["bad_row_details"]}
    assert sorted(reasons) == [1, 2, 3, 6, 7, 8, 11] and reasons[3] == "silent audio"
    places = {(detail["source"], detail["shard"]) for detail in batch["bad_row_details"]}
    assert places == {(str(folder), "train-00000-of-00001.parquet")}


@pytest.mark.parametrize("bucket_size", [1, 2, 3, 100])
def test_every_row_is_counted_once(tmp_path, batches, bucket_size):
    """Also those behind the last good one."""
    rows = [row(i, 0.1) if i % 3 == 0 and i < 12 else row(i, 0.1, text="") for i in range(14)]
    found = list(batches(write_parquet(tmp_path, rows), bucket_size=bucket_size, max_samples=1))
    assert sum(len(batch["num_samples"]) for batch in found) == 4
    assert sum(batch["rows"] for batch in found) == 14
    assert sum((Counter(batch["bad_rows"]) for batch in found), Counter()).total() == 10
    assert sorted(detail["row"] for batch in found for detail in batch["bad_row_details"])[-1] == 13


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_shard_does_not_end_the_training(tmp_path, batches, workers):
    folder = write_parquet(tmp_path, short_rows(40), shards=4)
    broken = sorted(folder.glob("*.parquet"))[1]
    broken.write_bytes(broken.read_bytes()[:2000])
    stream = iter(batches(folder, endless=True, bucket_size=10, num_workers=workers, max_bad_fraction=0.05))
    found = [next(stream) for _ in range(40)]
    lengths = {length for batch in found for length in batch["num_samples"].tolist()}
    assert lengths == {480 + i for i in range(40) if i % 4 != 1}
    assert set().union(*(batch["bad_rows"] for batch in found)) == {"unreadable shard"}
    details = [detail for batch in found for detail in batch["bad_row_details"]]
    assert {detail["shard"] for detail in details} == {broken.name}


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_rows_stop_the_run(tmp_path, batches, workers):
    rows = [entry if i % 5 else {**entry, "text": ""} for i, entry in enumerate(short_rows(60))]
    folder = write_parquet(tmp_path, rows, shards=2)
    stream = iter(batches(folder, endless=True, num_workers=workers, max_bad_fraction=0.05))
    with pytest.raises(ValueError, match=r"`max_bad_fraction` 0\.05\. Reasons: \d+ text without a known token"):
        for _ in range(1000):
            next(stream)


def test_nothing_usable_is_an_error_and_not_a_wait(tmp_path, batches):
    folder = write_parquet(tmp_path, short_rows(8))
    for endless in (False, True):
        with pytest.raises(ValueError, match="none of 8 rows.*8 shorter than 5 s"):
            next(iter(batches(folder, endless=endless, min_seconds=5)))


def test_what_nobody_thought_of_costs_one_row(tmp_path, batches, tokenizer, monkeypatch):
    folder = write_parquet(tmp_path, short_rows(6))
    original = type(tokenizer).tokenize

    def tokenize(self, text):
        return original(self, text) if text != "clip c" else {}["never thought of"]

    monkeypatch.setattr(type(tokenizer), "tokenize", tokenize)
    (batch,) = batches(folder)
    assert batch["bad_rows"] == {"unexpected KeyError": 1} and batch["bad_row_details"][0]["row"] == 2
    assert len(batch["num_samples"]) == 5


# Pairs


def test_pairs_join_two_clips_of_a_speaker_on_a_hop(tmp_path, batches, tokenizer):
    seconds = [0.31, 0.42, 0.53, 0.64, 0.75, 0.86]
    rows = [row(i, length, speaker="ab"[i % 2]) for i, length in enumerate(seconds)]
    waves = [voice(length, seed=i) for i, length in enumerate(seconds)]
    pairs = []
    for batch in batches(write_parquet(tmp_path, rows), pair_probability=1.0, max_samples=1):
        if batch["prompt_samples"][0]:
            pairs.append(batch)
    assert len(pairs) == 4
    for batch in pairs:
        prompt = int(batch["prompt_samples"][0])
        text = text_of(tokenizer, batch["text_ids"][0])
        first, second = (ord(part[-1]) - 97 for part in (text[:6], text[7:]))
        assert text == f"clip {chr(97 + first)} clip {chr(97 + second)}" and second == first + 2
        assert torch.equal(batch["text_ids"], tokenizer([text]))
        assert prompt == len(waves[first]) // HOP_LENGTH * HOP_LENGTH
        wave = batch["waveform"][0].numpy()
        np.testing.assert_allclose(wave[:prompt], waves[first][:prompt], atol=1e-6)
        np.testing.assert_allclose(wave[prompt:], waves[second], atol=1e-6)


def test_share_of_pairs(clips, batches):
    stream = iter(batches(clips, endless=True, pair_probability=0.3))
    paired = torch.cat([next(stream)["prompt_samples"] for _ in range(60)]) > 0
    assert 0.15 < paired.float().mean() < 0.45


def test_without_pairs_no_speaker_is_needed(tmp_path, batches):
    rows = [{**entry, "speaker": None} for entry in short_rows(6)]
    folder = write_parquet(tmp_path, rows)
    (batch,) = batches(folder, speaker_column="absent")
    assert len(batch["num_samples"]) == 6
    with pytest.raises(ValueError, match="no column 'absent'.*`speaker_column`"):
        batches(folder, speaker_column="absent", pair_probability=0.5)
    # A speaker that is not known has no pairs.
    assert not next(iter(batches(folder, pair_probability=1.0)))["prompt_samples"].any()


# Order, sources, memory


def order(stream, count):
    stream = iter(stream)
    return [tuple(next(stream)["num_samples"].tolist()) for _ in range(count)]


def test_the_seed_decides_the_order(clips, batches):
    settings = {"endless": True, "pair_probability": 0.5, "max_samples": 2}
    first = order(batches(clips, seed=5, **settings), 30)
    assert order(batches(clips, seed=5, **settings), 30) == first
    assert order(batches(clips, seed=6, **settings), 30) != first


def test_an_epoch_has_every_clip_once_and_the_next_another_order(clips, batches):
    lengths = [n for batch in order(batches(clips, endless=True, bucket_size=24, max_samples=1), 48) for n in batch]
    assert len(set(lengths)) == 24
    assert sorted(lengths[:24]) == sorted(lengths[24:])
    assert lengths[:24] != lengths[24:]


def test_one_pass_can_be_repeated(clips, batches):
    loader = batches(clips)
    assert order(loader, 3) == order(loader, 3)


def test_sources_are_drawn_by_weight(tmp_path, batches):
    """Each of them whole before it begins again."""
    large = write_parquet(tmp_path / "large", short_rows(30))
    small = write_parquet(tmp_path / "small", short_rows(10, offset=1000))
    sources = [SourceArguments(str(large)), SourceArguments(str(small), weight=3.0)]
    lengths = [n for batch in order(batches(None, sources=sources, endless=True, max_samples=8), 100) for n in batch]
    again = [n for n in lengths if n >= 1480]
    assert 0.70 < len(again) / len(lengths) < 0.80
    counts = Counter(again).values()
    assert len(counts) == 10 and max(counts) - min(counts) <= 1
    one_pass = batches(None, sources=sources, bucket_size=7)
    assert sum(len(batch["num_samples"]) for batch in one_pass) == 40


def test_a_split_that_only_one_source_has(tmp_path, tokenizer, feature_extractor):
    for name in "ab":
        write_parquet(tmp_path / name, short_rows(4))
    write_parquet(tmp_path / "b", short_rows(3), split="validation")
    sources = [SourceArguments(str(tmp_path / name)) for name in "ab"]
    arguments = DataArguments(sources=sources, min_seconds=0.01)

    def size(split, arguments=arguments):
        loader = build_loader(arguments, split, tokenizer, feature_extractor, seed=0, endless=False)
        return sum(len(batch["num_samples"]) for batch in loader)

    assert size("validation") == 3 and size("train") == 8
    with pytest.raises(ValueError, match="holds no test-"):
        size("test")
    with pytest.raises(ValueError, match="holds no validation-"):
        size("validation", DataArguments(sources=sources, train_split="validation"))


def test_memory_does_not_grow_with_the_speakers(tmp_path, batches):
    rows = [{**entry, "speaker": f"s{i}"} for i, entry in enumerate(short_rows(200))]
    folder = write_parquet(tmp_path, rows)
    stream = iter(batches(folder, endless=True, pair_probability=1.0, bucket_size=10, max_samples=2))
    for _ in range(120):
        next(stream)
    gc.collect()
    assert sum(type(held) is Utterance for held in gc.get_objects()) <= 20


def test_the_next_window_is_read_bit_by_bit(tmp_path, batches, monkeypatch):
    """So that no batch waits for a whole window."""
    folder = write_parquet(tmp_path, short_rows(64))
    loader = batches(folder, endless=True, bucket_size=16, max_samples=2)
    reads, counts = [], []
    original = UtteranceMaker.make
    monkeypatch.setattr(UtteranceMaker, "make", lambda *call: reads.append(1) or original(*call))
    stream = iter(loader)
    for _ in range(24):
        before = len(reads)
        next(stream)
        counts.append(len(reads) - before)
    assert counts[0] == 16 + 2 and set(counts[1:]) == {2}


def test_audio_of_a_batch_is_that_of_the_corpus(clips, batches):
    seconds = np.random.default_rng(0).permutation(0.3 + 0.03 * np.arange(24))
    waves = {round(s * SAMPLING_RATE): voice(s, seed=i) for i, s in enumerate(seconds)}
    for batch in batches(clips):
        for wave, size in zip(batch["waveform"], batch["num_samples"].tolist(), strict=True):
            np.testing.assert_array_equal(wave[:size].numpy(), waves[size])

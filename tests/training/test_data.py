"""From parquet shards to batches: the frame budget, bad rows, pairs, and the order."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from tiny import SAMPLING_RATE, voice
from torch.utils.data import DataLoader

from dtm_hf.training.arguments import DataArguments
from dtm_hf.training.data.batches import BadRow, FrameBatches, decode_audio, load_stream

HOP_LENGTH = 256


def encoded(waveform, rate=SAMPLING_RATE, subtype="FLOAT"):
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


def row(index, seconds, text=None, speaker="a", content=None):
    """A clip whose length tells it from the others."""
    content = encoded(voice(seconds, seed=index)) if content is None else content
    return {
        "audio": {"bytes": content, "path": None},
        "text": f"clip {chr(97 + index % 26)}" if text is None else text,
        "speaker": speaker,
    }


def write_shards(folder, rows, shards=1, split="train"):
    folder.mkdir(exist_ok=True)
    schema = pa.schema(
        [
            ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("text", pa.string()),
            ("speaker", pa.string()),
        ]
    )
    for i in range(shards):
        table = pa.Table.from_pylist(rows[i::shards], schema=schema)
        pq.write_table(table, folder / f"{split}-{i:05d}-of-{shards:05d}.parquet")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """24 clips of two speakers, 0.3 to 0.99 s, in four shards."""
    seconds = np.random.default_rng(0).permutation(0.3 + 0.03 * np.arange(24))
    rows = [row(i, length, speaker="ab"[i % 2]) for i, length in enumerate(seconds)]
    return write_shards(tmp_path_factory.mktemp("clips"), rows, shards=4)


@pytest.fixture
def batches(tokenizer, feature_extractor):
    def build(folder, seed=0, endless=False, split="train", **settings):
        arguments = DataArguments(dataset=str(folder), **{"bucket_size": 8, "min_seconds": 0.1} | settings)
        return FrameBatches(load_stream(arguments, split), arguments, tokenizer, feature_extractor, seed, endless)

    return build


def frames(batch):
    return batch["waveform"].shape[1] // HOP_LENGTH + 1


def test_a_batch(clips, batches, tokenizer):
    (batch,) = batches(clips, bucket_size=100)
    assert batch["waveform"].shape == (24, batch["num_samples"].max())
    assert batch["waveform"].dtype == torch.float32
    past = torch.arange(batch["waveform"].shape[1])[None] >= batch["num_samples"][:, None]
    assert not batch["waveform"][past].any()
    texts = {tokenizer_text(tokenizer, ids) for ids in batch["text_ids"]}
    assert texts == {f"clip {chr(97 + i)}" for i in range(24)}
    assert not batch["prompt_samples"].any() and batch["bad_rows"] == {}


def tokenizer_text(tokenizer, ids):
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    return "".join(names[index] for index in ids.tolist() if index >= 0)


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


def test_clips_of_like_length_share_a_batch(clips, batches):
    padding = valid = 0
    for batch in batches(clips, bucket_size=24, max_samples=4):
        valid += int(batch["num_samples"].sum())
        padding += batch["waveform"].numel()
    assert valid / padding > 0.9


def test_bad_rows_are_dropped_and_counted_by_reason(tmp_path, batches):
    good = voice(0.5)
    hole = good.copy()
    hole[100] = np.nan
    rows = [
        row(0, 0.5),
        row(1, 0.5, content=b"RIFF, but not really"),
        row(2, 0.5, content=encoded(hole)),
        row(3, 0.5, content=encoded(0 * good)),
        row(4, 0.5, content=encoded(good[:0])),
        row(5, 0.05),
        row(6, 2.5),
        row(7, 0.5, text="  "),
        row(8, 0.5, text="\u2603 \u2603"),
        {"audio": None, "text": "nothing", "speaker": "a"},
        {**row(10, 0.5), "text": None},
        row(11, 1.5),
        row(12, 0.6),
    ]
    (batch,) = batches(write_shards(tmp_path, rows), max_seconds=2.0, frames_per_batch=130, bucket_size=100)
    assert sorted(batch["num_samples"].tolist()) == [12000, 14400]
    assert batch["bad_rows"] == {
        "undecodable audio": 1,
        "audio with NaN or infinity": 1,
        "silent audio": 2,
        "outside 0.1-2.0 s": 2,
        "text without a known token": 3,
        "no audio": 1,
        "more frames than a batch": 1,
    }


def test_bad_rows_are_counted_once(tmp_path, batches):
    rows = [row(i, 0.5) if i % 3 else row(i, 0.5, text="") for i in range(12)]
    counts = [batch["bad_rows"] for batch in batches(write_shards(tmp_path, rows), bucket_size=2, max_samples=1)]
    assert sum(count.get("text without a known token", 0) for count in counts) == 4


def test_a_corpus_without_one_good_row_is_an_error_and_not_a_wait(tmp_path, batches):
    rows = [row(i, 0.5, text="") for i in range(4)]
    with pytest.raises(ValueError, match="none of 4 rows.*text without a known token"):
        next(iter(batches(write_shards(tmp_path, rows), endless=True)))


def test_pairs_join_two_clips_of_a_speaker_on_a_hop(tmp_path, batches, tokenizer):
    seconds = [0.31, 0.42, 0.53, 0.64, 0.75, 0.86]
    rows = [row(i, length, speaker="ab"[i % 2]) for i, length in enumerate(seconds)]
    waves = [voice(length, seed=i) for i, length in enumerate(seconds)]
    pairs = []
    for batch in batches(write_shards(tmp_path, rows), pair_probability=1.0, max_samples=1):
        if batch["prompt_samples"][0]:
            pairs.append(batch)
    assert len(pairs) == 4
    for batch in pairs:
        prompt = int(batch["prompt_samples"][0])
        text = tokenizer_text(tokenizer, batch["text_ids"][0])
        first, second = (ord(part[-1]) - 97 for part in (text[:6], text[7:]))
        assert text == f"clip {chr(97 + first)} clip {chr(97 + second)}" and second == first + 2
        assert prompt == len(waves[first]) // HOP_LENGTH * HOP_LENGTH
        wave = batch["waveform"][0].numpy()
        np.testing.assert_allclose(wave[:prompt], waves[first][:prompt], atol=1e-6)
        np.testing.assert_allclose(wave[prompt:], waves[second], atol=1e-6)


def test_share_of_pairs(clips, batches):
    stream = iter(batches(clips, endless=True, pair_probability=0.3))
    paired = torch.cat([next(stream)["prompt_samples"] for _ in range(60)]) > 0
    assert 0.15 < paired.float().mean() < 0.45


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


def test_shards_are_shuffled_and_read_one_after_the_other(clips, batches):
    shards = []
    for path in sorted(clips.glob("*.parquet")):
        waves = [decode_audio(audio, SAMPLING_RATE) for audio in pq.read_table(path)["audio"].to_pylist()]
        shards.append([len(wave) for wave in waves])
    orders = set()
    for seed in range(4):
        lengths = [n for batch in order(batches(clips, seed=seed, endless=True, bucket_size=1), 24) for n in batch]
        read = [lengths[i : i + 6] for i in range(0, 24, 6)]
        assert sorted(read) == sorted(shards)
        orders.add(tuple(map(tuple, read)))
    assert len(orders) > 1


def test_workers_share_the_shards(clips, batches):
    """Each clip comes from one worker alone."""
    loader = DataLoader(batches(clips, max_samples=1), batch_size=None, num_workers=2)
    lengths = [int(batch["num_samples"][0]) for batch in loader]
    assert len(lengths) == len(set(lengths)) == 24


def test_audio_of_another_rate_and_two_channels():
    mono = voice(0.5)[::3]
    content = encoded(np.stack([mono, -0.5 * mono], axis=1), rate=8000)
    wave = decode_audio({"bytes": content, "path": None}, SAMPLING_RATE)
    assert wave.dtype == np.float32 and wave.ndim == 1 and abs(len(wave) - 12000) <= 3
    assert np.sqrt((wave**2).mean()) == pytest.approx(0.25 * np.sqrt((mono**2).mean()), rel=0.1)


def test_audio_by_path(tmp_path):
    soundfile.write(tmp_path / "clip.wav", voice(0.2), SAMPLING_RATE)
    assert len(decode_audio({"bytes": None, "path": str(tmp_path / "clip.wav")}, SAMPLING_RATE)) == 4800
    with pytest.raises(BadRow, match="undecodable"):
        decode_audio({"bytes": None, "path": str(tmp_path / "nowhere.wav")}, SAMPLING_RATE)


def test_a_dataset_that_is_not_there(clips):
    with pytest.raises(ValueError, match="no validation-.*parquet shards"):
        load_stream(DataArguments(dataset=str(clips)), "validation")
    with pytest.raises(ValueError, match="no column 'transcript'.*'text'"):
        load_stream(DataArguments(dataset=str(clips), text_column="transcript"), "train")

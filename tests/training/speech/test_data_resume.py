"""A loader stopped anywhere goes on with the same batches, bit for bit; and ranks and workers share one order."""

import json
import pickle

import numpy as np
import pytest
import torch
from speech_corpora import encoded, short_rows, tar_members, write_parquet, write_tar

from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.speech.rows import build_loader

WEB = {"audio_column": "wav", "text_column": "json.text", "speaker_column": "json.speaker"}


def with_bad_rows(rows):
    """Of ten rows one has no text, one is silent."""
    silent = encoded(np.zeros(600))
    for i, entry in enumerate(rows):
        if i % 10 == 3:
            entry["text"] = ""
        if i % 10 == 7:
            entry["audio"] = {"bytes": silent, "path": None}
    return rows


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Parquet, one of its shards unreadable, and two tars, one of them cut off."""
    folder = tmp_path_factory.mktemp("sources")
    parquet = write_parquet(folder / "parquet", with_bad_rows(short_rows(44)), shards=4)
    next(parquet.glob("*-00002-*")).write_bytes(b"PAR1")
    rows = with_bad_rows(short_rows(22, offset=1000))
    write_tar(folder / "web" / "0.tar", tar_members(rows[:10]))
    cut = write_tar(folder / "web" / "1.tar", tar_members(rows[10:]))
    cut.write_bytes(cut.read_bytes()[:-20000])
    return [SourceArguments(str(parquet), weight=2.0), SourceArguments(str(folder / "web"), weight=1.5, **WEB)]


@pytest.fixture
def build(sources, tokenizer, feature_extractor):
    def build(num_workers=0, rank=0, world_size=1, seed=0, endless=True, sources=sources, **settings):
        defaults = {"bucket_size": 9, "max_samples": 2, "pair_probability": 0.5, "min_seconds": 0.0205}
        arguments = DataArguments(
            sources=sources, num_workers=num_workers, max_bad_fraction=1.0, **defaults | settings
        )
        return build_loader(
            arguments,
            "train",
            tokenizer,
            feature_extractor,
            seed=seed,
            rank=rank,
            world_size=world_size,
            endless=endless,
        )

    return build


def take(loader, count):
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def assert_same(one, two):
    assert len(one) == len(two)
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            same = torch.equal(value, second[name]) if torch.is_tensor(value) else value == second[name]
            assert same, name


def run_and_save(loader, count):
    """Batches, and the state before each and after the last."""
    stream, batches, states = iter(loader), [], [json.dumps(loader.state_dict())]
    for _ in range(count):
        batches.append(next(stream))
        states.append(json.dumps(loader.state_dict()))
    return batches, states


def restored(loader, state):
    loader.load_state_dict(json.loads(state))
    return loader


def test_wherever_it_stops(build):
    """In a window, between two, past the end of an epoch."""
    batches, states = run_and_save(build(), 60)
    last = json.loads(states[-1])["loader"]["dataset_state"]
    assert last["window"] > 8 and min(source["epoch"] for source in last["sources"]) >= 2
    assert {name for batch in batches for name in batch["bad_rows"]} == {
        "unreadable shard",
        "silent audio",
        "text without a known token",
    }
    assert any(batch["dropped"] for batch in batches) and any(batch["prompt_samples"].any() for batch in batches)
    for place in range(55):
        assert_same(take(restored(build(), states[place]), 5), batches[place : place + 5])


def test_wherever_workers_stop(build):
    batches, states = run_and_save(build(num_workers=2), 60)
    for place in (0, 1, 2, 7, 16, 31, 50):
        assert_same(take(restored(build(num_workers=2), states[place]), 10), batches[place : place + 10])


def test_stopped_again_and_again(build):
    expected = take(build(num_workers=2), 24)
    found, state = [], None
    for count in (1, 0, 5, 2, 7, 9):
        loader = build(num_workers=2) if state is None else restored(build(num_workers=2), state)
        batches, states = run_and_save(loader, count)
        found, state = found + batches, states[-1]
    assert_same(found, expected)


def test_one_pass(build):
    loader = build(endless=False)
    batches, states = run_and_save(loader, len(take(build(endless=False), 1000)))
    assert sum(batch["rows"] for batch in batches) > 40
    for place in range(len(batches) + 1):
        assert_same(take(restored(build(endless=False), states[place]), 1000), batches[place:])


def test_with_another_budget_it_goes_on_too(build):
    """Not with the same batches, but with the rows that follow."""
    _, states = run_and_save(build(), 7)
    state = json.loads(states[-1])["loader"]["dataset_state"]
    assert state["yielded"] > 1
    (batch,) = take(restored(build(max_samples=64), states[-1]), 1)
    assert len(batch["num_samples"]) == 9


def test_it_can_be_sent_to_a_process(build):
    loader = build()
    copied = pickle.loads(pickle.dumps(loader.dataset))
    assert_same(take(copied, 5), take(loader, 5))


def test_counts_go_on(build, sources):
    """What stops a run is what all its parts have read."""
    rows = 0
    state = json.dumps(build().state_dict())
    for _ in range(8):
        batches, states = run_and_save(restored(build(), state), 10)
        rows, state = rows + sum(batch["rows"] for batch in batches), states[-1]
    counted = sum(source["rows"] for source in json.loads(state)["loader"]["dataset_state"]["sources"])
    assert rows - 20 <= counted <= rows


@pytest.mark.parametrize("num_workers", [0, 1])
def test_two_ranks_read_what_two_workers_read(build, num_workers):
    workers = take(build(num_workers=2), 40)
    ranks = [take(build(num_workers=num_workers, rank=rank, world_size=2), 20) for rank in range(2)]
    assert_same(workers[0::2], ranks[0])
    assert_same(workers[1::2], ranks[1])


def test_no_rank_lacks_a_batch(build):
    """Five readers of shards that are four and two."""
    for rank in range(5):
        assert len(take(build(rank=rank, world_size=5), 30)) == 30


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_workers": 2}, "`num_workers` 2, but got one of 0"),
        ({"world_size": 2}, "`world_size` 2, but got one of 1"),
        ({"seed": 1}, "`seed` 1, but got one of 0"),
    ],
)
def test_a_state_of_another_run_is_refused(build, other, message):
    state = build().state_dict()
    with pytest.raises(ValueError, match=message):
        build(**other).load_state_dict(state)


def test_a_state_of_another_rank_is_refused(build):
    state = build(rank=1, world_size=2).state_dict()
    with pytest.raises(ValueError, match="`rank` 0, but got one of 1"):
        build(rank=0, world_size=2).load_state_dict(state)


def test_a_state_of_other_sources_is_refused(build, sources, tmp_path):
    state = build().state_dict()
    with pytest.raises(ValueError, match="1 data sources, but got 2"):
        build(sources=sources[:1]).load_state_dict(state)
    other = SourceArguments(str(write_parquet(tmp_path, short_rows(8), shards=2)), weight=2.0)
    with pytest.raises(ValueError, match="shards or the weight of '.*' are not those"):
        build(sources=[other, sources[1]]).load_state_dict(state)

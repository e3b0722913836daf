"""The order of the rows: who reads which, in which epoch; and when too much is wrong to go on."""

from collections import Counter

import pytest
from speech_corpora import short_rows, write_parquet

from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.data.sources import open_source
from dtm_hf.training.data.stream import Reader, SourceStream

COUNT, SHARDS = 23, 5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_parquet(tmp_path_factory.mktemp("rows"), short_rows(COUNT), shards=SHARDS)
    return open_source(SourceArguments(str(folder)), "train")


def stream(source, reader=0, readers=1, seed=0, endless=True, limit=1.0):
    """Names (shard, index) of the rows by epoch; every row counts as usable unless it is counted otherwise."""
    return SourceStream(source, 0, seed, Reader(reader, readers), endless, limit)


def epochs(rows, count):
    """The first `count` epochs of a stream, as lists of (shard, index)."""
    found = [[] for _ in range(count)]
    for item in rows:
        if rows.epoch >= count:
            return found
        found[rows.epoch].append((item.shard, item.index))
    return found


def every_row(source):
    return {(shard.name, index) for shard in source.shards for index, _ in source.rows(shard)}


@pytest.mark.parametrize("readers", [1, 2, 5, 7])
def test_the_readers_share_each_epoch(source, readers):
    """Also when there are more of them than shards."""
    shares = [epochs(stream(source, reader, readers), 3) for reader in range(readers)]
    for epoch in range(3):
        rows = [row for share in shares for row in share[epoch]]
        assert len(rows) == COUNT and set(rows) == every_row(source)


def test_shards_change_places_and_rows_in_them_do_not(source):
    orders = []
    for epoch in epochs(stream(source), 4):
        shards = list(dict.fromkeys(shard for shard, _ in epoch))
        assert epoch == [(shard, index) for shard in shards for index in range(Counter(s for s, _ in epoch)[shard])]
        orders.append(shards)
    assert len({tuple(order) for order in orders}) > 1


def test_the_seed_decides_the_order(source):
    assert epochs(stream(source, seed=3), 3) == epochs(stream(source, seed=3), 3)
    assert epochs(stream(source, seed=3), 3) != epochs(stream(source, seed=4), 3)


def test_one_pass_is_in_order(source):
    rows = [(item.shard, item.index) for item in stream(source, endless=False)]
    assert rows == [(shard.name, index) for shard in source.shards for index, _ in source.rows(shard)]


@pytest.mark.parametrize(("reader", "readers"), [(0, 1), (1, 2), (5, 6)])
def test_it_goes_on_from_a_state(source, reader, readers):
    whole = stream(source, reader, readers)
    rows, states = [], [whole.state()]
    for item in whole:
        rows.append((item.shard, item.index, whole.epoch))
        states.append(whole.state())
        if len(rows) == 2 * COUNT:
            break
    for place in (0, 1, 4, 5, 11, COUNT - 1, COUNT, COUNT + 2):
        rest = stream(source, reader, readers)
        rest.load_state(states[place])
        found = [(item.shard, item.index, rest.epoch) for item, _ in zip(rest, range(COUNT - 3), strict=False)]
        assert found == rows[place : place + COUNT - 3]


def test_an_unreadable_shard_is_skipped_and_said(source, tmp_path, caplog):
    folder = write_parquet(tmp_path, short_rows(COUNT), shards=SHARDS)
    broken = sorted(folder.glob("*.parquet"))[2]
    broken.write_bytes(b"PAR1 and then nothing")
    rows = stream(open_source(SourceArguments(str(folder)), "train"), limit=0.0)
    found = []
    while rows.epoch < 3:
        found.append(next(rows))
    assert Counter(item.shard for item in found if item.row is None) == {broken.name: 3}
    assert rows.bad == {"unreadable shard": 3} and "is skipped: ArrowInvalid" in caplog.text
    good = {(item.shard, item.index) for item in found if item.row is not None}
    assert good == {row for row in every_row(source) if row[0] != broken.name}


# Too much is wrong


def judge(rows, is_bad, count=100_000):
    """Read on, and count rows as bad where `is_bad` of the number of the row."""
    for item, number in zip(rows, range(count), strict=False):
        if item.row is not None and is_bad(number):
            rows.count_bad("silent audio", item)


def test_a_small_source_is_judged_at_the_end_of_an_epoch(source):
    rows = stream(source, limit=0.05)
    with pytest.raises(ValueError, match=r"2 of 23 rows.*`max_bad_fraction` 0\.05.*2 silent audio.*row \d of train-"):
        judge(rows, lambda number: number % COUNT < 2)
    judge(stream(source, limit=0.05), lambda number: number % COUNT == 0, 10 * COUNT)
    judge(stream(source, limit=0.09), lambda number: number % COUNT < 2, 10 * COUNT)


def test_a_large_source_is_judged_on_the_way(tmp_path):
    folder = write_parquet(tmp_path, short_rows(600, samples=10), shards=2)
    large = open_source(SourceArguments(str(folder)), "train")
    rows = stream(large, limit=0.05)
    with pytest.raises(ValueError, match="`max_bad_fraction`"):
        judge(rows, lambda number: True)
    assert rows.rows == 200
    rows = stream(large, limit=0.05)
    with pytest.raises(ValueError, match="`max_bad_fraction`"):
        judge(rows, lambda number: number % 5 == 0)
    assert 200 <= rows.rows < 300
    # 4.2%, of which the second half of the rows has 8%: no chance cluster stops the run.
    judge(stream(large, limit=0.05), lambda number: number % 600 >= 300 and number % 12 == 0, 3000)


def test_each_of_several_readers_judges_what_it_reads(source):
    rows = stream(source, reader=1, readers=2, limit=0.05)
    with pytest.raises(ValueError, match=r"\d+ of 2\d\d rows"):
        judge(rows, lambda number: number % 4 == 0)
    rows = stream(source, reader=1, readers=2, limit=0.05)
    with pytest.raises(ValueError, match=r"\d+ of 2\d\d rows"):
        judge(rows, lambda number: number % 15 == 0)


def test_clips_dropped_for_their_length_are_no_fault(source):
    rows = stream(source, limit=0.0)
    for item, number in zip(rows, range(10 * COUNT), strict=False):
        if number % COUNT:
            rows.count_dropped("longer than 30.0 s")
        assert item.row is not None
    assert rows.dropped == {"longer than 30.0 s": 10 * (COUNT - 1)}


def test_nothing_usable_is_an_error_and_not_a_wait(source):
    rows = stream(source)
    with pytest.raises(ValueError, match="none of 23 rows in 5 shards can be trained on. Reasons: 23 longer than"):
        for _ in rows:
            rows.count_dropped("longer than 30.0 s")
    rows = stream(source, reader=0, readers=2)
    with pytest.raises(ValueError, match="can be trained on"):
        for _ in rows:
            rows.count_dropped("longer than 30.0 s")


def test_no_shard_readable_is_an_error_and_not_a_wait(tmp_path):
    folder = write_parquet(tmp_path, short_rows(COUNT), shards=2)
    source = open_source(SourceArguments(str(folder)), "train")
    for path in folder.glob("*.parquet"):
        path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="none of 0 rows in 2 shards.*2 unreadable shard"):
        list(stream(source))


def test_fewer_rows_than_readers(tmp_path):
    source = open_source(SourceArguments(str(write_parquet(tmp_path, short_rows(3)))), "train")
    assert next(stream(source, reader=2, readers=4)).index == 2
    with pytest.raises(ValueError, match="fewer rows than the 4 processes"):
        next(stream(source, reader=3, readers=4))

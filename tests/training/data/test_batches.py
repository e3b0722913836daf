"""Batches of what any maker makes: here of numbers, to show what another kind of training has to bring."""

from itertools import islice

import pytest
from toy_system import LENGTHS, Sticks, write_sticks

from dtm_hf.training.config.arguments import DataArguments
from dtm_hf.training.data.batches import EvenBatches, SizedBatches
from dtm_hf.training.data.loader import BatchLoader, open_sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    arguments = DataArguments(dataset=str(write_sticks(tmp_path_factory.mktemp("sticks"))))
    return open_sources(arguments, "train", Sticks().columns)


def sized(sources, **options):
    settings = {"budget": 24, "max_samples": 5, "bucket_size": 15, "seed": 0, "endless": False}
    return SizedBatches(sources, Sticks(), **settings | options)


def test_no_batch_passes_the_budget_and_no_row_is_lost(sources):
    batches = list(sized(sources))
    for batch in batches:
        sizes = [sum(length for length, _ in sample) for sample in batch["sticks"]]
        assert len(sizes) <= 5 and len(sizes) * max(sizes) <= 24
        # Of like length: sorted before they were cut.
        assert sizes == sorted(sizes)
    lengths = [length for batch in batches for sample in batch["sticks"] for length, _ in sample]
    assert sorted(lengths) == sorted(n for n in LENGTHS if n != "many" and 1 <= n <= 8)
    bad = {reason: count for batch in batches for reason, count in batch["bad_rows"].items()}
    assert bad == {"no stick": 1, "unexpected ValueError": 1}
    assert sum(batch["dropped"].get("longer than 8", 0) for batch in batches) == LENGTHS.count(9) == 1


def test_only_samples_of_a_group_are_joined(sources):
    samples = [s for batch in sized(sources, join_probability=1.0, budget=10) for s in batch["sticks"]]
    joined = [sample for sample in samples if len(sample) > 1]
    assert joined and all({colour for _, colour in sample} == {"red"} for sample in joined)
    # Two that together pass the budget stay alone.
    assert all(len(sample) == 2 and sum(length for length, _ in sample) <= 10 for sample in joined)
    assert any(colour == "red" for sample in samples for _, colour in sample if len(sample) == 1)


@pytest.mark.parametrize("kind", ["sized", "even"])
def test_a_stream_goes_on_at_any_batch(sources, kind):
    def fresh():
        if kind == "even":
            return BatchLoader(EvenBatches(sources, Sticks(), 4, seed=1), num_workers=0)
        return BatchLoader(sized(sources, join_probability=0.5, endless=True, seed=1), num_workers=0)

    stream, whole, places = fresh(), [], []
    for batch in islice(stream, 25):
        whole.append(batch["sticks"])
        places.append(stream.state_dict())
    for count in (1, 7, 20):
        again = fresh()
        again.load_state_dict(places[count - 1])
        assert [batch["sticks"] for batch in islice(again, 25 - count)] == whole[count:]


def test_even_batches_and_what_is_left(sources):
    sizes = [len(batch["sticks"]) for batch in EvenBatches(sources, Sticks(), 10, seed=0, endless=False)]
    assert sizes == [10, 10, 10, 10, 8]
    few = EvenBatches(sources, Sticks(), 10, min_size=9, seed=0, endless=False)
    assert [len(batch["sticks"]) for batch in few] == [10, 10, 10, 10]


def test_a_column_that_is_not_there_is_named_after_its_role(sources):
    class Painted(Sticks):
        def columns(self, source):
            return {"text": "length", "colour": "paint"}

    arguments = DataArguments(dataset=sources[0].arguments.dataset)
    with pytest.raises(ValueError, match=r"no column 'paint' \(`colour_column`\); it has \['length', 'meta'\]"):
        open_sources(arguments, "train", Painted().columns)

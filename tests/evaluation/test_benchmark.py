"""A small benchmark through the real loop: what is judged, what is not judged twice, what the table says of it."""

import json
import math

import numpy as np
import pytest
from matplotlib.image import imread
from tiny import voice

from dtm_hf.evaluation.arms import parse_arms
from dtm_hf.evaluation.benchmark import CONTROLS, Benchmark, diversity_name
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.metrics.words import CharacterErrorRate, WordErrorRate
from dtm_hf.evaluation.records import Records
from dtm_hf.evaluation.report import draw_fronts, draw_steps, table
from dtm_hf.evaluation.sets import BenchmarkSet
from dtm_hf.evaluation.steps import step_errors
from dtm_hf.evaluation.summary import Summary
from dtm_hf.evaluation.systems import vocode
from dtm_hf.evaluation.timing import time_arms

ARMS = "euler-4,euler-2,dtm-2x2"


class Level:
    """Distance of the mean log-mel from the recording's: cheap, and blind to nothing that these tests need."""

    name, title, higher_is_better = "level", "level distance", False

    def __init__(self):
        self.calls = 0

    def __call__(self, speech, item):
        self.calls += 1
        if item.recording is None:
            return None
        return float(abs(speech.mel.mean() - np.log(np.abs(item.recording)).mean())), 1.0


class Length:
    """Seconds; of no use but to be a second metric that every item has."""

    name, title, higher_is_better = "length", "seconds", None

    def __call__(self, speech, item):
        return len(speech.waveform) / speech.sampling_rate, 1.0


@pytest.fixture
def items():
    recordings = [voice(0.6, seed=7), voice(0.5, pitch=180), None]
    return BenchmarkSet(
        "three",
        [
            BenchmarkItem(str(i), f"item {'abc'[i]}", voice(0.8, seed=i), "what is said", recording)
            for i, recording in enumerate(recordings)
        ],
    )


def run(pipe, items, folder, metrics, arms=ARMS, seeds=(0, 1), batch_size=2):
    records = Records(folder, {"set": items.name})
    benchmark = Benchmark(pipe, items, parse_arms(arms), list(seeds), metrics, records, batch_size)
    counted = []
    benchmark.run(counted.append)
    assert sum(counted) == benchmark.total
    return records


def test_every_arm_item_and_seed_is_judged_once(tiny_pipeline, items, tmp_path):
    level = Level()
    records = run(tiny_pipeline, items, tmp_path, [level])
    assert level.calls == 3 * 3 * 2 + 2 * len(CONTROLS)
    numerators, _ = records.figures("dtm-2x2", "level", ["0", "1", "2"], [0, 1])
    assert np.isfinite(numerators[:2]).all() and np.isnan(numerators[2]).all()
    assert numerators[0, 0] != numerators[0, 1]
    # Nothing is left to do: a second run samples nothing and judges nothing.
    tiny_pipeline.backbone.forward, forward = None, tiny_pipeline.backbone.forward
    try:
        run(tiny_pipeline, items, tmp_path, [level])
    finally:
        tiny_pipeline.backbone.forward = forward
    assert level.calls == 3 * 3 * 2 + 2 * len(CONTROLS)


def test_figures_depend_neither_on_the_batch_nor_on_an_interruption(tiny_pipeline, items, tmp_path):
    class Killed(Exception):
        pass

    class KillsAtTen(Level):
        def __call__(self, speech, item):
            if self.calls == 10:
                raise Killed
            return super().__call__(speech, item)

    whole = run(tiny_pipeline, items, tmp_path / "whole", [Level()], batch_size=3)
    with pytest.raises(Killed):
        run(tiny_pipeline, items, tmp_path / "killed", [KillsAtTen()], batch_size=1)
    resumed = run(tiny_pipeline, items, tmp_path / "killed", [Level()], batch_size=1)
    for arm in [*ARMS.split(","), "recording", "vocoded"]:
        seeds = [0, 1] if arm in ARMS else [None]
        a, b = (found.figures(arm, "level", ["0", "1"], seeds)[0] for found in (whole, resumed))
        # Half precision of the kept mels may round one way or the other.
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_a_new_metric_judges_what_was_said_without_sampling_again(tiny_pipeline, items, tmp_path):
    run(tiny_pipeline, items, tmp_path, [Level()])
    tiny_pipeline.backbone.forward, forward = None, tiny_pipeline.backbone.forward
    try:
        records = run(tiny_pipeline, items, tmp_path, [Level(), Length()])
    finally:
        tiny_pipeline.backbone.forward = forward
    assert np.isfinite(records.figures("euler-4", "length", ["0", "1", "2"], [0, 1])[0]).all()


def test_summary_and_table(tiny_pipeline, items, tmp_path):
    metrics, seeds, arms = [Level(), Length()], [0, 1], parse_arms(ARMS)
    records = run(tiny_pipeline, items, tmp_path, metrics)
    timings = time_arms(tiny_pipeline, arms, items.items, 24000, batch_sizes=(1, 2), repeats=2)
    for arm in arms:
        assert 0 < timings[arm.name]["2"]["fastest"] <= timings[arm.name]["2"]["seconds"]
        assert timings[arm.name]["2"]["audio_seconds"] > timings[arm.name]["1"]["audio_seconds"]
    # Made up, so that the comparison at equal cost is known: euler-2 is affordable for dtm-2x2, euler-4 is not.
    for name, seconds in (("euler-4", 4.0), ("euler-2", 2.0), ("dtm-2x2", 3.0)):
        timings[name]["1"]["seconds"] = seconds
    results = Summary(items, arms, seeds, metrics, records, timings, baked=False, reference="euler-4").results()
    entry = results["arms"]["dtm-2x2"]
    assert entry["cost"]["backbone_passes"] == 4 and entry["cost"]["head_calls"] == 8
    values = {}
    for name in ("dtm-2x2", "euler-4", "euler-2"):
        values[name] = np.nanmean(records.figures(name, "level", ["0", "1", "2"], seeds)[0])
        assert results["arms"][name]["metrics"]["level"]["value"] == pytest.approx(values[name])
        assert results["arms"][name]["metrics"]["level"]["n"] == 2
        assert results["arms"][name]["metrics"]["diversity"]["n"] == 3
    assert records.figures("euler-2", diversity_name(seeds), ["0"], [None])[0] > 0
    away = [
        np.subtract(*(records.mel(name, i, s) for name in ("euler-2", "euler-4"))) for i in range(3) for s in seeds
    ]
    away = np.mean([np.sqrt(np.square(difference).mean()) for difference in away])
    assert results["arms"]["euler-2"]["metrics"]["from_reference"]["value"] == pytest.approx(away)
    assert "from_reference" not in results["arms"]["euler-4"]["metrics"]
    assert entry["against_reference"]["level"]["value"] == pytest.approx(values["dtm-2x2"] - values["euler-4"])
    rival = entry["against_best_training_free"]["level"]
    assert rival["arm"] == "euler-2" and rival["value"] == pytest.approx(values["dtm-2x2"] - values["euler-2"])
    assert results["arms"]["euler-2"]["against_best_training_free"] == {}
    assert [check["better"] for check in results["checks"]["level"]] == ["recording", "vocoded", "euler-4", "euler-2"]
    json.dumps(results)

    results["settings"] = {
        "set": "three",
        "items": 3,
        "seeds": seeds,
        "model": "tiny",
        "device": "cpu",
        "dtype": "float32",
        "durations": "bytes",
        "reference": "euler-4",
    }
    text = table(results, metrics)
    rows = [line for line in text.splitlines() if line.startswith("| dtm-2x2 |")]
    assert len(rows) == 3 and f"{values['dtm-2x2']:.3f} [" in rows[0] and "| 4 | 8 | 3.000 |" in rows[0]
    assert "(euler-2)" in rows[2]
    # Every table has as many cells in a row as in its head.
    widths = {line.count("|") for line in text.split("## ")[0].splitlines() if line.startswith("|")}
    assert len(widths) == 1
    draw_fronts(results, metrics, tmp_path / "fronts.png")
    assert imread(tmp_path / "fronts.png").shape[1] > 1000


def test_figures_that_are_no_numbers_are_none_and_infinite_ones_are_refused(tmp_path):
    records = Records(tmp_path, {})
    records.append("euler-2", "0", 0, {"pitch": (math.nan, 1.0), "length": (2.0, 1.0), "words": None})
    with pytest.raises(ValueError, match="The figure 'pitch' of 'euler-2' on '1' is infinite"):
        records.append("euler-2", "1", 0, {"pitch": (math.inf, 1.0)})
    (line,) = (tmp_path / "records.jsonl").read_text().splitlines()
    assert json.loads(line)["figures"] == {"pitch": None, "length": [2.0, 1.0], "words": None}
    for known in (records, Records(tmp_path, {})):
        assert known.missing("euler-2", "0", 0, ["pitch", "length", "words"]) == []
        assert np.isnan(known.figures("euler-2", "pitch", ["0"], [0])).all()


def test_a_ratio_is_better_the_nearer_it_is_to_one(tiny_pipeline, items, tmp_path):
    class Fixed(Length):
        def __call__(self, speech, item):
            return self.value, 1.0

    metric, arms = Fixed(), parse_arms("euler-2,euler-1")
    records = Records(tmp_path, {})
    for arm, value in (("euler-2", 0.7), ("euler-1", 1.2)):
        for item in items.items:
            records.append(arm, item.id, 0, {"length": (value, 1.0)})
    results = Summary(items, arms, [0], [metric], records, {}, baked=False, reference="euler-2").results()
    assert results["arms"]["euler-1"]["against_reference"]["length"]["value"] == pytest.approx(0.2 - 0.3)


def test_an_utterance_has_all_its_words_wrong_at_most(items, tmp_path):
    """Whisper made 112 words of one that has two; the records keep what it made, for whoever wants them uncapped."""
    deaf = type("Deaf", (), {"normalization": "english", "unheard": staticmethod(lambda text: [])})
    records, arms = Records(tmp_path, {}), parse_arms("euler-2,euler-1")
    for arm, counts in (("euler-2", (110.0, 1.0, 0.0)), ("euler-1", (0.0, 0.0, 0.0))):
        for item, errors in zip(items.items, counts, strict=True):
            records.append(arm, item.id, 0, {"wer": (errors, 2.0), "cer": (errors, 8.0), "length": (errors, 2.0)})
    metrics = [WordErrorRate(deaf), CharacterErrorRate(deaf), Length()]
    arms = Summary(items, arms, [0], metrics, records, {}, baked=False, reference="euler-2").results()["arms"]
    values = {name: found["value"] for name, found in arms["euler-2"]["metrics"].items()}
    assert values == {"wer": 3 / 6, "cer": 9 / 24, "length": 111 / 6}
    assert arms["euler-1"]["against_reference"]["wer"]["value"] == -3 / 6
    assert records.figures("euler-2", "wer", [items.items[0].id], [0])[0] == 110


def test_the_figures_of_each_kind_are_told_apart(items, tmp_path):
    class Words(Length):
        name, title, higher_is_better = "wer", "WER", False
        ears = type("Deaf", (), {"recognizer": type("To", (), {"unheard": staticmethod(lambda text: [])})})

    records, arms = Records(tmp_path, {}), parse_arms("euler-2")
    for item, kind, errors in zip(items.items, ("asked", "said", "said"), (3.0, 1.0, 0.0), strict=True):
        item.kind = kind
        records.append("euler-2", item.id, 0, {"wer": (errors, 4.0)})
    results = Summary(items, arms, [0], [Words()], records, {}, baked=False, reference="euler-2").results()
    assert {kind: found["euler-2"]["wer"]["value"] for kind, found in results["kinds"].items()} == (
        {"asked": 3 / 4, "said": 1 / 8}
    )
    assert results["kinds"]["said"]["euler-2"]["wer"]["n"] == 2
    results["settings"] = {"set": "three", "items": 3, "seeds": [0], "model": "tiny", "device": "cpu"} | {
        "dtype": "float32",
        "durations": "bytes",
        "reference": "euler-2",
    }
    text = table(results, [Words()])
    assert "## WER by kind of sentence" in text and "| said | 2 | 0.125 [0.000, 0.250] |" in text
    for item in items.items:
        item.kind = None
    plain = Summary(items, arms, [0], [Words()], records, {}, baked=False, reference="euler-2").results()
    assert plain["kinds"] == {} and "by kind" not in table(plain | {"settings": results["settings"]}, [Words()])


def test_a_vocoder_with_weights_is_heard_without_their_gradients(port_source):
    """Those of a Vocos are there to be trained; Griffin-Lim, which the others use, has none."""
    mels = [np.full((frames, 100), -3, dtype=np.float32) for frames in (20, 12)]
    assert [len(wave) for wave in vocode(port_source, mels)] == [19 * 256, 11 * 256]


def test_an_unknown_reference_is_refused(items, tmp_path):
    with pytest.raises(ValueError, match="`reference` must be one of the arms .*'euler-9'"):
        Summary(items, parse_arms(ARMS), [0], [Level()], Records(tmp_path, {}), {}, False, "euler-9")


def test_step_errors_end_where_the_arm_ends(tiny_pipeline, items, tmp_path):
    arms = parse_arms("euler-4,dtm-2x2,midpoint-2")
    errors = step_errors(tiny_pipeline, arms, items.items, 24000, Level())
    assert errors.keys() == {"euler-4", "dtm-2x2"} and errors["euler-4"]["times"][0] == 0
    records = run(tiny_pipeline, items, tmp_path, [Level()], seeds=[0], batch_size=1)
    for arm in errors:
        assert len(errors[arm]["distances"]) == len(errors[arm]["times"])
    # Item 0 has seed 0 in both, and the last step points at what is said.
    one = step_errors(tiny_pipeline, arms, items.items[:1], 24000, Level())
    said = records.figures("euler-4", "level", ["0"], [0])[0]
    assert one["euler-4"]["distances"][-1] == pytest.approx(float(said.item()), abs=2e-3)
    draw_steps(errors, "level", tmp_path / "steps.png")
    assert imread(tmp_path / "steps.png").size


def test_a_pipeline_that_draws_its_lengths(timed_pipeline, items, tmp_path):
    """Each seed has a length of its own, in which all arms agree; controls and steps begin where the arms begin."""
    names = "euler-2,euler-1,renoise-2:0,noise-2:0"
    records = run(timed_pipeline, items, tmp_path, [Length()], names)
    for index in range(3):
        lengths = [[len(records.mel(name, index, seed)) for name in names.split(",")] for seed in (0, 1)]
        assert all(len(set(same)) == 1 for same in lengths)
        assert lengths[0] != lengths[1]
        for name in ("renoise-2:0", "noise-2:0"):
            np.testing.assert_array_equal(records.mel(name, index, 1), records.mel("euler-2", index, 1))
    assert np.isfinite(records.figures("euler-2", diversity_name([0, 1]), ["0", "1", "2"], [None])[0]).all()
    # One step ends where it points.
    errors = step_errors(timed_pipeline, parse_arms("euler-1"), items.items[:1], 24000, Level())
    said = run(timed_pipeline, items, tmp_path, [Level()], names).figures("euler-1", "level", ["0"], [0])[0]
    assert errors["euler-1"]["distances"] == [pytest.approx(float(said.item()), abs=2e-3)]


def test_a_head_is_counted_where_it_runs(items, make_guidance_head, tmp_path):
    """Of four steps, at t = 0.076 and 0.293, but not where an arm's guidance has ended before."""
    arms, records = parse_arms("dtm-4x1,dtm-4x1@2:0.1,euler-4"), Records(tmp_path, {})
    head_config = make_guidance_head().config
    results = Summary(items, arms, [0], [], records, {}, True, "euler-4", head_config).results()["arms"]
    assert [results[arm.name]["cost"]["head_calls"] for arm in arms] == [2, 1, 0]
    assert [results[arm.name]["cost"]["backbone_passes"] for arm in arms] == [4, 4, 8]

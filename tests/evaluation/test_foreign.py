"""Arms of other systems than DTM: their names, what a SpeechT5 says and how it is heard, all in one table."""

import json

import numpy as np
import pytest
import torch
from tiny import voice
from tiny_speecht5 import tiny_speecht5, tiny_speecht5_pipeline

import dtm_hf
from dtm_hf import GriffinLimVocoder, SpeakerTable
from dtm_hf.evaluation.arms import Arm, parse_arms
from dtm_hf.evaluation.benchmark import Benchmark
from dtm_hf.evaluation.foreign import KINDS, foreign_system
from dtm_hf.evaluation.foreign_arms import FORMS, ForeignArm, parse_any_arm
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.records import Records
from dtm_hf.evaluation.report import draw_fronts, table
from dtm_hf.evaluation.sets import BenchmarkSet
from dtm_hf.evaluation.summary import Summary
from dtm_hf.evaluation.systems import DTMSystem, log_mel, system_of
from dtm_hf.evaluation.timing import time_arms


class Level:
    """Mean log-mel, seconds or what else a speech has: cheap."""

    title, higher_is_better = "level", False

    def __init__(self, name="level", judge=lambda speech: float(abs(speech.mel.mean()))):
        self.name, self.judge = name, judge

    def __call__(self, speech, item):
        return self.judge(speech), 1.0


LENGTH = Level("length", lambda speech: len(speech.waveform) / speech.sampling_rate)
ARM = parse_any_arm("speecht5")
ITEMS = [
    BenchmarkItem("a", "Hi.", voice(0.6), "what is said", voice(0.5, seed=7), speaker="bob"),
    BenchmarkItem("b", "Well then.", voice(0.6, seed=1), "what is said", voice(0.5, 180), speaker="eve"),
]


def speecht5(tokenizer, stops=True, **parts):
    """Random weights say nothing of their end: a bias ends all at the third step at the latest, or never."""
    pipe = tiny_speecht5_pipeline(tokenizer, **parts)
    with torch.no_grad():
        pipe.model.speech_decoder_postnet.prob_out.bias.fill_(50.0 if stops else -50.0)
    return pipe


@pytest.fixture
def system(tokenizer, feature_extractor):
    return foreign_system(speecht5(tokenizer), feature_extractor)


def test_names():
    assert parse_arms("euler-2, speecht5", parse_any_arm) == [
        parse_any_arm("euler-2"),
        ForeignArm("speecht5", "speecht5"),
    ]
    assert isinstance(parse_any_arm("dtm-4x2"), Arm)
    for name in ("speecht5-4", "speecht5@2", "speecht5:"):
        with pytest.raises(ValueError, match=f"of speecht5 must be of the form speecht5, but got '{name}'"):
            parse_any_arm(name)
    with pytest.raises(ValueError, match="'fast-4'"):
        parse_any_arm("fast-4")
    with pytest.raises(ValueError, match="must differ"):
        parse_arms("speecht5,speecht5", parse_any_arm)
    # Who runs arms of DTM alone is not given others.
    with pytest.raises(ValueError, match="'speecht5'"):
        parse_arms("euler-2,speecht5")


def test_each_kind_has_a_form_and_a_pipeline():
    assert set(KINDS.values()) == set(FORMS)
    assert all(hasattr(dtm_hf, name) for name in KINDS)


def test_an_item_is_spoken_by_its_own_seed_and_whether_it_ended_is_told(system, tokenizer, feature_extractor):
    assert system.kind == "speecht5"
    together = system.say(ARM, ITEMS, 24000, [3, 4])
    for index, said in enumerate(together):
        (alone,) = system.say(ARM, [ITEMS[index]], 24000, [3 + index])
        np.testing.assert_allclose(said.kept, alone.kept, atol=1e-5)
        assert said.figures == {"stopped": (1.0, 1.0)} and said.kept.shape == (2, 80)
    (other,) = system.say(ARM, ITEMS[:1], 24000, [5])
    assert np.abs(other.kept - together[0].kept).max() > 1e-3
    endless = foreign_system(speecht5(tokenizer, stops=False), feature_extractor)
    (said,) = endless.say(ARM, ITEMS[:1], 24000, [0])
    assert said.figures == {"stopped": (0.0, 1.0)} and len(said.kept) == 20 * 4


def test_who_speaks(tokenizer, feature_extractor, monkeypatch):
    pipe = speecht5(tokenizer, stops=False)
    system = foreign_system(pipe, feature_extractor)
    vectors = pipe.speakers.vectors

    def speakers():
        given = []
        monkeypatch.setattr(type(pipe), "__call__", lambda self, text, speaker, **_: given.extend(speaker) or empty)
        empty = dtm_hf.pipelines.output.SpeechT5PipelineOutput([], 16000, None, [])
        system.say(ARM, ITEMS, 24000, [0, 0])
        return given

    # By name where there is one, else the first of the table.
    assert all(map(torch.equal, speakers(), (vectors["bob"], vectors["ann"])))
    # What knows how its embeddings were made speaks like the prompt.
    heard = []
    monkeypatch.setattr(
        "dtm_hf.evaluation.speecht5.find_speakers",
        lambda table, speaker, audio, size, count: [heard.append(audio) or torch.ones(size)],
    )
    pipe.register_modules(speakers=SpeakerTable(vectors, encoder="resemblyzer"))
    found = speakers()
    assert torch.equal(found[0], vectors["bob"]) and torch.equal(found[1], torch.ones(16))
    assert len(heard) == 1 and heard[0][1] == 24000 and np.array_equal(heard[0][0], ITEMS[1].reference_audio)


def test_it_is_heard_through_its_own_vocoder(system, tokenizer, feature_extractor):
    kept = [said.kept for said in system.say(ARM, ITEMS, 24000, [0, 0])]
    for speech in system.hear(kept):
        # Two frames are too few for a vocoder: the last one lasts.
        assert speech.sampling_rate == 16000 and speech.waveform.shape == (6 * 256,)
        # Mels of another kind are those of the sound.
        np.testing.assert_array_equal(speech.mel, log_mel(feature_extractor, speech.waveform, 16000))
        assert speech.mel.shape[1] == 100
    model = tiny_speecht5(vocab_size=tokenizer.vocab_size + 3, num_mel_bins=100)
    alike = foreign_system(speecht5(tokenizer, model=model, vocoder=GriffinLimVocoder()), feature_extractor)
    mel = np.full((8, 100), -4.0, dtype=np.float32)
    (speech,) = alike.hear([mel])
    assert speech.sampling_rate == 24000 and speech.mel is mel


def test_a_fingerprint_tells_weights_and_vocoders_apart(system, tokenizer, feature_extractor):
    assert system.fingerprint == foreign_system(speecht5(tokenizer), feature_extractor).fingerprint
    assert system.fingerprint != foreign_system(speecht5(tokenizer, stops=False), feature_extractor).fingerprint
    assert system.fingerprint.endswith(" torch SpeechT5HifiGan")


def test_what_cannot_be_judged_is_refused(system, tiny_pipeline, tokenizer, feature_extractor):
    with pytest.raises(ValueError, match="must have `speakers`, but got none"):
        foreign_system(tiny_speecht5_pipeline(tokenizer, speakers=None), feature_extractor)
    own = DTMSystem(tiny_pipeline)
    assert system_of(ARM, own, [system]) is system and system_of(parse_any_arm("euler-2"), own, [system]) is own
    with pytest.raises(ValueError, match="'speecht5', but no model that speaks it is `beside`"):
        system_of(ARM, own, [])


def run(pipe, others, folder, metrics, arms, seeds=(0, 1)):
    records = Records(folder, {"set": "two"})
    Benchmark(pipe, BenchmarkSet("two", ITEMS), arms, list(seeds), metrics, records, 2, None, others).run()
    return records


def test_it_stands_in_the_table_of_the_arms_of_dtm(system, tiny_pipeline, tmp_path):
    arms, metrics, seeds = parse_arms("euler-2,dtm-2x1,speecht5", parse_any_arm), [Level(), LENGTH], [0, 1]
    records = run(tiny_pipeline, [system], tmp_path, metrics, arms)
    items = BenchmarkSet("two", ITEMS)
    # As many frames as the reference, by chance.
    records.write_mel("speecht5", 0, 0, records.mel("euler-2", 0, 0))
    results = Summary(items, arms, seeds, metrics, records, {}, False, "euler-2").results()
    entry = results["arms"]["speecht5"]
    assert entry["metrics"]["stopped"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert "stopped" not in results["arms"]["dtm-2x1"]["metrics"]
    assert entry["metrics"]["level"]["n"] == 2 and "diversity" in entry["metrics"]
    # It does not start at the noise of the reference, and its passes are no measure of its cost.
    assert "from_reference" not in entry["metrics"] and "from_reference" in results["arms"]["dtm-2x1"]["metrics"]
    assert entry["cost"]["backbone_passes"] is None and entry["against_best_training_free"] == {}
    assert "value" in entry["against_reference"]["level"]
    results["settings"] = {"set": "two", "items": 2, "seeds": seeds, "model": "tiny", "device": "cpu"}
    results["settings"] |= {"dtype": "float32", "durations": "bytes", "reference": "euler-2"}
    lines = table(json.loads(json.dumps(results)), metrics).splitlines()
    assert "| stop rate |" in next(line for line in lines if line.startswith("| arm | passes"))
    assert next(line for line in lines if line.startswith("| speecht5")).startswith("| speecht5 |  |  |  |  |")
    draw_fronts(results, metrics, tmp_path / "fronts.png")
    # With it as the reference nothing is measured along its path.
    results = Summary(items, arms, seeds, metrics, records, {}, False, "speecht5").results()
    assert not any("from_reference" in arm["metrics"] for arm in results["arms"].values())


def test_a_table_of_nothing_else(system, tiny_pipeline, tmp_path):
    records = run(tiny_pipeline, [system], tmp_path, [Level()], [ARM], [0])
    results = Summary(BenchmarkSet("two", ITEMS), [ARM], [0], [Level()], records, {}, False, "speecht5").results()
    draw_fronts(results, [Level()], tmp_path / "fronts.png")
    assert (tmp_path / "fronts.png").stat().st_size > 0
    assert time_arms(tiny_pipeline, [ARM], ITEMS, 24000, (1,), 0, others=[system]) == {}


def test_what_was_said_is_not_said_again_and_its_end_is_not_lost(system, tiny_pipeline, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="disk"), monkeypatch.context() as broken:
        # Killed between the two: the figure must be there first, for a mel that is there is not said again.
        broken.setattr(Records, "write_mel", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        run(tiny_pipeline, [system], tmp_path, [Level()], [ARM], [0])
    run(tiny_pipeline, [system], tmp_path, [Level()], [ARM], [0])
    monkeypatch.setattr(type(system), "say", None)
    records = run(tiny_pipeline, [system], tmp_path, [Level(), LENGTH], [ARM], [0])
    assert records.figures("speecht5", "stopped", ["a", "b"], [0])[0].tolist() == [[1], [1]]
    assert np.isfinite(records.figures("speecht5", "length", ["a", "b"], [0])[0]).all()


def test_codes_are_kept_as_they_are(tmp_path):
    codes = np.array([[1, 70_000], [3, 65_535]])
    records = Records(tmp_path, {})
    assert records.write_mel("trm", 0, 0, codes).dtype == codes.dtype
    np.testing.assert_array_equal(records.mel("trm", 0, 0), codes)


def test_seconds_are_those_of_its_own_speech(system, tiny_pipeline):
    arms = parse_arms("euler-1,speecht5", parse_any_arm)
    timings = time_arms(tiny_pipeline, arms, ITEMS, 24000, (1, 2), 2, others=[system])
    assert set(timings) == {"euler-1", "speecht5", "vocoder"}
    for size in ("1", "2"):
        mine, its = timings["speecht5"][size], timings["euler-1"][size]
        assert mine["audio_seconds"] == pytest.approx(int(size) * 6 * 256 / 16000) and its["audio_seconds"] > 0.1
        assert mine["real_time_factor"] > mine["seconds"] / mine["audio_seconds"]
        heard = timings["vocoder"][size]["seconds"]
        assert its["real_time_factor"] == pytest.approx((its["seconds"] + heard) / its["audio_seconds"])

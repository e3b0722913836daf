"""TRM's arms in a benchmark: their names, what each is sampled with, how its codes and latents are kept and heard."""

import numpy as np
import pytest
import tiny_trm
import torch
from tiny import voice

from dtm_hf.codec.mimi import decode_codes
from dtm_hf.evaluation.benchmark import Benchmark
from dtm_hf.evaluation.foreign import foreign_system
from dtm_hf.evaluation.foreign_arms import parse_any_arm
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.records import Records
from dtm_hf.evaluation.sets import BenchmarkSet
from dtm_hf.evaluation.summary import Summary

ITEMS = [
    BenchmarkItem("a", "yes, that was said", voice(0.6), "what is said", voice(0.5, seed=7), speaker="bob"),
    BenchmarkItem("b", "no", voice(0.6, seed=1), "what is said", voice(0.5, 180), speaker="eve", duration_s=0.8),
]


@pytest.fixture(scope="module")
def pipe(vocab_file):
    return tiny_trm.pipeline(vocab_file)


@pytest.fixture(scope="module")
def latents(vocab_file):
    return tiny_trm.pipeline(vocab_file, latent_dim=64)


def test_names():
    assert parse_any_arm("trm-4").options == {"cycles": "4", "head_steps": None, "independent": None, "scale": None}
    assert parse_any_arm("trm-12:independent").options["independent"]
    assert parse_any_arm("trm-3+2@1.5").options == parse_any_arm("trm-3+2@1.5").options | {
        "head_steps": "2",
        "scale": "1.5",
    }
    for name in ("trm", "trm-0", "trm-4:other", "trm-4+2:independent", "trm-4@"):
        with pytest.raises(ValueError, match="of trm must be of the form trm-H, trm-H:independent or trm-H"):
            parse_any_arm(name)


@pytest.mark.parametrize(
    ("arm", "options"),
    [
        ("trm-2", {"num_inference_steps": 2}),
        ("trm-5", {"num_inference_steps": 5}),
        ("trm-3:independent", {"num_inference_steps": 3, "decoding": "independent"}),
        ("trm-2@3", {"num_inference_steps": 2, "guidance_scale": 3.0}),
    ],
)
def test_an_arm_is_the_call_of_its_name_in_the_voice_of_the_item(pipe, feature_extractor, arm, options):
    system = foreign_system(pipe, feature_extractor)
    system.check(parse_any_arm(arm))
    said = system.say(parse_any_arm(arm), ITEMS, 24000, [3, 4])
    for item, voice_name, seed, found in zip(ITEMS, ("bob", "ann"), (3, 4), said, strict=True):
        given = {"generator": torch.Generator().manual_seed(seed), "duration_s": item.duration_s}
        codes = pipe(item.text, voice_name, output_type="codes", **given, **options).audios[0]
        assert found.kept.dtype.kind == "i" and np.array_equal(found.kept, codes.numpy())
    assert said[1].kept.shape == (3, 10)


def test_latents_are_drawn_with_the_calls_of_the_arm(latents, feature_extractor):
    system = foreign_system(latents, feature_extractor)
    kept = [system.say(parse_any_arm(name), ITEMS[1:], 24000, [0])[0].kept for name in ("trm-2", "trm-2+0", "trm-2+4")]
    assert kept[0].shape == (64, 10) and kept[0].dtype == np.float32
    assert not any(np.array_equal(kept[0], other) for other in kept[1:])
    (speech,) = system.hear(kept[:1])
    assert speech.waveform.shape == (10 * 1920,) and speech.sampling_rate == 24000
    with pytest.raises(ValueError, match="`decoding` must be left out for a model of latents"):
        system.check(parse_any_arm("trm-2:independent"))


def test_a_model_of_codes_has_no_head_calls_and_is_known_by_its_weights(pipe, latents, vocab_file, feature_extractor):
    system = foreign_system(pipe, feature_extractor)
    with pytest.raises(ValueError, match="`num_head_steps` must be left out for a model of codes"):
        system.check(parse_any_arm("trm-2+2"))
    assert system.fingerprint == foreign_system(tiny_trm.pipeline(vocab_file), feature_extractor).fingerprint
    other = tiny_trm.pipeline(vocab_file)
    other.codec.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed_sum.mul_(2)
    assert system.fingerprint != foreign_system(other, feature_extractor).fingerprint
    assert len(foreign_system(latents, feature_extractor).fingerprint.split()) == 5


def test_it_stands_in_one_table_with_dtm(pipe, tiny_pipeline, feature_extractor, tmp_path):
    class Length:
        name, title, higher_is_better = "length", "length", False

        def __call__(self, speech, item):
            return len(speech.waveform) / speech.sampling_rate, 1.0

    system, arms = foreign_system(pipe, feature_extractor), [*map(parse_any_arm, ("euler-1", "trm-2"))]
    records = Records(tmp_path, {"set": "two"})
    items = BenchmarkSet("two", ITEMS)
    Benchmark(tiny_pipeline, items, arms, [0], [Length()], records, 2, None, [system]).run()
    results = Summary(items, arms, [0], [Length()], records, {}, False, "euler-1").results()
    assert results["arms"]["trm-2"]["metrics"]["length"]["n"] == 2
    assert results["arms"]["trm-2"]["cost"]["backbone_passes"] is None
    # What is kept is the codes themselves.
    (speech,) = system.hear([records.mel("trm-2", 1, 0)])
    codes = torch.from_numpy(records.mel("trm-2", 1, 0))
    assert np.array_equal(speech.waveform, decode_codes(pipe.codec, [codes])[0].numpy())

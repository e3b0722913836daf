"""A pipeline whose backbone is told how long each token lasts."""

import pytest
import torch

from dtm_hf import DTMPipeline, DurationPredictor, TextAligner

SAID = "What is said."


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_durations_fill_the_frames(timed_pipeline, reference_audio):
    rows = timed_pipeline.prepare(["Hello there.", "A longer sentence, with a pause."], reference_audio, SAID)
    for row in rows:
        assert len(row.durations) == len(row.token_ids)
        assert row.durations.sum() == row.num_frames
        said = len(row.reference.durations)
        assert row.reference.durations.sum() == row.reference.num_frames
        assert torch.equal(row.durations[:said], row.reference.durations)
    assert rows[1].num_frames > rows[0].num_frames


def test_speed_and_seconds_scale_what_is_to_be_said(timed_pipeline, reference_audio):
    def frames(**arguments) -> int:
        (row,) = timed_pipeline.prepare("A longer sentence.", reference_audio, SAID, generator=seeded(), **arguments)
        assert row.durations.sum() == row.num_frames
        return row.num_frames - row.reference.num_frames

    natural = frames()
    assert frames(speed=2.0) == pytest.approx(natural / 2, abs=1)
    assert frames(duration_s=2.0) == int(2.0 * 24000 / 256)


def test_a_text_shorter_than_the_network_needs_fills_its_frames(timed_pipeline, reference_audio):
    # One frame is wanted and two are needed: none of them is without a token.
    reference = timed_pipeline.encode_reference(reference_audio, SAID)
    frames, durations = timed_pipeline._timing.last(
        "So", reference.text, reference.num_frames, reference.durations, frames=1, least=2, speed=1.0, generator=None
    )
    assert frames == 2 and durations.sum() == reference.num_frames + 2


def test_seeds_draw_lengths_too_and_a_batch_equals_its_rows(timed_pipeline, reference_audio):
    def speak(texts, seeds):
        generators = [seeded(seed) for seed in seeds]
        return timed_pipeline(texts, reference_audio, SAID, generator=generators, output_type="mel").audios

    one, other = speak(["Hello there.", "Hello there."], [0, 1])
    assert len(one) != len(other)
    (alone,) = speak(["Hello there."], [1])
    torch.testing.assert_close(alone, other, rtol=1e-3, atol=1e-3)


def test_is_saved_and_loaded(timed_pipeline, reference_audio, tmp_path):
    timed_pipeline.save_pretrained(tmp_path)
    loaded = DTMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    outputs = [
        p("Hello.", reference_audio, SAID, generator=seeded(), output_type="mel").audios[0]
        for p in (timed_pipeline, loaded)
    ]
    torch.testing.assert_close(*outputs)
    assert "token by token in the prompt's pace, by TokenDurations" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("missing", ["duration_predictor", "text_aligner"])
def test_refuses_to_do_without(timed_pipeline, missing):
    with pytest.raises(ValueError, match="`text_aligner` and a `duration_predictor` of tokens .* are needed"):
        DTMPipeline(**timed_pipeline.components | {missing: None})


def test_refuses_other_kinds(timed_pipeline, make_backbone):
    by_characters = DurationPredictor(1.0, 0.1, {"a": 0.1}, 0.05)
    with pytest.raises(ValueError, match="DurationPredictor"):
        DTMPipeline(**timed_pipeline.components | {"duration_predictor": by_characters})
    with pytest.raises(ValueError, match="but this one's is"):
        DTMPipeline(**timed_pipeline.components | {"backbone": make_backbone()})
    with pytest.raises(ValueError, match="`text_aligner` must know the 59 tokens"):
        DTMPipeline(**timed_pipeline.components | {"text_aligner": TextAligner(7, hidden_size=8, embedding_size=8)})

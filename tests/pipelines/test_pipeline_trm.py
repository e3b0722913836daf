"""The pipeline of codes: text to speech, batches, voices, recordings, saving, refusals."""

import copy
import logging

import numpy as np
import pytest
import tiny_trm
import torch
from diffusers import DiffusionPipeline
from hub_card_rules import check_card
from hub_server import hub_of_this_process
from tiny_codec import tiny_codec
from transformers import AutoModel

from dtm_hf import F5Tokenizer, TRMModel, TRMPipeline
from dtm_hf.hub import fill_card
from dtm_hf.pipelines.chunking import cross_fade
from dtm_hf.pipelines.code_stream import fade_pieces

SAID = "some words."


@pytest.fixture(scope="module")
def pipe(vocab_file):
    return tiny_trm.pipeline(vocab_file)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_it_speaks_for_as_long_as_the_text_takes(pipe):
    output = pipe("yes", generator=seeded())
    # 0.2 s for any text, 0.05 for the word, 0.1 for the e and 0.05 for each other byte: 0.45 s of 80 ms frames.
    assert output.sampling_rate == 24000 and output.audios[0].shape == (6 * 1920,)
    assert output.audios[0].dtype == np.float32 and np.abs(output.audios[0]).max() > 1e-3
    assert pipe("yes", speed=2.0).audios[0].shape == (3 * 1920,)
    assert pipe("yes", duration_s=0.8).audios[0].shape == (10 * 1920,)
    assert isinstance(pipe("yes", output_type="pt", return_dict=False)[0][0], torch.Tensor)


def test_its_codec_waits_for_no_device_whoever_has_loaded_it(pipe):
    """On a device without values, where what reads one fails."""
    decoder = copy.deepcopy(pipe.codec).to("meta").decoder.decoder_seanet
    states = torch.zeros(1, pipe.codec.config.hidden_size, 4, device="meta")
    with torch.no_grad():
        assert decoder(states).shape == (1, 1, 3840)


def test_without_a_predictor_it_takes_as_long_as_read_english_does(pipe):
    """14.65 characters a second, where the document had three frames a character, cut off at 256."""
    bare = TRMPipeline(**dict(pipe.components) | {"duration_predictor": None})
    for text in ("yes", "yes, that was said by all of them"):
        (row,) = bare.prepare(text)
        assert row.num_frames == round(len(text) / 14.65 * 12.5) <= len(text)


def test_codes_are_what_is_heard(pipe):
    from dtm_hf.codec.mimi import decode_codes

    codes = pipe("yes", generator=seeded(), output_type="codes").audios[0]
    assert codes.shape == (3, 6) and codes.max() < 16
    heard = pipe("yes", generator=seeded()).audios[0]
    np.testing.assert_allclose(decode_codes(pipe.codec, [codes])[0].numpy(), heard, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 3.0}, {"decoding": "independent"}, {"temperature": 0}])
def test_a_text_is_the_same_in_any_batch(pipe, options):
    texts, voices = ["yes, that was said", "no"], ["bob", 0]
    together = pipe(
        texts, voices, generator=[seeded(0), seeded(1)], output_type="codes", max_batch_frames=1000, **options
    )
    for i in range(2):
        alone = pipe(texts[i], voices[i], generator=seeded(i), output_type="codes", **options)
        assert torch.equal(together.audios[i], alone.audios[0])


def test_voices_seeds_cycles_and_decodings_are_heard(pipe):
    def codes(**options):
        return pipe("yes, that was said", output_type="codes", **{"generator": seeded()} | options).audios[0]

    base = codes()
    assert torch.equal(base, codes(voice="ann")) and torch.equal(base, codes(voice=0))
    others = [
        codes(voice="bob"),
        codes(generator=seeded(1)),
        codes(num_inference_steps=5),
        codes(decoding="independent"),
        codes(guidance_scale=5.0),
        codes(top_k=1),
    ]
    assert not any(torch.equal(base, other) for other in others)
    assert torch.equal(codes(voice="1"), others[0])
    assert torch.equal(codes(temperature=0), codes(temperature=0, generator=seeded(1)))


def test_a_network_without_feedback_is_decoded_as_it_was_trained(vocab_file):
    pipe = tiny_trm.pipeline(vocab_file, feedback=False)
    codes = [
        pipe("yes", generator=seeded(), output_type="codes", decoding=decoding).audios[0]
        for decoding in (None, "independent", "masked")
    ]
    assert torch.equal(codes[0], codes[1]) and not torch.equal(codes[0], codes[2])


def test_a_recording_is_gone_on_from(pipe, reference_audio):
    calls = {"reference_audio": reference_audio, "reference_text": SAID, "temperature": 0, "output_type": "codes"}
    rows = pipe.prepare("yes", reference_audio=reference_audio, reference_text=SAID)
    known = rows[0].prompt.codes
    assert known.shape[0] == 3 and rows[0].num_frames > known.shape[1]
    (codes,) = pipe.sample(rows, temperature=0)
    assert torch.equal(codes[:, : known.shape[1]], known)
    spoken = pipe("yes", **calls).audios[0]
    assert torch.equal(spoken, codes[:, known.shape[1] :])
    # At the pace of the recording: as many times its frames as the text takes more.
    pace = known.shape[1] / pipe.duration_predictor("some words. ")
    assert spoken.shape[1] == round(pace * pipe.duration_predictor("yes"))
    assert not torch.equal(spoken, pipe("yes", duration_s=spoken.shape[1] / 12.5, **_without(calls)).audios[0])
    # A quiet recording is gone on from as quietly.
    assert rows[0].prompt.rms > 0
    mixed = pipe(
        ["yes", "yes"], reference_audio=[reference_audio, None], reference_text=[SAID, None], max_batch_frames=1000
    )
    assert len(mixed.audios) == 2


def _without(calls):
    return {name: value for name, value in calls.items() if not name.startswith("reference")}


def test_long_text_is_cut_to_what_the_network_serves(pipe):
    text = " ".join(["this is one of the sentences."] * 6)
    rows = pipe.prepare([text, "no"])
    assert len(rows) > 4 and rows[-1].text == "no" and rows[-1].text_index == 1
    assert max(row.num_frames for row in rows) <= 40 and max(len(row.token_ids) for row in rows) <= 60
    codes = pipe.sample(rows, temperature=0)
    audios = pipe.decode(rows, codes)
    fades = (len(rows) - 2) * int(0.15 * 24000)
    assert len(audios[0]) == sum(row.num_frames for row in rows[:-1]) * 1920 - fades
    wanted = pipe.prepare(text, duration_s=9.0)
    assert sum(row.num_frames for row in wanted) / 12.5 == pytest.approx(9.0, abs=0.15 * len(wanted) + 0.1)


@pytest.mark.parametrize("piece_frames", [1, 5])
def test_a_stream_is_its_sentences_cross_faded(pipe, reference_audio, piece_frames):
    first, second = "this is said.", "that was all there is."
    voice = {"voice": "bob", "reference_audio": reference_audio, "reference_text": SAID}
    for options in ({}, voice):
        heard = list(pipe.stream(f"{first} {second}", temperature=0, piece_frames=piece_frames, **options))
        alone = [pipe(text, temperature=0, **options).audios[0] for text in (first, second)]
        expected = cross_fade(alone, 24000)
        assert len(heard) > 2 and len(heard[0]) < len(alone[0])
        np.testing.assert_allclose(np.concatenate(heard), expected, atol=1e-4 * np.abs(expected).max())


def test_a_stream_refuses_at_once(pipe):
    for options in ({"voice": "eve"}, {"piece_frames": 0}, {"speed": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must"):
            pipe.stream("yes", **options)


def test_pieces_of_any_length_are_faded_as_the_whole():
    generator = np.random.default_rng(0)
    waves = [generator.standard_normal(n).astype(np.float32) for n in (9000, 2000, 12000, 100, 5000)]
    pieces = ([wave[i : i + 1700] for i in range(0, len(wave), 1700)] for wave in waves)
    np.testing.assert_allclose(np.concatenate(list(fade_pieces(pieces, 24000))), cross_fade(waves, 24000), atol=1e-5)


def test_callbacks_see_each_cycle_change_codes_and_end_them(pipe):
    seen = []

    def note(pipeline, i, t, tensors):
        seen.append((i, pipeline.num_timesteps, int((tensors["codes"] == 16).sum())))
        return tensors

    pipe("yes", num_inference_steps=3, callback_on_step_end=note)
    assert [i for i, _, _ in seen] == [0, 1, 2] and {n for _, n, _ in seen} == {3}
    assert seen[0][2] > seen[1][2] > seen[2][2] == 0

    def end(pipeline, i, t, tensors):
        pipeline._interrupt = True
        return {"codes": torch.zeros_like(tensors["codes"]).masked_fill(tensors["codes"] == 16, 16)}

    codes = pipe("yes", num_inference_steps=3, callback_on_step_end=end, output_type="codes").audios[0]
    assert codes.max() < 16 and pipe.interrupt


def test_texts_end_early_where_the_halt_head_says_so_and_not_by_default(vocab_file):
    pipe, seen = tiny_trm.pipeline(vocab_file), []

    def note(pipeline, i, t, tensors):
        seen.append(i)
        return tensors

    options = {"num_inference_steps": 4, "callback_on_step_end": note, "output_type": "codes"}
    # Untrained it says no: its bias is -5.
    pipe("yes", halt_threshold=0.5, **options)
    assert seen == [0, 1, 2, 3]
    with torch.no_grad():
        pipe.model.halt_proj.bias.fill_(5.0)
    seen.clear()
    codes = pipe("yes", halt_threshold=0.5, **options).audios[0]
    assert seen == [0] and codes.max() < 16
    pipe("yes", **options)
    assert seen == [0, 0, 1, 2, 3]


def test_what_is_saved_says_the_same_and_is_found_by_plain_libraries(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(again) is TRMPipeline and again.speakers == ["ann", "bob"]
    again.set_progress_bar_config(disable=True)
    for text in ("yes", "no"):
        one, other = (p(text, generator=seeded(), output_type="codes").audios[0] for p in (pipe, again))
        assert torch.equal(one, other)
    assert type(AutoModel.from_pretrained(tmp_path, subfolder="model")) is TRMModel
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".py")]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"| Network | {pipe.model.num_parameters():,} parameters" in card
    assert "3 codebooks of 16 entries" in card and "| Voices | ann, bob |" in card and str(tmp_path) not in card
    assert check_card(str(fill_card(pipe, "org/trm"))) == ([], [])


def test_it_goes_to_the_hub_and_back(pipe, tmp_path):
    from dtm_hf.commands.models import pipeline_kind

    with hub_of_this_process(tmp_path / "hub"):
        pipe.push_to_hub("org/trm")
        again = TRMPipeline.from_pretrained("org/trm")
        assert pipeline_kind("org/trm") == "TRMPipeline" and pipeline_kind("org/absent") == "DTMPipeline"
    again.set_progress_bar_config(disable=True)
    one, other = (p("yes", generator=seeded(), output_type="codes").audios[0] for p in (pipe, again))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"voice": "eve"}, ValueError, r"`voice` must be one of \['ann', 'bob'\] or a number below 2, but got 'eve'"),
        ({"voice": 2}, ValueError, "but got 2"),
        ({"voice": -1}, ValueError, "but got -1"),
        ({"voice": 1.5}, TypeError, "`voice` must be a name or a number"),
        ({"voice": ["ann", "bob"]}, ValueError, "`voice` must be single or have one entry for each of 1 texts"),
        ({"reference_audio": "a.wav"}, ValueError, "must be given together"),
        ({"decoding": "guess"}, ValueError, "`decoding` must be one of"),
        ({"halt_threshold": 1.5}, ValueError, "`halt_threshold` must"),
        ({"halt_threshold": "yes"}, TypeError, "`halt_threshold` must"),
        ({"temperature": -1}, ValueError, "`temperature` must be at least 0"),
        ({"num_inference_steps": 0}, ValueError, "`num_inference_steps` must"),
        ({"output_type": "mel"}, ValueError, "`output_type` must be one of"),
        ({"duration_s": 100}, ValueError, "the model speaks at most 3.2 s and 60 characters at once"),
        ({"callback_on_step_end": 3}, TypeError, "`callback_on_step_end` must be a function"),
        ({"max_batch_frames": 0}, ValueError, "`max_batch_frames` must be"),
        ({"generator": 3}, TypeError, "`generator` must be a torch.Generator"),
    ],
)
def test_what_cannot_be_spoken_is_refused_by_name(pipe, options, error, told):
    with pytest.raises(error, match=told):
        pipe("yes", **options)


@pytest.mark.parametrize("text", ["", [], 3, "...", ["yes", ""]])
def test_texts_that_say_nothing_are_refused(pipe, text):
    with pytest.raises((TypeError, ValueError), match="`text` must"):
        pipe(text)


def test_what_the_vocabulary_lacks_is_told(pipe, caplog):
    with caplog.at_level(logging.WARNING):
        output = pipe("yes ☃")
    assert output.unspoken == [["☃"]] and "☃" in caplog.text


def test_parts_that_do_not_fit_are_refused(pipe, vocab_file, tmp_path):
    def build(**parts):
        return TRMPipeline(**dict(pipe.components) | parts)

    (tmp_path / "vocab.txt").write_text(" \na\n")
    with pytest.raises(ValueError, match="`tokenizer` must have the 59 tokens .* but has 2"):
        build(tokenizer=F5Tokenizer(tmp_path / "vocab.txt"))
    with pytest.raises(ValueError, match="`codec` must have the 5 codebooks of 16 entries .* but has 4 of 16"):
        build(model=tiny_trm.model(vocab_size=60, codebook_size=16, num_codebooks=5))
    codec = tiny_codec()
    codec.config.sampling_rate = 16000
    with pytest.raises(ValueError, match="24000 Hz, but is for 16000 Hz"):
        build(codec=codec)


def test_the_folder_of_another_pipeline_is_refused(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`model` is missing"):
        TRMPipeline.from_pretrained(tmp_path)

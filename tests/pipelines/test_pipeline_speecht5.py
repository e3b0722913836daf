"""`SpeechT5Pipeline`: what it says, in whose voice, and what it refuses."""

import numpy as np
import pytest
import torch
from hub_server import hub_of_this_process
from safetensors.torch import load_file
from tiny_speecht5 import tiny_hifigan, tiny_speecht5, tiny_speecht5_pipeline
from transformers import SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5Tokenizer

from dtm_hf import GriffinLimVocoder, SpeakerTable, SpeechT5Pipeline

TEXT = "Hello there."
# Nothing of random weights says when it is done.
SETTINGS = {"threshold": 2.0, "max_ratio": 4.0}


@pytest.fixture(scope="module")
def pipeline(tokenizer):
    return tiny_speecht5_pipeline(tokenizer)


def speak(pipeline, text=TEXT, seed=0, **options):
    return pipeline(text, generator=torch.Generator().manual_seed(seed), **SETTINGS | options)


def test_speech_is_as_long_as_its_frames_and_fixed_by_the_seed(pipeline):
    output = speak(pipeline)
    tokens = len(TEXT) + 1
    assert output.sampling_rate == 16000 and output.audios[0].dtype == np.float32
    assert output.audios[0].shape == (tokens * 4 * 256,)
    np.testing.assert_array_equal(output.audios[0], speak(pipeline).audios[0])
    mel, other = (speak(pipeline, seed=seed, output_type="mel").audios[0] for seed in (0, 1))
    assert mel.shape == (tokens * 4, 80) and (mel - other).abs().max() > 1e-3


def test_a_text_is_beside_others_what_it_is_alone(pipeline):
    texts = [TEXT, "Good morning to you all.", "Hi."]

    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = pipeline(texts, ["ann", "bob", "ann"], generator=generators(0, 1, 2), **SETTINGS).audios
    for index, (text, voice) in enumerate(zip(texts, ["ann", "bob", "ann"], strict=True)):
        (alone,) = pipeline(text, voice, generator=generators(index), **SETTINGS).audios
        assert np.abs(together[index] - alone).max() < 1e-5


def test_text_that_is_too_long_is_cut_and_joined(pipeline):
    text = "Good morning to you. " * 12
    rows = pipeline.prepare(text)
    assert len(rows) > 2 and all(len(row.ids) <= 120 for row in rows)
    # Nothing is lost and nothing said twice.
    assert " ".join(row.text for row in rows).split() == text.split()
    audio = speak(pipeline, text, max_ratio=2.0).audios[0]
    frames = sum(2 * len(row.ids) for row in rows)
    assert len(audio) == frames * 256 - (len(rows) - 1) * int(0.15 * 16000)


def test_a_word_longer_than_the_positions_is_refused_before_anything_runs(tokenizer):
    model = tiny_speecht5(vocab_size=tokenizer.vocab_size + 3, max_text_positions=20)
    pipeline = tiny_speecht5_pipeline(tokenizer, model=model)
    with pytest.raises(ValueError, match="`text` .* cannot be cut into parts of at most the 20 tokens"):
        pipeline.prepare("hello " + 40 * "a")


def test_speakers_by_name_vector_and_file(pipeline, tmp_path):
    vector = pipeline.speakers.vectors["bob"]
    np.save(tmp_path / "bob.npy", vector[None].numpy())
    expected = speak(pipeline, speaker="bob", output_type="mel").audios[0]
    assert (expected - speak(pipeline, output_type="mel").audios[0]).abs().max() > 1e-3
    for speaker in (vector, vector.numpy(), str(tmp_path / "bob.npy"), 3 * vector):
        found = speak(pipeline, speaker=speaker, output_type="mel").audios[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_recording_is_embedded_where_it_is_known_how(tokenizer, reference_audio, monkeypatch):
    heard = []

    class Encoder:
        # The network itself, whose import takes half a minute, is tried in tests/evaluation/test_metrics_voice.py.
        def __call__(self, waveform):
            heard.append(len(waveform) / 16000)
            return np.ones(16, dtype=np.float32)

    monkeypatch.setattr("dtm_hf.pipelines.speecht5_rows.VoiceEncoder", Encoder)
    table = SpeakerTable({"one": torch.arange(16.0)}, encoder="resemblyzer")
    pipeline = tiny_speecht5_pipeline(tokenizer, speakers=table)
    (row,) = pipeline.prepare(TEXT, reference_audio=str(reference_audio))
    assert row.speaker.tolist() == [1.0] * 16 and heard == [pytest.approx(1.2, abs=0.05)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": ""}, ValueError, "`text`"),
        ({"text": 3}, TypeError, "`text`"),
        ({"speaker": "eve"}, ValueError, r"`speaker` must be one of \['ann', 'bob'\]"),
        ({"speaker": torch.ones(15)}, ValueError, "16 numbers that the model was trained with, but has 15"),
        ({"speaker": torch.full((16,), torch.nan)}, ValueError, "finite"),
        ({"speaker": "nothing.npy"}, FileNotFoundError, "nothing.npy"),
        ({"speaker": ["ann", "bob"]}, ValueError, "one entry for each of 1 texts"),
        ({"reference_audio": "voice.wav"}, ValueError, "`reference_audio` cannot be used"),
        ({"speaker": "ann", "reference_audio": "voice.wav"}, ValueError, "exclude each other"),
        ({"threshold": 3.0}, ValueError, "`threshold`"),
        ({"max_ratio": 0}, ValueError, "`max_ratio`"),
        ({"min_ratio": 30.0}, ValueError, "`min_ratio`"),
        ({"batch_size": 0}, ValueError, "`batch_size`"),
        ({"generator": 3}, TypeError, "`generator`"),
        ({"output_type": "wav"}, ValueError, "`output_type`"),
    ],
)
def test_what_cannot_be_spoken_is_refused(pipeline, monkeypatch, arguments, error, message):
    monkeypatch.setattr(pipeline.model, "forward", None)
    with pytest.raises(error, match=message):
        pipeline(**{"text": TEXT} | arguments)


def test_parts_that_do_not_fit_are_refused(tokenizer):
    for parts, message in (
        ({"model": tiny_speecht5(vocab_size=30)}, "`tokenizer` must have the 30 tokens"),
        ({"vocoder": GriffinLimVocoder(num_iters=1)}, "`vocoder` must take the 80 mel bins"),
        ({"speakers": SpeakerTable({"a": torch.ones(7)})}, "`speakers` must be embeddings of the 16 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_speecht5_pipeline(tokenizer, **parts)


def test_mels_of_ours_are_heard_through_our_vocoder(tokenizer):
    model = tiny_speecht5(vocab_size=tokenizer.vocab_size + 3, num_mel_bins=100)
    pipeline = tiny_speecht5_pipeline(tokenizer, model=model, vocoder=GriffinLimVocoder(num_iters=1))
    output = speak(pipeline)
    assert output.sampling_rate == 24000 and np.isfinite(output.audios[0]).all()


def test_it_is_saved_pushed_and_pulled(pipeline, tmp_path):
    with hub_of_this_process(tmp_path / "hub"):
        pipeline.push_to_hub("org/speecht5")
        pulled = SpeechT5Pipeline.from_pretrained("org/speecht5", cache_dir=tmp_path / "cache")
    assert type(pulled.model) is SpeechT5ForTextToSpeech and type(pulled.vocoder) is SpeechT5HifiGan
    np.testing.assert_allclose(speak(pulled).audios[0], speak(pipeline).audios[0], rtol=0, atol=1e-6)


def test_a_checkpoint_of_transformers_is_a_pipeline(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the train leaves at nine.\nhello there, good morning to you all!\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "spm_char"), model_type="char", vocab_size=26, bos_id=0,
        pad_id=1, eos_id=2, unk_id=3, minloglevel=2,
    )  # fmt: skip
    tokenizer = SpeechT5Tokenizer(str(tmp_path / "spm_char.model"))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (1, 2)
    tiny_speecht5(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "tts")
    tokenizer.save_pretrained(tmp_path / "tts")
    tiny_hifigan().save_pretrained(tmp_path / "gan")
    # As the official one is: what `torch.save` wrote.
    torch.save(load_file(tmp_path / "tts/model.safetensors"), tmp_path / "tts/pytorch_model.bin")
    (tmp_path / "tts/model.safetensors").unlink()
    pipeline = SpeechT5Pipeline.from_pretrained(tmp_path / "tts", vocoder=tmp_path / "gan")
    output = speak(pipeline, "good morning to you ~ all!", speaker=torch.ones(16))
    assert output.unspoken == [["~"]] and np.isfinite(output.audios[0]).all()
    pipeline.save_pretrained(tmp_path / "pipeline")
    again = SpeechT5Pipeline.from_pretrained(tmp_path / "pipeline")
    said = speak(again, "good morning to you ~ all!", speaker=torch.ones(16))
    np.testing.assert_allclose(said.audios[0], output.audios[0], rtol=0, atol=1e-6)


def test_whether_a_text_was_ended_by_the_model(pipeline):
    assert speak(pipeline).stopped == [False]
    # A threshold of nothing ends all at their first step; the least that they may last is none of it.
    texts = [TEXT, "Good morning to you. " * 12]
    assert speak(pipeline, texts, threshold=0.0).stopped == [True, True]
    rows, heard = pipeline.prepare(texts), []
    pipeline.sample(rows, **SETTINGS, callback_on_row_end=lambda row, said: heard.append((row.text_index, said)))
    assert sorted(heard) == [(row.text_index, False) for row in rows]
    # One chunk that goes on for as long as it may is enough.
    said = iter([True, *[True] * (len(rows) - 2), False])
    pipeline.sample, sample = (
        lambda rows, *args: [args[-1](row, next(said)) or torch.zeros(4, 80) for row in rows],
        pipeline.sample,
    )
    try:
        assert speak(pipeline, texts, output_type="mel").stopped == [True, False]
    finally:
        pipeline.sample = sample

"""Errors of words and characters, and a recogniser that hears the words of a small vocabulary."""

import pytest
from spoken import clip, item, noisy, silence, spoken

from dtm_hf.evaluation.metrics.words import ParaformerRecognizer, WhisperRecognizer, WordErrorRate, units
from dtm_hf.evaluation.recognition import VocabularyRecognizer

VOCABULARY = (
    "at call february five is january me meet monday past quarter seven six thursday to today tuesday two".split()
)


@pytest.fixture(scope="module")
def recognizer():
    return VocabularyRecognizer(VOCABULARY)


class Echo:
    def __init__(self, text):
        self.text = text

    def transcribe(self, waveform, sampling_rate):
        return self.text


def errors(heard, text, language="en"):
    return WordErrorRate(Echo(heard))(spoken(silence(0.1)), item(text=text, language=language))


@pytest.mark.parametrize(
    ("heard", "figures"),
    [
        ("meet me at seven", (0, 4)),
        ("Meet me, at SEVEN!", (0, 4)),
        ("meet me at six", (1, 4)),
        ("meet at seven", (1, 4)),
        ("meet me me at seven", (1, 4)),
        ("", (4, 4)),
        ("a b c d e f", (6, 4)),
    ],
)
def test_errors_are_substitutions_deletions_and_insertions(heard, figures):
    assert errors(heard, "Meet me at seven.") == figures


def test_chinese_is_counted_in_characters_without_punctuation():
    assert errors("我打破了一个盘子", "我打破了一个盘子。", "zh") == (0, 8)
    assert errors("我打破 一个杯子！", "我，打破了一个盘子。", "zh-CN") == (2, 8)


def test_marks_are_dropped_as_in_the_published_tables():
    assert units("Don't — “twenty-one”, ¥5!", "en") == ["dont", "twentyone", "5"]
    assert units("《你》好　OK？", "zh") == ["你", "好", "O", "K"]


def test_a_text_without_words_has_no_figure():
    assert errors("something", "...") is None


def test_real_speech_is_heard_and_silence_is_not(recognizer):
    metric = WordErrorRate(recognizer)
    for voice in ("rms", "slt"):
        judged = item(voice)
        wrong, words = metric(spoken(judged.recording), judged)
        assert wrong / words <= 0.2
        wrong, words = metric(spoken(silence()), judged)
        assert wrong / words >= 1
        wrong, words = metric(spoken(noisy(judged.recording, 10.0)), judged)
        assert wrong / words >= 0.8
    other = metric(spoken(clip("rms")), item("slt"))
    assert other[0] / other[1] >= 0.8


def test_a_word_without_a_pronunciation_is_refused():
    with pytest.raises(ValueError, match=r"`vocabulary` must hold words with a pronunciation, but got \['blorptz'\]"):
        VocabularyRecognizer(["seven", "blorptz"])
    with pytest.raises(ValueError, match="`vocabulary`"):
        VocabularyRecognizer([])


def test_paraformer_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "funasr", None)
    monkeypatch.setitem(sys.modules, "zhconv", None)
    with pytest.raises(ImportError, match='pip install "funasr" "zhconv"'):
        ParaformerRecognizer()


def test_paraformer_hears_16_khz_and_answers_in_simplified_characters(monkeypatch):
    import sys
    from types import SimpleNamespace

    calls = []

    def generate(**arguments):
        calls.append(arguments)
        return [{"text": "盤子"}]

    monkeypatch.setitem(
        sys.modules, "funasr", SimpleNamespace(AutoModel=lambda **given: SimpleNamespace(generate=generate))
    )
    monkeypatch.setitem(
        sys.modules,
        "zhconv",
        SimpleNamespace(convert=lambda text, locale: {"zh-cn": text.replace("盤", "盘")}[locale]),
    )
    assert ParaformerRecognizer(device="cpu").transcribe(silence(1.0), 24000) == "盘子"
    assert len(calls[0]["input"]) == 16000 and calls[0]["fs"] == 16000


@pytest.fixture(scope="module")
def tiny_whisper(tmp_path_factory):
    """A random one-layer checkpoint with the files of a real one."""
    import json

    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    folder = tmp_path_factory.mktemp("whisper")
    specials = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>"]
    specials += ["<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    letters = "abcdefghij"
    vocabulary = {token: i for i, token in enumerate([*letters, *specials])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    size |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_target_positions": 16}
    end, start = vocabulary["<|endoftext|>"], vocabulary["<|startoftranscript|>"]
    ids = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    model = WhisperForConditionalGeneration(WhisperConfig(vocab_size=len(vocabulary), **size, **ids))
    model.generation_config = GenerationConfig(
        **ids,
        is_multilingual=True,
        lang_to_id={"<|en|>": vocabulary["<|en|>"]},
        task_to_id={"transcribe": vocabulary["<|transcribe|>"], "translate": vocabulary["<|translate|>"]},
        no_timestamps_token_id=vocabulary["<|notimestamps|>"],
        max_length=12,
        suppress_tokens=list(range(len(letters), len(vocabulary))),
    )
    model.save_pretrained(folder)
    return folder


def test_whisper_loads_and_answers_through_transformers(tiny_whisper):
    recognizer = WhisperRecognizer(str(tiny_whisper), device="cpu")
    heard = recognizer.transcribe(clip("slt"), 24000)
    assert heard and set(heard) <= set("abcdefghij ")

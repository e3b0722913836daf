"""What every recogniser does alike, each a row of one test, and what is particular to one."""

import re
import sys
from difflib import SequenceMatcher

import numpy as np
import pytest
from spoken import clip, noisy, silence, text

from dtm_hf.evaluation.metrics.normalization import NORMALIZATIONS
from dtm_hf.evaluation.recognizers import (
    RECOGNIZERS,
    ParaformerRecognizer,
    VocabularyRecognizer,
    WhisperRecognizer,
    load_recognizer,
)
from dtm_hf.evaluation.recognizers.vocabulary import vocabulary_of

WORDS = "at call february five is january me meet monday past quarter seven six thursday to today tuesday two one nine"


@pytest.fixture(scope="module")
def tiny_whisper(tmp_path_factory):
    """A random one-layer checkpoint with the files of a real one."""
    import json

    import torch
    from tokenizers.pre_tokenizers import ByteLevel
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
    # Every byte: faster-whisper looks up the tokens of marks that are never spoken.
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, *specials])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    size |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_target_positions": 448}
    end, start = vocabulary["<|endoftext|>"], vocabulary["<|startoftranscript|>"]
    ids = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    torch.manual_seed(0)
    # Large weights: with small ones it answers alike whatever it hears.
    size |= {"init_std": 1.0}
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


@pytest.fixture(scope="module")
def converted_whisper(tiny_whisper, tmp_path_factory):
    """The same as faster-whisper reads it."""
    from ctranslate2.converters import TransformersConverter

    folder = tmp_path_factory.mktemp("ctranslate2") / "tiny"
    files = ["tokenizer.json", "preprocessor_config.json"]
    TransformersConverter(str(tiny_whisper), copy_files=files).convert(str(folder))
    return folder


@pytest.fixture
def funasr(monkeypatch):
    """In the place of a package that no extra brings: says how long and how loud the samples are."""
    from types import SimpleNamespace

    def generate(*, input, fs, disable_pbar):
        return [{"text": f"盤{len(input) / fs:.2f} {np.abs(input).mean():.4f}"}]

    model = SimpleNamespace(generate=generate)
    monkeypatch.setitem(sys.modules, "funasr", SimpleNamespace(AutoModel=lambda **given: model))
    convert = lambda text, locale: {"zh-cn": text.replace("盤", "盘")}[locale]  # noqa: E731
    monkeypatch.setitem(sys.modules, "zhconv", SimpleNamespace(convert=convert))


@pytest.fixture(params=list(RECOGNIZERS))
def recognizer(request):
    if request.param == "whisper":
        return load_recognizer(f"whisper:{request.getfixturevalue('converted_whisper')}")
    if request.param == "paraformer-zh":
        request.getfixturevalue("funasr")
    return load_recognizer(request.param, WORDS.split())


def hard_clips(count: int = 20) -> list[np.ndarray]:
    """Clear and noisy, loud and soft: what a recogniser that adapts would be misled by."""
    rng, clips = np.random.default_rng(0), []
    for i in range(count):
        waveform = np.roll(clip(("michael", "heart")[i % 2]), rng.integers(20000)) * rng.uniform(0.05, 2)
        noise = np.random.default_rng(i).standard_normal(len(waveform)) * np.sqrt(np.mean(waveform**2))
        clips.append((waveform + rng.uniform(0.1, 1) * noise).astype(np.float32))
    return clips


def test_what_is_heard_depends_on_the_clip_alone(recognizer):
    clips = hard_clips()
    forwards = [recognizer.transcribe(waveform, 24000) for waveform in clips]
    backwards = [recognizer.transcribe(waveform, 24000) for waveform in reversed(clips)]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 1


def test_any_rate_and_type_of_samples_are_heard_and_left_alone(recognizer):
    waveform = clip("heart")
    kept = waveform.copy()
    heard = recognizer.transcribe(waveform, 24000)
    assert isinstance(heard, str)
    assert recognizer.transcribe(waveform.astype(np.float64), 24000) == heard
    assert isinstance(recognizer.transcribe(waveform[::2], 12000), str)
    np.testing.assert_array_equal(waveform, kept)
    assert isinstance(recognizer.transcribe(silence(0.5), 24000), str)


def test_a_report_can_name_it(recognizer):
    assert re.search(r"\(funasr\)|\d+\.\d+", recognizer.name)
    assert recognizer.normalization in NORMALIZATIONS
    assert recognizer.unheard("Meet me at seven!") == []


@pytest.mark.parametrize("spec", ["ears", "pocketsphinx:large", "whisper:{folder}"])
def test_what_there_is_not_is_refused(spec, tmp_path):
    with pytest.raises(ValueError, match="`(recognizer|model)`"):
        load_recognizer(spec.format(folder=tmp_path), ["seven"])


def test_a_closed_recogniser_leaves_out_the_words_that_it_cannot_hear_and_tells_them():
    recognizer = VocabularyRecognizer(["seven", "blorptz", "kubernetes"])
    assert recognizer.unheard("Seven blorptz; Kubernetes, seven at 7:15.") == [
        "blorptz",
        "kubernetes",
        "at",
        "7",
        "15",
    ]
    assert recognizer.name.endswith(", 1 words")
    for vocabulary in ([], ["blorptz"]):
        with pytest.raises(ValueError, match="`vocabulary` must hold words with a pronunciation"):
            VocabularyRecognizer(vocabulary)


def test_words_have_their_apostrophes_and_no_other_marks():
    assert vocabulary_of("Don’t — ‘he’ said, it's twenty-one o'clock.") == (
        ["don't", "he", "said", "it's", "twenty", "one", "o'clock"]
    )


def test_noise_hides_words_from_a_closed_recogniser():
    recognizer = VocabularyRecognizer(vocabulary_of(text("heart")))
    said = vocabulary_of(text("heart"))
    assert _share_heard(recognizer.transcribe(clip("heart"), 24000), said) > 0.8
    assert _share_heard(recognizer.transcribe(noisy(clip("heart"), 10.0), 24000), said) < 0.5


def _share_heard(heard: str, said: list[str]) -> float:
    return SequenceMatcher(None, heard.split(), said, autojunk=False).ratio()


def test_whisper_knows_what_it_is(converted_whisper):
    recognizer = WhisperRecognizer(str(converted_whisper), device="cpu", threads=1)
    assert recognizer.name.startswith("whisper tiny (faster-whisper ") and "int8" in recognizer.name
    heard = recognizer.transcribe(clip("heart"), 24000)
    assert heard
    long = np.tile(clip("heart"), 20)
    assert len(long) > 30 * 24000 and len(recognizer.transcribe(long, 24000)) > len(heard)


def test_paraformer_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "funasr", None)
    monkeypatch.setitem(sys.modules, "zhconv", None)
    with pytest.raises(ImportError, match='pip install "funasr" "zhconv"'):
        ParaformerRecognizer()


def test_paraformer_hears_16_khz_and_answers_in_simplified_characters(monkeypatch):
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

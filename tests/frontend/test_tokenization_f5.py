import importlib.util
import random
from pathlib import Path

import pytest
import torch

from dtm_hf.f5_import import import_f5
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer

VOCAB = Path(importlib.util.find_spec("f5_tts").submodule_search_locations[0]) / "infer" / "examples" / "vocab.txt"

SENTENCES = [
    "The birch canoe slid on the smooth planks.",
    "It's 3.14, isn't it? Can't say; \"perhaps\" ‘not’ “yet”…",
    "U.S. exports rose 50% (a-b test, e+5) to $5.00 -- C++ and c# beat xAT&Ty.",
    "foo_bar well-known state-of-the-art 1.2.3 12.34.56% 50%a .5 5. ...--- #1 a@b.com http://x.y/z?q=1&b=2",
    "tab\there\nnew line\r\nand\rmore  spaces ",
    "A naïve café costs £5 — or €6 – in Zürich… 😀👍🏽 done ™ ½ Ω привет שלום สวัสดี",
    "abc++ C## C+++ AT&TAT&T 5%% --5 : \"word\" 'word' :word ;word",
    "",
    " ",
]
CHINESE = [
    "你好，世界！Hello world，今天是2024年1月1日。",
    "我爱C++和AT&T，还有T恤。3D打印50%。",
    "长江长大了 行长行不行 ABC座 café 你好",
    "こんにちは 안녕하세요 ｆｕｌｌ　width 〇 ㄅㄆ 𠮶",
]


@pytest.fixture(scope="module")
def f5():
    return import_f5("f5_tts.model.utils")


@pytest.fixture(scope="module")
def tokenizer():
    return F5Tokenizer(VOCAB)


@pytest.mark.parametrize("text", SENTENCES + CHINESE)
def test_tokens_equal_f5(f5, tokenizer, text):
    assert tokenizer.tokenize(text) == f5.convert_char_to_pinyin([text])[0]


def test_ascii_fuzz_equals_f5(f5, tokenizer):
    rng = random.Random(0)
    hard = "abCcATT&+#._%-019 \t\r\n;:'\"$!?/xyz\x00\x1c~\\"
    every = "".join(map(chr, range(128)))
    for index in range(20_000):
        alphabet = hard if index % 2 else every
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 24)))
        assert tokenizer.tokenize(text) == f5.convert_char_to_pinyin([text])[0], repr(text)


def test_mixed_fuzz_equals_f5(f5, tokenizer):
    rng = random.Random(1)
    alphabet = "abcC+#AT&%._- 019'\";:“”‘’—…éßЖ€😀你好长行了，。！　ａこ안"
    for _ in range(3_000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 20)))
        assert tokenizer.tokenize(text) == f5.convert_char_to_pinyin([text])[0], repr(text)


def test_every_character_read_without_f5_equals_f5(f5, tokenizer):
    for code in [*range(0x80, 0x2E80), *range(0x10000, 0x20000)]:
        text = f"ab{chr(code)}cd {chr(code)}{chr(code)} 12{chr(code)}"
        assert tokenizer.tokenize(text) == f5.convert_char_to_pinyin([text])[0], hex(code)


def test_ids_equal_f5(f5, tokenizer):
    vocab, size = f5.get_tokenizer(str(VOCAB), "custom")
    texts = [text for text in SENTENCES + CHINESE if text]
    expected = f5.list_str_to_idx(f5.convert_char_to_pinyin(texts), vocab)
    ids = tokenizer(texts)
    assert ids.dtype == torch.long and torch.equal(ids, expected)
    assert tokenizer.vocab_size == size == 2545
    assert (ids == -1).any()


def test_one_text_is_a_batch_of_one_and_empty_text_is_all_padding(tokenizer):
    assert torch.equal(tokenizer("Hi."), tokenizer(["Hi."]))
    assert tokenizer(["Hi.", ""]).tolist()[1] == [-1, -1, -1]
    assert tokenizer([""]).dtype == torch.long


def test_unknown_characters(tokenizer):
    assert tokenizer.unknown_characters("a\x00b\x01\x00 ok") == ["\x00", "\x01"]
    assert tokenizer("\x00").tolist() == [[0]]
    assert tokenizer.unknown_characters("Plain English.") == []


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "pipeline" / "tokenizer")
    assert [path.name for path in (tmp_path / "pipeline" / "tokenizer").iterdir()] == ["vocab.txt"]
    assert (tmp_path / "pipeline" / "tokenizer" / "vocab.txt").read_bytes() == VOCAB.read_bytes()
    for loaded in (
        F5Tokenizer.from_pretrained(tmp_path / "pipeline" / "tokenizer"),
        F5Tokenizer.from_pretrained(str(tmp_path / "pipeline"), subfolder="tokenizer", local_files_only=True),
    ):
        assert loaded.get_vocab() == tokenizer.get_vocab()


def test_bad_input(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="`text`.*empty list"):
        tokenizer([])
    with pytest.raises(TypeError, match="`text`.*int"):
        tokenizer([3])
    with pytest.raises(ValueError, match="`return_tensors`.*'np'"):
        tokenizer("a", return_tensors="np")
    with pytest.raises(OSError, match="vocab.txt"):
        F5Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="`vocab_file`.*space.*'a'"):
        F5Tokenizer.from_pretrained(tmp_path)

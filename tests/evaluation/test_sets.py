"""Sets of sentences, from small files of every accepted form."""

import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from tiny import SAMPLING_RATE, voice

from dtm_hf.evaluation.sets import load_set

HEADER = "reference_audio,reference_text,text,recording\n"


def write_audio(path, seconds=1.5, pitch=120.0, rate=SAMPLING_RATE, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = voice(seconds * rate / SAMPLING_RATE, pitch)
    soundfile.write(path, np.stack([samples] * channels, axis=1), rate)
    return path


@pytest.fixture
def folder(tmp_path):
    """Holds audio/a.wav and audio/b.wav; a list goes beside them."""
    write_audio(tmp_path / "lists" / "audio" / "a.wav")
    write_audio(tmp_path / "lists" / "audio" / "b.wav", pitch=200)
    return tmp_path / "lists"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_bad_list_is_refused_without_waiting_for_torch():
    code = "import sys, dtm_hf.evaluation.sets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Texts alone


def test_the_typed_list_is_a_hundred_lines_in_the_voices_that_are_given(folder):
    prompts = [(folder / "audio" / "a.wav", "Said, and done."), (folder / "audio" / "b.wav", "Other words.")]
    loaded = load_set("typed", prompts=prompts)
    assert (loaded.name, loaded.recognizer, loaded.normalization) == ("typed", "whisper:base", None)
    assert {"hello", "isn't", "shells"} <= set(loaded.vocabulary)
    assert len(loaded.items) == len({item.text.lower() for item in loaded.items}) == 100
    kinds = [item.kind for item in loaded.items]
    assert {kind: kinds.count(kind) for kind in ("tongue twister", "long", "word")} == (
        {"tongue twister": 1, "long": 3, "word": 5}
    )
    assert set(kinds) >= {"greeting", "question", "number", "time", "address", "name"}
    assert [item.reference_text for item in loaded.items[:3]] == ["Said, and done.", "Other words.", "Said, and done."]
    assert all(item.recording is None for item in loaded.items)


def test_no_typed_line_is_a_phrase_that_corpora_are_made_of(folder):
    from dtm_hf.training.corpus.phrases import FIXED

    typed = {item.text for item in load_set("typed", prompts=[(folder / "audio" / "a.wav", "Said.")]).items}
    assert not typed & set(FIXED)


def test_a_list_of_texts_may_name_kinds(folder):
    path = write(folder / "mine.txt", "Say this.|calm\n\nAnd that!\nAnd this? | asked\n")
    loaded = load_set(path, prompts=[(folder / "audio" / "a.wav", "Said.")])
    assert [(item.id, item.text, item.kind) for item in loaded.items] == [
        ("mine-0001", "Say this.", "calm"),
        ("mine-0003", "And that!", None),
        ("mine-0004", "And this?", "asked"),
    ]
    with pytest.raises(ValueError, match="`prompts` must hold a recording"):
        load_set(path)
    with pytest.raises(ValueError, match="not an existing file"):
        load_set(str(folder / "absent.txt"), prompts=[(folder / "audio" / "a.wav", "Said.")])
    with pytest.raises(ValueError, match=r"bad.txt:1: must have 1 or 2 fields"):
        load_set(write(folder / "bad.txt", "a|b|c\n"), prompts=[(folder / "audio" / "a.wav", "Said.")])


# A list of one's own


def test_a_column_may_name_the_kind(folder):
    path = write(
        folder / "kinds.csv",
        "reference_audio,reference_text,text,kind\naudio/a.wav,Said.,Now say this.,calm\naudio/b.wav,Other.,Say.,\n",
    )
    assert [item.kind for item in load_set(path).items] == ["calm", None]


def test_csv(folder):
    path = write(
        folder / "mine.csv",
        HEADER
        + 'audio/a.wav,"Said, and done.",Now say this.,audio/b.wav\n\naudio/b.wav,Other words.,"Say ""that"".",\n',
    )
    loaded = load_set(path)
    first, second = loaded.items
    assert (loaded.name, loaded.sampling_rate, loaded.language) == ("mine.csv", SAMPLING_RATE, "en")
    assert (loaded.recognizer, loaded.speaker_model) == ("pocketsphinx", "resemblyzer")
    assert loaded.vocabulary == ["now", "say", "that", "this"]
    assert (first.text, first.reference_text, second.text) == ("Now say this.", "Said, and done.", 'Say "that".')
    # The line that an error would name.
    assert [item.id for item in loaded.items] == ["mine-0002", "mine-0004"]
    expected, _ = soundfile.read(folder / "audio" / "a.wav", dtype="float32")
    np.testing.assert_array_equal(first.reference_audio, expected)
    assert first.recording is not None and second.recording is None


def test_tsv_takes_quotation_marks_as_they_are(folder):
    path = write(
        folder / "mine.tsv", 'text\treference_text\treference_audio\tid\n"Yes, he said.\tWords.\taudio/a.wav\tx\n'
    )
    (item,) = load_set(path).items
    assert (item.text, item.id) == ('"Yes, he said.', "x")


def test_jsonl_and_language(folder):
    rows = [
        {"reference_audio": "audio/a.wav", "reference_text": "说", "text": "你好", "language": "zh", "recording": None}
    ]
    path = write(folder / "mine.jsonl", "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    loaded = load_set(path)
    assert (loaded.language, loaded.recognizer, loaded.vocabulary) == ("zh", "paraformer-zh", None)
    assert (loaded.items[0].text, loaded.items[0].language) == ("你好", "zh")
    rows.append(rows[0] | {"language": "en"})
    write(folder / "mine.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="`language` must be the same in all lines, but got en, zh"):
        load_set(path)


def test_other_rates_and_channels_are_converted(folder):
    write_audio(folder / "audio" / "stereo.wav", rate=16000, channels=2)
    path = write(folder / "mine.csv", HEADER + "audio/stereo.wav,Said.,Say this.,audio/a.wav\n")
    (item,) = load_set(path).items
    assert item.reference_audio.shape == (round(1.5 * SAMPLING_RATE),) and item.reference_audio.dtype == np.float32
    # The same tones were written at a lower rate, so they come back lower.
    spectrum = np.abs(np.fft.rfft(item.reference_audio))
    assert np.argmax(spectrum) / 1.5 == pytest.approx(120 * 16000 / SAMPLING_RATE, abs=2)


def test_limit_reads_no_further(folder):
    path = write(folder / "mine.csv", HEADER + "audio/a.wav,Said.,Say this.,\nmissing.wav,Said.,Say that.,\n")
    assert len(load_set(path, limit=1).items) == 1
    with pytest.raises(ValueError, match="mine.csv:3: `reference_audio` .*missing.wav' is not an existing file"):
        load_set(path)
    with pytest.raises(ValueError, match="`limit` must be at least 1, but got 0"):
        load_set(path, limit=0)


@pytest.mark.parametrize(
    ("suffix", "text", "told"),
    [
        ("csv", "reference_audio,text\n", "mine.csv:1: columns must be .* but got"),
        ("csv", HEADER.replace("recording", "recordings"), "mine.csv:1: columns must be .*'recordings'"),
        ("csv", HEADER.replace("recording", "text"), "mine.csv:1: columns must be"),
        ("csv", HEADER, "holds no sentence"),
        ("csv", HEADER + "audio/a.wav,Said.,Say this.\n", "mine.csv:2: must have 4 fields, but got 3"),
        ("csv", HEADER + 'audio/a.wav,"Said.,Say this.,\n', "mine.csv:2: cannot be read: unexpected end"),
        ("csv", HEADER + "\naudio/a.wav,Said., ,\n", "mine.csv:3: `text` is empty"),
        ("csv", HEADER + "audio/a.wav,Said.,Say.,nothing.wav\n", "mine.csv:2: `recording` .* is not an existing file"),
        ("csv", HEADER + "../other.wav,Said.,Say.,\n", r"mine.csv:2: `reference_audio` '../other.wav' lies outside"),
        ("csv", HEADER + "audio/a.wav,Said.,Say.,/etc/hosts\n", "mine.csv:2: `recording` '/etc/hosts' lies outside"),
        ("csv", HEADER + "link.wav,Said.,Say.,\n", "mine.csv:2: `reference_audio` 'link.wav' lies outside"),
        ("csv", HEADER + "mine.csv,Said.,Say.,\n", "mine.csv:2: `reference_audio` .* cannot be read as audio"),
        ("csv", HEADER + "short.wav,Said.,Say.,\n", "mine.csv:2: .* is 0.050 s long; at least 0.1 s"),
        ("csv", HEADER + "silent.wav,Said.,Say.,\n", "mine.csv:2: .* is silent"),
        ("csv", HEADER + "nan.wav,Said.,Say.,\n", "mine.csv:2: .* holds NaN"),
        ("jsonl", "{}\n", "mine.jsonl:1: columns must be"),
        ("jsonl", "[1]\n", r"mine.jsonl:1: must be an object, but got \[1\]"),
        ("jsonl", "\n{\n", "mine.jsonl:2: is not JSON"),
        (
            "jsonl",
            '{"reference_audio": "audio/a.wav", "reference_text": 3, "text": "x"}\n',
            "mine.jsonl:1: `reference_text` must be a string, but got 3",
        ),
        (
            "tsv",
            "reference_audio\treference_text\ttext\tid\n" + "audio/a.wav\tx\ty\tsame\n" * 2,
            "mine.tsv:3: `id` 'same'",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(folder, suffix, text, told):
    outside = write_audio(folder.parent / "other.wav")
    (folder / "link.wav").symlink_to(outside)
    write_audio(folder / "short.wav", seconds=0.05)
    soundfile.write(folder / "silent.wav", np.zeros(SAMPLING_RATE), SAMPLING_RATE)
    soundfile.write(folder / "nan.wav", np.full(SAMPLING_RATE, np.nan), SAMPLING_RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=told):
        load_set(write(folder / f"mine.{suffix}", text))


def test_a_list_that_is_not_utf8(folder):
    (folder / "mine.csv").write_bytes(HEADER.encode() + b"audio/a.wav,Said \xff,Say.,\n")
    with pytest.raises(ValueError, match="mine.csv:2: is not UTF-8"):
        load_set(str(folder / "mine.csv"))


@pytest.mark.parametrize("spec", ["nothing", "seed-tts-fr:folder", "mine.docx", "seed-tts-en"])
def test_other_specs_are_refused(spec):
    with pytest.raises(ValueError, match=rf"librispeech-pc:FOLDER, but got '{spec}'"):
        load_set(spec)


# Public lists


def seed_tts_folder(root, language="en", fields=5):
    write_audio(root / language / "prompt-wavs" / "p.wav")
    for name in ("u-1", "u-2"):
        write_audio(root / language / "wavs" / f"{name}.wav", pitch=180)
    text = "".join(
        "|".join([name, "Prompt says this.", "prompt-wavs/p.wav", f"Text of {name}.", f"wavs/{name}.wav"][:fields])
        + "\n"
        for name in ("u-1", "u-2")
    )
    write(root / language / "meta.lst", text)
    return root


@pytest.mark.parametrize("fields", [4, 5])
@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize(("language", "recognizer"), [("en", "whisper:large-v3"), ("zh", "paraformer-zh")])
def test_seed_tts(tmp_path, language, recognizer, inner, fields):
    root = seed_tts_folder(tmp_path, language, fields)
    loaded = load_set(f"seed-tts-{language}:{root / language if inner else root}")
    assert (loaded.name, loaded.language) == (f"seed-tts-{language}", language)
    assert (loaded.recognizer, loaded.speaker_model, loaded.vocabulary) == (recognizer, "wavlm-large", None)
    assert [item.id for item in loaded.items] == ["u-1", "u-2"]
    item = loaded.items[1]
    assert (item.text, item.reference_text, item.language) == ("Text of u-2.", "Prompt says this.", language)
    assert item.recording is not None


def test_seed_tts_without_recordings(tmp_path):
    root = seed_tts_folder(tmp_path, fields=4)
    (root / "en" / "wavs" / "u-2.wav").unlink()
    assert [item.recording is None for item in load_set(f"seed-tts-en:{root}").items] == [False, True]
    with pytest.raises(ValueError, match=r"neither meta.lst nor zh/meta.lst"):
        load_set(f"seed-tts-zh:{root}")
    write(root / "en" / "meta.lst", "u-1|text\n")
    with pytest.raises(ValueError, match=r"meta.lst:1: must have 4 or 5 fields with \| between, but got 2"):
        load_set(f"seed-tts-en:{root}")
    write(root / "en" / "meta.lst", "u-1|text|../../p.wav|text\n")
    with pytest.raises(ValueError, match=r"meta.lst:1: `reference_audio` '../../p.wav' lies outside"):
        load_set(f"seed-tts-en:{root}")


@pytest.mark.slow
def test_f5_reads_the_same_from_the_same_list(tmp_path):
    from f5_tts.eval.utils_eval import get_librispeech_test_clean_metainfo, get_seedtts_testset_metainfo

    root = seed_tts_folder(tmp_path / "seed", fields=4)
    theirs = get_seedtts_testset_metainfo(str(root / "en" / "meta.lst"))
    check_against_f5(load_set(f"seed-tts-en:{root}"), theirs)
    root = librispeech_folder(tmp_path / "ls", "LibriSpeech/test-clean")
    theirs = get_librispeech_test_clean_metainfo(str(root / "cross.lst"), str(root / "LibriSpeech" / "test-clean"))
    check_against_f5(load_set(f"librispeech-pc:{root}"), theirs)


def check_against_f5(loaded, theirs):
    from dtm_hf.evaluation.lists import read_audio

    for item, (utterance, prompt_text, prompt, text, recording) in zip(loaded.items, theirs, strict=True):
        assert (item.id, item.reference_text, item.text) == (utterance, prompt_text, text.strip())
        for ours, path in ((item.reference_audio, prompt), (item.recording, recording)):
            with open(path, "rb") as file:
                np.testing.assert_array_equal(ours, read_audio(file, SAMPLING_RATE, ""))


def librispeech_folder(root, audio):
    for i, name in enumerate(("12-34-0000", "12-35-0001", "12-35-0002")):
        speaker, chapter, _ = name.split("-")
        write_audio(root / audio / speaker / chapter / f"{name}.flac", pitch=120 + 30 * i, rate=16000)
    lines = [
        "12-34-0000\t1.5\tPrompt says this.\t12-35-0001\t1.5\tFirst text.",
        "12-34-0000\t1.5\tPrompt says this.\t12-35-0002\t1.5\tSecond text.",
    ]
    write(root / "cross.lst", "\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("audio", ["LibriSpeech/test-clean", "test-clean", "."])
def test_librispeech_pc(tmp_path, audio):
    loaded = load_set(f"librispeech-pc:{librispeech_folder(tmp_path, audio)}")
    assert (loaded.name, loaded.recognizer, loaded.language) == ("librispeech-pc", "whisper:large-v3", "en")
    assert [(item.id, item.text) for item in loaded.items] == [
        ("12-35-0001", "First text."),
        ("12-35-0002", "Second text."),
    ]
    for item in loaded.items:
        assert item.reference_audio.shape == item.recording.shape == (round(1.5 * SAMPLING_RATE),)


def test_librispeech_pc_that_cannot_be_used(tmp_path):
    root = librispeech_folder(tmp_path, "test-clean")
    with pytest.raises(ValueError, match="'nothing' of librispeech-pc:FOLDER is not an existing folder"):
        load_set("librispeech-pc:nothing")
    write(root / "cross.lst", "12-34-0000\tPrompt\n")
    with pytest.raises(ValueError, match="cross.lst:1: must have 6 fields with tabs between, but got 2"):
        load_set(f"librispeech-pc:{root}")
    write(root / "cross.lst", "wrong\t1\tPrompt\t12-35-0001\t1\ttext\n")
    with pytest.raises(ValueError, match="cross.lst:1: `reference_audio` must read SPEAKER-CHAPTER-NUMBER"):
        load_set(f"librispeech-pc:{root}")
    write(root / "other.lst", "")
    with pytest.raises(ValueError, match="must hold one .lst file of LibriSpeech-PC, but got 2"):
        load_set(f"librispeech-pc:{root}")


# A corpus


def write_corpus(folder, rows, split="validation", vocabulary=("one", "two")):
    """Rows are (speaker, seconds); the text of each is its number."""
    table = []
    for number, (speaker, seconds) in enumerate(rows):
        buffer = io.BytesIO()
        soundfile.write(buffer, voice(seconds, pitch=100 + 10 * number), SAMPLING_RATE, format="FLAC")
        audio = {"bytes": buffer.getvalue(), "path": None}
        table.append({"id": f"r{number}", "audio": audio, "text": f"row {number}", "speaker": speaker})
    half = len(table) // 2
    for i, part in enumerate((table[:half], table[half:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{split}-{i:05d}-of-00002.parquet")
    if vocabulary is not None:
        write(folder / "corpus.json", json.dumps({"vocabulary": list(vocabulary)}))
    return str(folder)


def test_corpus_prompts_are_what_the_speaker_said_before(tmp_path):
    # Row 2 is too short for a prompt; row 3 is the first of its speaker.
    spec = write_corpus(tmp_path, [("a", 1.5), ("a", 1.4), ("a", 1.0), ("b", 1.3), ("a", 1.6), ("b", 1.3)])
    loaded = load_set(spec)
    assert (loaded.name, loaded.vocabulary) == (f"{tmp_path.name}/validation", ["one", "two"])
    assert loaded.recognizer == "pocketsphinx"
    assert [(item.id, item.text, item.reference_text) for item in loaded.items] == [
        ("r1", "row 1", "row 0"),
        ("r2", "row 2", "row 1"),
        ("r4", "row 4", "row 1"),
        ("r5", "row 5", "row 3"),
    ]
    seconds = [(len(item.recording), len(item.reference_audio)) for item in loaded.items]
    assert seconds == [(33600, 36000), (24000, 33600), (38400, 33600), (31200, 31200)]
    assert [item.id for item in load_set(spec, limit=2).items] == ["r1", "r2"]


def test_corpus_without_a_vocabulary_needs_an_open_recogniser(tmp_path):
    loaded = load_set(write_corpus(tmp_path, [("a", 1.5), ("a", 1.5)], vocabulary=None))
    assert (loaded.vocabulary, loaded.recognizer) == (None, "whisper:large-v3")


def test_corpus_that_cannot_be_used(tmp_path):
    spec = write_corpus(tmp_path, [("a", 1.5), ("b", 1.5)])
    with pytest.raises(ValueError, match="holds no test-.*parquet shards"):
        load_set(spec, split="test")
    with pytest.raises(ValueError, match="holds no sentence"):
        load_set(spec)
    write_corpus(tmp_path, [("a", 1.5), (None, 1.5)])
    with pytest.raises(ValueError, match="validation-00001-of-00002.parquet:1: has no `speaker`"):
        load_set(spec)
    write(tmp_path / "corpus.json", "{}")
    with pytest.raises(ValueError, match="corpus.json holds no `vocabulary`"):
        load_set(spec)
    pq.write_table(pa.table({"audio": [b""], "text": [""]}), tmp_path / "train-0.parquet")
    (tmp_path / "corpus.json").unlink()
    with pytest.raises(ValueError, match="train-0.parquet has no column `speaker`"):
        load_set(spec, split="train")

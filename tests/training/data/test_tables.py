"""Tables of texts as people have them: read as they are meant, or refused with the line and what would do."""

import re

import pytest
from speech_corpora import short_rows, write_audio_files

from dtm_hf.training.config.arguments import SourceArguments
from dtm_hf.training.data.rows import BadRow
from dtm_hf.training.data.sources import open_source

ROWS = short_rows(4)
TEXTS = ["Plain.", "Hello, world; again.", 'Say "no", then.', "Last"]


@pytest.fixture
def read(tmp_path):
    """Texts and files of a table, the reason and the detail where there is none; its audio lies in wavs/0.wav, ..."""
    write_audio_files(tmp_path, ROWS)

    def read(content, **arguments):
        (tmp_path / "metadata.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        source = open_source(SourceArguments(str(tmp_path), **{"speaker_column": None} | arguments), "train")
        found = []
        for index, row in source.rows(source.shards[0]):
            try:
                audio = source.content(row, "audio")
                number = next(i for i, other in enumerate(ROWS) if other["audio"]["bytes"] == audio)
                found.append((source.text(row), number))
            except BadRow as error:
                found.append((str(error), error.detail))
            assert index == len(found) - 1
        return found

    return read


GOOD = [(text, i) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("delimiter", ["|", "\t", ";", ","], ids=["bar", "tab", "semicolon", "comma"])
@pytest.mark.parametrize("header", ["file_name", "audio_file", None])
def test_delimiters_with_a_header_and_without(read, delimiter, header):
    lines = [] if header is None else [f"{header}{delimiter}text"]
    lines += [f"wavs/{i}.wav{delimiter}{text}" for i, text in enumerate(TEXTS)]
    assert read("\n".join(lines)) == GOOD
    assert read("\ufeff" + "\r\n".join([*lines, "", ""])) == GOOD


def test_a_comma_in_the_text_between_other_fields(read):
    lines = ["file_name,text,speaker", *(f"wavs/{i}.wav,{text},ann" for i, text in enumerate(TEXTS))]
    assert read("\n".join(lines)) == GOOD
    lines = ["speaker;file_name;text", *(f"ann;wavs/{i}.wav;{text}" for i, text in enumerate(TEXTS))]
    assert read("\n".join(lines)) == GOOD
    assert read('file_name,text\nwavs/0.wav,"Quoted, and ""more"""\n') == [('Quoted, and "more"', 0)]


@pytest.mark.parametrize("place", ["wavs/", ""])
def test_ljspeech(read, tmp_path, place):
    """Names without an ending, no header, and the normalised text last: it is the one that is spoken."""
    for i in range(4):
        (tmp_path / "wavs" / f"{i}.wav").rename(tmp_path / f"{place}LJ001-000{i}.wav")
    lines = [f"LJ001-000{i}|{text} 1|{text}" for i, text in enumerate(TEXTS)]
    assert read("\n".join(lines)) == GOOD
    assert read("\n".join(lines), text_column="raw_text") == [(f"{text} 1", i) for i, text in enumerate(TEXTS)]
    assert read("\n".join(line.rsplit("|", 1)[0] for line in lines)) == [
        (f"{text} 1", i) for i, text in enumerate(TEXTS)
    ]


def test_a_column_of_any_name_that_is_given(read):
    assert read("path\ttranscript\nwavs/1.wav\tYes", audio_column="path", text_column="transcript") == [("Yes", 1)]


def test_a_line_that_does_not_fit_costs_itself_and_says_what_would_do(read):
    found = read("file_name|text\n\nwavs/0.wav|one|two\nalone\nwavs/3.wav|Last\n")
    assert found[2] == ("Last", 3)
    for (reason, detail), line, fields in zip(found[:2], (3, 4), (3, 1), strict=True):
        assert reason == "malformed metadata"
        assert detail.startswith(f"line {line} has {fields} fields in the place of 2, ['file_name', 'text']")
        assert "quotation marks" in detail
    assert read(b"file_name|text\nwavs/0.wav|\xff\n")[0] == ("metadata that is not UTF-8", "line 2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name of nothing|said\n", "line 1, 'name of nothing|said', is no header.*Put a line like `file_name|text`"),
        ("wavs/0.wav|said|ann\n", "line 1, .* names a file and 2 more fields, of which any may be the text. Put"),
        ("wavs/0.wav,said,ann\n", "names a file and 2 more fields"),
        ("just some words\n", "line 1, 'just some words', is no header"),
        ("path|text\nwavs/0.wav|said\n", "no column 'audio'.*named by file_name or audio_file"),
        ("file_name|said\nwavs/0.wav|said\n", "no column 'text'.*it has"),
        ("", "metadata.csv is empty"),
        ("file_name|text\nwavs/0.wav|ü\n".encode("utf-16"), "line 1 is not UTF-8. Save the file as UTF-8"),
        ("x" * 500, f"line 1, '{'x' * 77}...', is no header"),
    ],
)
def test_a_table_that_says_nothing_is_refused_with_its_line(read, content, message):
    with pytest.raises(ValueError) as error:
        read(content)
    assert re.search(message, str(error.value)), error.value
    assert "`dataset`" in str(error.value)

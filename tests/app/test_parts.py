"""What the page's buttons do, without a browser: paragraphs, tables, recordings, and what it lets be read."""

import csv
import io
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from served import running
from tiny import SAMPLING_RATE, voice

from dtm_hf.app.paragraphs import split_paragraphs
from dtm_hf.app.tables import MAX_ROWS, MAX_TABLE_BYTES, read_table

HOW = (1, None, 0, 1.0)


def test_paragraphs_keep_their_voice_until_the_next():
    text = "Hello.\n[ben] Good\nday.\n\nYes. [anna]No. [ben]  "
    assert split_paragraphs(text, {"anna", "ben"}, "anna") == [
        ("anna", "Hello."),
        ("ben", "Good day."),
        ("ben", "Yes."),
        ("anna", "No."),
    ]


@pytest.mark.parametrize(
    ("text", "named"), [("[carl] Hi.", "'carl'"), (" [anna] ", "`text`"), ("", "`text`"), ("a\n\n" * 501, "500")]
)
def test_text_that_nobody_can_say_is_refused(text, named):
    with pytest.raises(ValueError, match=named):
        split_paragraphs(text, {"anna"}, "anna")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "column"),
        (b"voice,seed\nanna,1\n", "column .text."),
        (b"text\n", "at least one row"),
        (b"PK\x03\x04\x14\x00\xff\xfe", "UTF-8"),
        (b"text\n\0\0\0\n", "no text"),
        (b'text\n"' + b"a" * 200_000, "no CSV"),
        (b"text\n" + b"a\n" * (MAX_ROWS + 1), "at most 500 rows"),
        (b"text\n" + b"a" * MAX_TABLE_BYTES, "at most 1024 KiB"),
    ],
    ids=["empty", "columns", "rows", "zip", "nul", "quote", "many", "large"],
)
def test_a_table_that_is_none_is_refused(content, named, tmp_path):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ValueError, match=named):
        read_table(tmp_path / "table.csv")


@pytest.fixture
def folder(monkeypatch):
    from dtm_hf.app.site import page_folder

    with page_folder() as folder:
        yield folder


@pytest.fixture
def desk(speaker, voices):
    from dtm_hf.app.desk import Desk
    from dtm_hf.runtime import Batcher

    with Batcher(speaker) as batcher:
        yield Desk({"tiny": batcher}, voices, hear=lambda samples, rate: f" heard {len(samples) / rate:.0f} s ")


@pytest.fixture
def page(desk, folder):
    from dtm_hf.app.live import Streams
    from dtm_hf.app.page import Page

    return Page(desk, Streams(), None, folder)


def test_a_table_becomes_an_archive_and_bad_rows_are_listed(page, folder, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(
        "text,voice,seed,speed\nHello there.,ben,3,1.5\nHi.,carl,,\n ,anna,,\n../../etc,,x,\nYes.,,,\n",
        encoding="utf-8",
    )
    outcomes = page.speak_table("tiny", str(table), "anna", *HOW)
    assert [next(outcomes)[1] for _ in range(5)] == [f"{done} of 5 rows" for done in range(1, 6)]
    archive, told = next(outcomes)
    assert next(outcomes, None) is None
    # It stays until it has been downloaded, whenever that is.
    content = Path(archive).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        assert opened.namelist() == ["0001.wav", "0005.wav", "index.csv"]
        waves = [soundfile.read(io.BytesIO(opened.read(name)))[0] for name in opened.namelist()[:2]]
        index = list(csv.DictReader(io.StringIO(opened.read("index.csv").decode(), newline="")))
    assert all(len(wave) for wave in waves)
    assert [row["file"] for row in index] == ["0001.wav", "", "", "", "0005.wav"]
    assert [row["error"][:8] for row in index] == ["", "“Voice” ", "“text” i", "“seed” a", ""]
    assert told.startswith("2 of 5 rows spoken") and "row 2: “Voice” must be one of" in told
    assert [path for path in folder.rglob("*") if path.is_file()] == [Path(archive)]


def test_of_a_table_that_nobody_waits_for_nothing_is_left(page, folder, tmp_path):
    (tmp_path / "table.csv").write_text("text\nHello there.\nYes.\n")
    outcomes = page.speak_table("tiny", str(tmp_path / "table.csv"), "anna", *HOW)
    assert next(outcomes)[1] == "1 of 2 rows" and list(folder.rglob("speech.zip"))
    outcomes.close()
    assert list(folder.iterdir()) == []


def test_the_whole_is_the_stream_and_a_picture_comes_with_it(page, speaker, voices):
    text = "Good morning. Hello there, all of you."
    outcomes = list(page.speak("tiny", text, "anna", None, None, *HOW))
    rate, whole = outcomes[-1][1]
    generator = speaker.noise(0)
    alone = speaker.pipeline.stream(
        text, str(voices["anna"].audio), voices["anna"].text, generator=generator, num_inference_steps=1
    )
    alone = np.clip(np.concatenate(list(alone)), -1, 1)
    np.testing.assert_allclose(whole / 32767, alone, atol=1e-4)
    assert outcomes[-1][2].size[0] > 100
    assert f"{len(whole) / rate:.2f} s of speech" in outcomes[-1][3] and f"{len(outcomes[-1][3:])}" == "1"


def test_long_text_is_spoken_by_its_voices_with_pauses(page):
    outcomes = list(page.speak_long("tiny", "Hello there. [ben] Good day.", "anna", *HOW))
    rate, whole = outcomes[-1][1]
    parts = [
        list(page.speak("tiny", t, v, None, None, *HOW))[-1][1][1]
        for t, v in (("Hello there.", "anna"), ("Good day.", "ben"))
    ]
    assert len(whole) == sum(map(len, parts)) + int(0.3 * rate)
    np.testing.assert_array_equal(whole[: len(parts[0])], parts[0])
    np.testing.assert_array_equal(whole[-len(parts[1]) :], parts[1])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tiny", " ", "anna", None, None, *HOW), "“Text”"),
        (("tiny", "語", "anna", None, None, *HOW), "“Text”"),
        (("tiny", "a" * 20_001, "anna", None, None, *HOW), "at most 20000"),
        (("tiny", "Hi.", "carl", None, None, *HOW), "“Voice”"),
        (("other", "Hi.", "anna", None, None, *HOW), "model"),
        (("tiny", "Hi.", "anna", "{table}", "Hello.", *HOW), "“Recording”"),
        (("tiny", "Hi.", "anna", "{table}", " ", *HOW), "“What is said in it” must not be empty"),
        (("tiny", "Hi.", "anna", None, "Hello.", *HOW), "“Recording” is missing"),
        (("tiny", "Hi.", "anna", None, None, 65, None, 0, 1.0), "“Steps”"),
        (("tiny", "Hi.", "anna", None, None, 1, 99.0, 0, 1.0), "“Guidance”"),
        (("tiny", "Hi.", "anna", None, None, 1, None, -1, 1.0), "“Seed”"),
        (("tiny", "Hi.", "anna", None, None, 1, None, 0, 11.0), "“Speed”"),
    ],
)
def test_what_cannot_be_spoken_is_told_in_the_words_of_the_page(arguments, told, page, tmp_path):
    import gradio

    (tmp_path / "table.csv").write_text("text\n")
    arguments = [str(tmp_path / "table.csv") if each == "{table}" else each for each in arguments]
    with pytest.raises(gradio.Error, match=told):
        list(page.speak(*arguments))


def test_what_is_left_out_of_any_paragraph_is_told(page):
    text = "Hello \u8a9e there.\n\nGood \u00e6 day.\n\nYes."
    assert list(page.speak_long("tiny", text, "anna", *HOW))[-1][2].endswith("; left out: \u8a9e \u00e6.")


def test_a_number_that_is_none_is_told_on_the_page(page):
    import gradio

    with pytest.raises(gradio.Error):
        list(page.speak("tiny", "Hi.", "anna", None, None, 1, None, float("nan"), 1.0))


@pytest.fixture
def arms(speaker):
    from dtm_hf.app.arms import Arms

    return Arms(speaker.pipeline)


def test_a_long_and_quiet_recording_is_cut_with_its_text_in_every_way(arms, speaker, tmp_path):
    """As the pipeline does it: the same samples."""
    from dtm_hf.app.desk import Voice

    said = " ".join(
        f"What is said {when} takes about five seconds, as one hears in it." for when in ("once", "then", "last")
    )
    pause = np.zeros(SAMPLING_RATE // 2, np.float32)
    clauses = [voice(5.0, seed=seed) * 0.1 for seed in range(3)]
    soundfile.write(
        tmp_path / "long.wav", np.concatenate([clauses[0], pause, clauses[1], pause, clauses[2]]), SAMPLING_RATE
    )
    path = str(tmp_path / "long.wav")
    (spoken,) = arms.run(["dtm-2x1"], "Good day.", Voice(path, said), 3)
    own = speaker.pipeline(
        "Good day.", path, said, num_inference_steps=2, num_head_steps=1, generator=speaker.noise(3)
    )
    np.testing.assert_array_equal(spoken.audio, own.audios[0])


@pytest.mark.parametrize("seed", [-1, 1e20, float("nan")])
def test_a_seed_that_is_none_is_refused_by_the_ways_to_speak_as_well(seed, page, arms):
    import gradio

    page.arms = arms
    with pytest.raises(gradio.Error, match="“Seed”" if seed == seed else "NaN"):
        list(page.compare(["dtm-2x1"], "Hi.", "anna", None, None, seed))


def test_a_recording_is_heard_where_nothing_is_written(page, reference_audio):
    assert page.hear(str(reference_audio), "") == "heard 1 s"
    assert page.hear(str(reference_audio), "Written.") == "Written."
    assert page.hear(None, "") == page.hear(None, "Of one that was taken away.") == ""


def test_a_bomb_is_neither_a_table_nor_a_recording(page, folder, tmp_path):
    import gradio

    path = tmp_path / "bomb.csv"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("table.csv", bytes(2**28))
    assert path.stat().st_size < 2**20
    with pytest.raises(gradio.Error, match="must be a CSV in UTF-8"):
        list(page.speak_table("tiny", str(path), "anna", *HOW))
    with pytest.raises(gradio.Error, match="“Recording”"):
        page.hear(str(path), "")
    with pytest.raises(gradio.Error, match="“Recording”"):
        list(page.speak("tiny", "Hi.", "anna", str(path), "Hello.", *HOW))
    assert list(folder.iterdir()) == []


def test_those_who_have_the_page_open_at_once_are_sampled_together(speaker, voices, folder, monkeypatch):
    from dtm_hf.app.desk import Desk
    from dtm_hf.app.live import Streams
    from dtm_hf.app.page import Page
    from dtm_hf.runtime import Batcher

    sizes, sample = [], speaker.sample

    def counted(rows, **sampling):
        sizes.append(len(rows))
        return sample(rows, **sampling)

    monkeypatch.setattr(speaker, "sample", counted)
    with Batcher(speaker, max_rows=2, max_wait_s=60) as batcher:
        page = Page(Desk({"tiny": batcher}, voices), Streams(), None, folder)
        asked = [("tiny", text, "anna", None, None, *HOW) for text in ("Hello there.", "Good day.")]
        with ThreadPoolExecutor() as people:
            heard = list(people.map(lambda arguments: list(page.speak(*arguments))[-1][1][1], asked))
    assert sizes == [2] and len(heard[0]) != len(heard[1])


def test_those_who_come_when_too_many_wait_are_told_so(gated, voices, folder, monkeypatch):
    from dtm_hf.app.desk import Desk
    from dtm_hf.app.site import create_site
    from dtm_hf.runtime import Batcher

    # Four times as many wait.
    monkeypatch.setattr("dtm_hf.app.page._AT_ONCE", 2)
    ask = {"fn_index": 0, "session_hash": "s", "data": ["tiny", "Hi.", "anna", None, None, *HOW]}
    with Batcher(gated) as batcher, running(create_site(Desk({"tiny": batcher}, voices), None, folder, "tiny")) as url:
        with httpx.Client(base_url=url, timeout=60) as client:
            answers = [client.post("/gradio_api/queue/join", json=ask) for _ in range(2 + 8 + 3)]
            gated.let()
            codes = [answer.status_code for answer in answers]
            assert 8 <= codes.count(200) <= 2 + 8 and set(codes) == {200, 503}
            assert "full" in answers[-1].json()["detail"]


def test_nothing_but_the_pages_own_folder_can_be_read_and_uploads_are_bounded(desk, folder, reference_audio, voices):
    from dtm_hf.app.site import create_site
    from dtm_hf.app.uploads import MAX_UPLOAD_BYTES

    with running(create_site(desk, None, folder, "tiny")) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/").status_code == 200
        upload = {"files": ("voice.wav", reference_audio.read_bytes())}
        (stored,) = client.post("/gradio_api/upload", files=upload).json()
        assert os.path.realpath(stored).startswith(os.path.realpath(folder))
        assert client.get(f"/gradio_api/file={stored}").content == reference_audio.read_bytes()
        outside = ["/etc/passwd", __file__, str(reference_audio), f"{folder}/../../etc/passwd", "pyproject.toml"]
        for path in outside:
            assert client.get(f"/gradio_api/file={path}").status_code in (403, 404), path
        # A path in the place of an upload.
        answer = client.post(
            "/gradio_api/queue/join",
            json={
                "fn_index": 0,
                "session_hash": "s",
                "data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, ""],
            },
        )
        heard = client.get("/gradio_api/queue/data", params={"session_hash": "s"}).text
        assert answer.status_code == 200 and '"success":false' in heard.replace(" ", "") and "root:" not in heard
        large = {"files": ("large.wav", b"\0" * (MAX_UPLOAD_BYTES + 1))}
        assert client.post("/gradio_api/upload", files=large).status_code == 413
        assert client.get("/live/unknown.pcm").status_code == 404
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        # The upload, and an icon of the page's; nothing of what was too large.
        assert sum(sizes) < reference_audio.stat().st_size + 10_000

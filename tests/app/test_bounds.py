"""How much the page holds, and what is left of what was cut off: uploads, streams, its folder."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from served import running

from dtm_hf.app.live import Streams

MIB = 2**20


@pytest.fixture
def folder():
    from dtm_hf.app.site import page_folder

    with page_folder() as folder:
        yield folder


@pytest.fixture
def heard():
    """Of each that was heard, whether it was the only one."""
    return []


@pytest.fixture
def site(speaker, voices, folder, heard):
    """Its address; whoever asks what is said waits a little."""
    from dtm_hf.app.desk import Desk
    from dtm_hf.app.site import create_site
    from dtm_hf.runtime import Batcher

    busy = threading.Lock()

    def hear(_samples, _rate):
        alone = busy.acquire(blocking=False)
        heard.append(alone)
        time.sleep(0.5)
        if alone:
            busy.release()
        return "heard"

    with Batcher(speaker) as batcher:
        with running(create_site(Desk({"tiny": batcher}, voices, hear), None, folder, "tiny")) as url:
            yield url


def held(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def settle(condition):
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


def test_an_upload_that_is_cut_off_leaves_nothing(site, folder, caplog):
    before, address = held(folder), urlsplit(site)
    start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="voice.wav"\r\n\r\n'
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: %d\r\n\r\n" % (20 * MIB) + start
        )
        client.sendall(bytes(5 * MIB))
        time.sleep(0.5)
    time.sleep(0.5)
    assert settle(lambda: held(folder) == before)
    assert [record for record in caplog.records if record.exc_info] == []
    # What comes whole stays.
    httpx.post(f"{site}/gradio_api/upload", files={"files": ("voice.wav", bytes(2 * MIB))}).raise_for_status()
    assert held(folder) == before + 2 * MIB


def test_a_request_has_a_bound_however_many_files_it_carries(site, folder):
    before = held(folder)
    files = [("files", (f"{number}.wav", bytes(5 * MIB))) for number in range(6)]
    answer = httpx.post(f"{site}/gradio_api/upload", files=files, timeout=60)
    assert answer.status_code == 413 and "25 MiB" in answer.json()["detail"]

    def pieces():
        for _ in range(26):
            yield bytes(MIB)

    # Of a size that is not said before.
    start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    files = (piece for _ in range(6) for piece in (start, bytes(5 * MIB), b"\r\n"))
    answer = httpx.post(f"{site}/gradio_api/upload", content=files, headers=form, timeout=60)
    assert answer.status_code == 413 and "25 MiB" in answer.text
    assert httpx.post(f"{site}/gradio_api/queue/join", content=pieces(), timeout=60).status_code == 400
    assert held(folder) == before


def test_the_folder_has_a_bound(site, folder, monkeypatch):
    monkeypatch.setattr("dtm_hf.app.uploads.MAX_FOLDER_BYTES", held(folder) + 5 * MIB)
    upload = {"files": ("voice.wav", bytes(3 * MIB))}
    assert httpx.post(f"{site}/gradio_api/upload", files=upload, timeout=60).status_code == 200
    answer = httpx.post(f"{site}/gradio_api/upload", files={"files": ("other.wav", b"1" * 3 * MIB)}, timeout=60)
    assert answer.status_code == 507 and "no room" in answer.json()["detail"]


def test_an_upload_that_nobody_knows_of_goes_when_it_is_old(site, folder):
    """Gradio knows of those alone that come in its own field."""
    before = held(folder)
    assert httpx.post(f"{site}/gradio_api/upload", files={"other": ("voice.wav", bytes(2 * MIB))}).status_code == 200
    assert held(folder) == before + 2 * MIB
    (left,) = (path for path in folder.iterdir() if path.is_file())
    os.utime(left, (time.time() - 3700,) * 2)
    httpx.post(f"{site}/gradio_api/upload", files={"files": ("voice.wav", bytes(MIB + 1))}).raise_for_status()
    assert not left.exists() and held(folder) == before + MIB + 1


def test_nothing_is_spoken_into_a_full_folder(speaker, voices, folder, monkeypatch):
    import gradio

    from dtm_hf.app.desk import Desk
    from dtm_hf.app.page import Page
    from dtm_hf.runtime import Batcher

    (folder / "large").write_bytes(bytes(MIB))
    monkeypatch.setattr("dtm_hf.app.uploads.MAX_FOLDER_BYTES", MIB - 1)
    with Batcher(speaker) as batcher:
        page = Page(Desk({"tiny": batcher}, voices), Streams(), None, folder)
        with pytest.raises(gradio.Error, match="no room"):
            list(page.speak("tiny", "Hi.", "anna", None, None, 1, None, 0, 1.0))
        with pytest.raises(gradio.Error, match="no room"):
            list(page.speak_table("tiny", "table.csv", "anna", 1, None, 0, 1.0))


def test_a_recogniser_hears_one_at_a_time(site, heard, reference_audio):
    with httpx.Client(base_url=site, timeout=60) as client:
        files = {"files": ("voice.wav", reference_audio.read_bytes())}
        (stored,) = client.post("/gradio_api/upload", files=files).json()
        file = {"path": stored, "meta": {"_type": "gradio.FileData"}}
        for session in "abc":
            ask = {"fn_index": 0, "session_hash": session, "data": [file, ""]}
            assert client.post("/gradio_api/queue/join", json=ask).status_code == 200
        for session in "abc":
            assert '"heard"' in client.get("/gradio_api/queue/data", params={"session_hash": session}).text
    assert heard == [True] * 3


def _page_in_another_process(told):
    from dtm_hf.app.site import page_folder

    with page_folder() as folder:
        (folder / "upload.wav").write_bytes(b"sound")
        told.put(str(folder))
        time.sleep(600)


def test_the_folder_of_a_page_that_was_killed_goes_with_the_next_start():
    from dtm_hf.app.site import page_folder

    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    process = context.Process(target=_page_in_another_process, args=(told,))
    process.start()
    try:
        other = told.get()
        # Of one that runs it stays.
        with page_folder() as mine:
            assert os.path.isfile(f"{other}/upload.wav") and mine.stat().st_mode & 0o777 == 0o700
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert os.path.isdir(other)
        with page_folder():
            assert not os.path.exists(other)
    finally:
        process.kill()


def test_streams_are_forgotten_when_they_are_too_much_together(monkeypatch):
    monkeypatch.setattr("dtm_hf.app.live._MAX_BYTES", 5000)
    streams = Streams()
    first, second = streams.open(8000), streams.open(8000)
    first.put(np.zeros(1000, np.float32))
    second.put(np.zeros(1000, np.float32))
    assert streams.find(first.name) is first and streams.find(second.name) is second
    # While it grows, and not when the next one is opened.
    second.put(np.zeros(1000, np.float32))
    assert streams.find(first.name) is None and streams.find(second.name) is second
    # One alone is kept, however long it is.
    second.put(np.zeros(9000, np.float32))
    assert streams.find(second.name) is second
    assert b"".join(first.content() if first.end() is None else []) == bytes(2000)

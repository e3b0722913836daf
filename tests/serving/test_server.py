"""The server as its clients see it: the official `openai` client, over loopback."""

import contextlib
import io
import json
import socket
import threading
from urllib.parse import urlsplit

import httpx
import numpy as np
import openai
import pytest
import soundfile
import torch
from served import running, serving

from dtm_hf.frontend.voices import Recording
from dtm_hf.runtime import Batcher
from dtm_hf.serving.encoding import FORMATS
from dtm_hf.serving.limits import Limits
from dtm_hf.serving.listening import open_socket
from dtm_hf.serving.server import create_app

SAID = "What is said."
TEXT = "Good morning. Hello there, all of you. Yes."
FAST = {"num_inference_steps": 1, "num_head_steps": 0}


def client_of(running, key="none", **options):
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, timeout=60, max_retries=0, **options)


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as client:
        yield client


def speak(client, audio_format="wav", text=TEXT, voice="anna", model="tiny", **more):
    extra = {**FAST, **more}
    return client.audio.speech.create(
        model=model, input=text, voice=voice, response_format=audio_format, extra_body=extra
    ).content


def spoken(pipeline, recording, **more):
    generator = torch.Generator().manual_seed(more.pop("seed", 0))
    return pipeline(TEXT, recording, SAID, generator=generator, **FAST | more).audios[0]


# What is said


@pytest.mark.parametrize("audio_format", FORMATS)
def test_every_format_is_what_the_pipeline_says(audio_format, client, port_source, reference_audio):
    content = speak(client, audio_format)
    alone = spoken(port_source, reference_audio)
    if audio_format == "pcm":
        # Sentence by sentence, so of other lengths than a call.
        alone = np.concatenate(
            list(port_source.stream(TEXT, reference_audio, SAID, generator=torch.Generator().manual_seed(0), **FAST))
        )
        audio, rate = np.frombuffer(content, dtype="<i2") / 32767, 24000
    else:
        audio, rate = soundfile.read(io.BytesIO(content))
        assert soundfile.info(io.BytesIO(content)).format == FORMATS[audio_format].container
    alone = alone / max(1.0, np.abs(alone).max()) if audio_format != "pcm" else np.clip(alone, -1, 1)
    assert rate == 24000
    # Encoders that lose something pad their frames.
    assert len(alone) - 1 <= len(audio) <= len(alone) + 4096
    if audio_format in ("wav", "flac", "pcm"):
        np.testing.assert_allclose(audio[: len(alone)], alone, atol=2e-4)
    else:
        assert np.corrcoef(np.abs(audio[: len(alone)]), np.abs(alone))[0, 1] > 0.5


def test_fields_reach_the_pipeline(client, port_source, reference_audio):
    heard = soundfile.read(io.BytesIO(speak(client, seed=7, num_inference_steps=2, guidance_scale=1.5)))[0]
    alone = spoken(port_source, reference_audio, seed=7, num_inference_steps=2, guidance_scale=1.5)
    np.testing.assert_allclose(heard, alone / max(1.0, np.abs(alone).max()), atol=2e-4)
    assert speak(client) == speak(client) != speak(client, seed=1)
    assert speak(client, voice={"id": "ben"}) != speak(client)
    assert len(speak(client, speed=2.0)) < 0.7 * len(speak(client))


def test_models_voices_and_health_are_listed(client, server):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert [voice["id"] for voice in server.client.get("/v1/audio/voices").json()["voices"]] == ["anna", "ben"]
    health = server.health()
    assert (health["status"], health["model"], health["voices"]) == ("ok", "tiny", ["anna", "ben"])


def test_many_clients_hear_each_their_own(client):
    heard, alone = {}, [speak(client, seed=i) for i in range(6)]

    def ask(i):
        heard[i] = speak(client, seed=i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [heard[i] for i in range(6)] == alone


def test_a_stream_is_heard_while_it_is_made(gated, voices):
    gated.let(1)
    with serving(gated, voices) as running, client_of(running) as client:
        with client.audio.speech.with_streaming_response.create(
            model="tiny", input=TEXT, voice="anna", response_format="pcm", extra_body=FAST
        ) as response:
            pieces = response.iter_bytes()
            # The second sentence waits to be let, so this is the first.
            heard = len(next(pieces))
            gated.let()
            heard += sum(map(len, pieces))
        assert len(gated.texts) >= 3
        assert heard == len(speak(client, "pcm"))


# What is refused


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"voice": "carl"}, 400, "voice"),
        ({"voice": ""}, 400, "voice"),
        ({"model": "tts-1"}, 404, "model"),
        ({"text": "a" * 5000}, 400, "input"),
        ({"text": "  "}, 400, "input"),
        ({"text": "語"}, 400, "input"),
        ({"audio_format": "aac"}, 400, "response_format"),
        ({"speed": 9.0}, 400, "speed"),
        ({"seed": -1}, 400, "seed"),
        ({"num_inference_steps": 65}, 400, "num_inference_steps"),
        ({"num_head_steps": 3}, 400, "num_head_steps"),
        ({"guidance_scale": "loud"}, 400, "guidance_scale"),
        ({"instructions": "Whisper."}, 400, "instructions"),
        ({"stream_format": "sse"}, 400, "stream_format"),
        ({"sead": 1}, 400, "sead"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_cannot_be_spoken_is_refused_by_its_field(fields, status, param, streamed, client, server):
    served = server.health()["served"]
    with pytest.raises(openai.APIStatusError) as error:
        speak(client, **({"audio_format": "pcm"} if streamed else {}) | fields)
    assert error.value.status_code == status
    assert error.value.body["param"] == param and f"`{param}`" in error.value.body["message"]
    assert server.health()["requests"] == 0
    # What is refused before anybody speaks takes no place.
    assert param in ("input", "num_head_steps") or server.health()["served"] == served


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"{", {"content-type": "application/json"}),
        (b"[" * 9000, {"content-type": "application/json"}),
        (b"[1]", {"content-type": "application/json"}),
        (b'{"input": "\xff"}', {"content-type": "application/json"}),
        # As a page of the web could send it without being asked whether it may.
        (b'{"model": "tiny", "input": "Hi.", "voice": "anna"}', {"content-type": "text/plain"}),
    ],
    ids=["half", "deep", "list", "bytes", "text"],
)
def test_a_body_that_is_none_is_refused(content, headers, server):
    answer = server.client.post("/v1/audio/speech", content=content, headers=headers)
    assert answer.status_code == 400, answer.text
    assert "JSON object" in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server):
    def without_a_length():
        for _ in range(1000):
            yield b" " * 1000

    answer = server.client.post("/v1/audio/speech", content=without_a_length())
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "input")
    answer = server.client.post("/v1/audio/speech", content=b" " * 200_000)
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "input")


def test_other_places_and_other_names_are_not_there(server):
    answer = server.client.get("/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")
    assert server.client.get("/docs").status_code == 404
    # A page of the web whose name was made to lead to this machine.
    assert server.client.get("/health", headers={"host": "evil.example"}).status_code == 400


def test_a_token_is_asked_for(speaker, voices):
    with serving(speaker, voices, token="open sesame") as running:
        assert running.health()["status"] == "ok"
        for key in ("closed", "open sesam", "Open sesame"):
            with client_of(running, key) as client, pytest.raises(openai.AuthenticationError) as error:
                speak(client)
            assert error.value.code == "invalid_api_key"
        assert running.client.get("/v1/models").status_code == 401
        with client_of(running, "open sesame") as client:
            assert speak(client).startswith(b"RIFF")
        assert running.health()["served"] == 1


# Crowds, and clients that go


def body(text, audio_format="wav"):
    return {"model": "tiny", "input": text, "voice": "anna", "response_format": audio_format, **FAST}


@contextlib.contextmanager
def asked(url, fields):
    """A connection with little room, on which speech is asked for and nothing is read; it hangs up at the end."""
    content = json.dumps(fields).encode()
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", urlsplit(url).port))
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        yield connection


def in_background(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    return thread, found


def wait_for(condition):
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to that")


@pytest.mark.parametrize("audio_format", ["wav", "pcm"])
def test_a_client_that_hangs_up_is_not_spoken_for_and_harms_nobody(audio_format, gated, voices):
    with serving(gated, voices) as running:
        first, answers = in_background(
            lambda: httpx.post(f"{running.url}/v1/audio/speech", json=body("First."), timeout=60)
        )
        wait_for(lambda: gated.texts)
        for _ in range(5):
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{running.url}/v1/audio/speech", json=body("Gone.", audio_format), timeout=0.2)
        wait_for(lambda: running.health()["requests"] == 1)
        gated.let()
        first.join(60)
        assert answers[0].content.startswith(b"RIFF")
        assert running.client.post("/v1/audio/speech", json=body("Last.")).status_code == 200
        assert gated.texts == ["First.", "Last."]
        assert running.health()["requests"] == 0


def test_a_stream_that_is_left_gives_its_place_back(gated, voices):
    gated.let(1)
    with serving(gated, voices) as running:
        with running.client.stream("POST", "/v1/audio/speech", json=body("Hello there. " * 40, "pcm")) as response:
            next(response.iter_raw())
        wait_for(lambda: running.health()["requests"] == 0)
        gated.let()
        assert running.client.post("/v1/audio/speech", json=body("Last.")).status_code == 200
        assert len(gated.texts) <= 3


def test_more_than_there_is_room_for_is_told_to_come_again(gated, voices):
    with serving(gated, voices, limits=Limits(max_requests=2)) as running:
        waiting = [
            in_background(lambda: httpx.post(f"{running.url}/v1/audio/speech", json=body("Hi."), timeout=60))
            for _ in range(2)
        ]
        wait_for(lambda: running.health()["requests"] == 2)
        for audio_format in ("wav", "pcm"):
            answer = running.client.post("/v1/audio/speech", json=body("Hi.", audio_format))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error"]["code"] == "overloaded"
        gated.let()
        for thread, answers in waiting:
            thread.join(60)
            assert answers[0].status_code == 200
        assert running.client.post("/v1/audio/speech", json=body("Hi.")).status_code == 200


@pytest.mark.parametrize("audio_format", ["wav", "pcm"])
def test_what_takes_too_long_is_given_up(audio_format, gated, voices):
    with serving(gated, voices, limits=Limits(timeout_s=0.3)) as running:
        answer = running.client.post("/v1/audio/speech", json=body("Hi.", audio_format))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        gated.let()
        assert running.health()["requests"] == 0


def test_a_long_text_neither_holds_up_the_others_nor_outlives_its_client(gated, voices):
    with serving(gated, voices, max_rows=1) as running:
        with asked(running.url, body("Good morning to you all, and a good evening. " * 40)):
            wait_for(lambda: gated.texts)
        wait_for(lambda: running.health()["requests"] == 0)
        gated.let(2)
        assert running.client.post("/v1/audio/speech", json=body("Last.")).status_code == 200
        assert len(gated.texts) == 2 and gated.texts[1] == "Last."


def test_a_client_that_stops_reading_is_hung_up_on(speaker, voices, monkeypatch):
    def with_little_room(host, port):
        opened = open_socket(host, port)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return opened

    monkeypatch.setattr("dtm_hf.serving.listening.open_socket", with_little_room)
    text = "Good morning to you all. " * 100
    with serving(speaker, voices, patience_s=0.5) as running, asked(running.url, body(text, "pcm")) as unread:
        wait_for(lambda: running.health()["served"] == 1)
        wait_for(lambda: running.health()["requests"] == 0)
        # Cut off, and not ended.
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := unread.recv(2**20):
                heard += piece
        assert heard.startswith(b"HTTP/1.1 200") and not heard.endswith(b"0\r\n\r\n")


def test_a_voice_is_read_once_and_before_anybody_asks(speaker, voices, tmp_path, monkeypatch):
    from dtm_hf.frontend import audio

    (tmp_path / "carl.wav").write_bytes(b"RIFF and nothing else")
    with pytest.raises(ValueError, match="`voices`: 'carl' cannot be used"):
        create_app(Batcher(speaker), voices | {"carl": Recording(tmp_path / "carl.wav", SAID)}, "tiny")
    with pytest.raises(ValueError, match="`voices`: 'carl' cannot be used: `reference_text`"):
        create_app(Batcher(speaker), {"carl": Recording(voices["anna"].audio, "語")}, "tiny")
    with serving(speaker, voices) as running:
        monkeypatch.setattr(audio, "_decode_file", lambda path: pytest.fail(f"{path} was read again"))
        for audio_format in ("wav", "pcm"):
            assert running.client.post("/v1/audio/speech", json=body("Hi.", audio_format)).status_code == 200


def test_what_is_late_before_it_waits_is_not_spoken(gated, voices, monkeypatch):
    prepare, may_begin, prepared = gated.speaker.prepare, threading.Event(), threading.Event()

    def slow(*args, **kwargs):
        assert may_begin.wait(60)
        rows = prepare(*args, **kwargs)
        prepared.set()
        return rows

    with serving(gated, voices, limits=Limits(timeout_s=0.3)) as running:
        monkeypatch.setattr(gated, "prepare", slow, raising=False)
        assert running.client.post("/v1/audio/speech", json=body("Late.")).status_code == 504
        may_begin.set()
        assert prepared.wait(60)
        gated.let()
    # The server has ended, and what was asked for is spoken by then.
    assert gated.texts == []


def test_it_answers_to_the_address_that_it_listens_at(speaker, voices):
    from dtm_hf.serving.listening import host_names, url_of

    with open_socket("127.0.0.2", 0) as opened:
        names, address = host_names(opened), url_of(opened).removeprefix("http://")
        app = create_app(Batcher(speaker), voices, "tiny", hosts=names)
        with running(app) as url:
            assert httpx.get(f"{url}/health", headers={"host": address}).status_code == 200
            assert httpx.get(f"{url}/health", headers={"host": "evil.example"}).status_code == 400

"""The server: what it gives is the package's own to the last bit, and no request harms it or the next one."""

import base64
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import soundfile
import torch
from helpers import random_log_mel, tiny_student, tiny_teacher
from served import LIMITS, Running, drawn, serving, wav
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import wavflow
from wavflow.commands.serve import load
from wavflow.likelihood.scoring import read, score
from wavflow.speech import spoken
from wavflow.writing import encode_audio, quantized


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    torch.manual_seed(0)
    yield from serving(hosts=["wavflow.test"])


def test_the_models_keep_the_order_in_which_they_were_named(tmp_path: Path) -> None:
    """The first that fits is the one for a request that names none."""
    wavflow.save_model(tiny_teacher(), tmp_path / "own.safetensors")
    models = load([str(tmp_path / "own.safetensors"), "lj-teacher"], torch.device("cpu"))
    assert list(models) == ["own", "lj-teacher"]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def frames(mel: torch.Tensor) -> bytes:
    return mel[0].T.numpy().astype("<f4").tobytes()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_synthesis_of_audio_is_the_packages_own(server: Running, form: str, tmp_path: Path) -> None:
    body = wav(format=form)
    (tmp_path / "a").write_bytes(body)
    mel = wavflow.mel_files.load_mel(tmp_path / "a", server.student.mel)
    answer = server.post("/v1/synthesize?temperature=0.7&seed=5&passes=1", body)
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.content == encode_audio(drawn(server.student, mel, 5, temperature=0.7, passes=1), 8000, "wav")


def test_synthesis_of_a_mel_is_the_packages_own(server: Running) -> None:
    mel = random_log_mel(40).float()
    answer = server.post("/v1/synthesize?model=student", npy(mel.numpy()))
    assert answer.content == encode_audio(drawn(server.student, mel, 0), 8000, "wav")


def test_scores_are_the_packages_own(server: Running, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(wav())
    scores = score(server.teacher, *read(tmp_path / "upload", server.teacher))
    found = server.post("/v1/score", wav()).json()
    assert found["frames"]["nats"] == scores.log_prob.tolist()
    assert found["frames"]["surprise"] == scores.surprise.tolist()
    assert found["nats_per_sample"] == float(scores.log_prob.mean())


def test_speech_is_the_packages_own(server: Running) -> None:
    answer = server.post("/v1/speak?temperature=0&length_scale=2&guidance=1.5&pause=0.1&seed=3&passes=1", b"A cab. Bead.")
    pieces = spoken(["A cab.", "Bead."], server.text, server.student, None, 0.0, 2.0, 1.5, 0.1, 1, 3)
    assert answer.content == encode_audio(torch.cat([*pieces]), 8000, "wav"), answer.text


@pytest.mark.parametrize("seconds", [0.3, 1 / 8000])
def test_a_report_holds_the_recording_and_what_is_drawn_from_its_mel(server: Running, seconds: float, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(wav(seconds))
    audio, mel = read(tmp_path / "upload", server.student)
    answer = server.post("/v1/report?temperature=0.7&seed=5&passes=2", wav(seconds))
    assert answer.headers["content-type"].startswith("text/html"), answer.text
    sources = re.findall(r'src="data:audio/flac;base64,(.*?)" aria-label="What you sent, (.*?)"', answer.text)
    assert [name for _, name in sources] == ["recording", "student, 0 passes", "student", "Griffin-Lim"]
    heard = [torch.from_numpy(soundfile.read(io.BytesIO(base64.b64decode(file)))[0]) for file, _ in sources]
    expected = [audio[0], *(drawn(server.student, mel, 5, temperature=0.7, passes=passes) for passes in (0, 2))]
    for sound, own in zip(heard, expected, strict=False):
        torch.testing.assert_close(sound, own.clamp(-1, 1).double(), atol=1.1 / 32768, rtol=0)
    bits = server.post("/v1/score", wav(seconds)).json()["bits_per_sample"]
    assert f"teacher: {bits:.2f} bits per sample" in answer.text
    assert "Log-likelihood of the recording under" in answer.text


def test_a_stream_is_the_packages_own_to_the_last_bit(server: Running) -> None:
    mel = random_log_mel(70).float()
    with server.stream() as client:
        client.send(json.dumps({"model": "student", "seed": 9, "passes": 2, "temperature": 0.5}))
        told = json.loads(client.recv())
        assert (told["sample_rate"], told["n_mels"], told["limits"]["seconds"]) == (8000, 8, 2.0)
        for part in mel.split([1, 0, 5, 60, 4], dim=-1):
            client.send(frames(part))
        client.send("end")
        pieces = [*client]
    assert len(pieces) > 1, "it comes before the end"
    expected = quantized(drawn(server.student, mel, 9, temperature=0.5, passes=2), "PCM_16")
    assert b"".join(pieces) == expected.astype("<i2").tobytes()


def test_what_is_told_about_the_server(server: Running) -> None:
    told = server.get("/healthz").json()
    assert told["limits"] == LIMITS._asdict()
    assert [(model["draws"], model["scores"]) for model in told["models"].values()] == [(True, False), (False, True)]
    server.get("/no/such/path")
    assert 'wavflow_requests_total{path="other",status="404"}' in server.get("/metrics").text
    assert {"/v1/synthesize", "/v1/score"} <= server.get("/openapi.json").json()["paths"].keys()
    assert "http" not in re.sub(r"<!DOCTYPE.*?>", "", server.get("/docs").text), "no request outside the server"


PICKLE = npy(np.array([{"a": 1}], dtype=object))
HEADER = b"\x93NUMPY\x01\x00"


def lying_npy(shape: str) -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return HEADER + struct.pack("<H", len(head)) + head + bytes(64)


def lying_wav(at: int, size: int) -> bytes:
    body = bytearray(wav())
    body[at : at + 4] = struct.pack("<I", size)
    return bytes(body)


BODIES = {
    "empty": b"",
    "one byte": b"R",
    "zeros": bytes(5000),
    "text": b"hello, world" * 50,
    "json": b'{"audio": "/etc/passwd"}',
    "html": b"<html>" * 100,
    "a path": b"/etc/passwd",
    "a relative path": b"../../../../etc/passwd",
    "an address": b"file:///etc/passwd",
    "pickle": PICKLE,
    "bare pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.",
    "magic alone": HEADER[:6],
    "npy without a header": HEADER,
    "npy of another version": b"\x93NUMPY\x09\x09" + bytes(100),
    "npy whose header is code": HEADER + struct.pack("<H", 30) + b"__import__('os').system('id')\n",
    "npy whose header is long": HEADER + struct.pack("<H", 65000) + b"(" * 65000,
    **{f"npy of {n}": lying_npy(n) for n in ("(8, 33554432)", "(8, 10**9)", "(8, 9999999999)", "(8, -4)", "()", "(0,)")},
    "npy of whole numbers": npy(np.zeros((8, 20), np.int32)),
    "npy of words": npy(np.array(["a", "b"])),
    "npy of NaN": npy(np.full((8, 20), np.nan, np.float32)),
    "npy of inf": npy(np.full((8, 20), np.inf, np.float32)),
    "npy of other bands": npy(np.zeros((80, 20), np.float32)),
    "npy of three items": npy(np.zeros((3, 8, 20), np.float32)),
    "npy of no frames": npy(np.zeros((8, 0), np.float32)),
    "npy that is too long": npy(np.full((8, 1001), -6.0, np.float32)),
    "npy cut short": npy(np.zeros((8, 20), np.float32))[:-100],
    "wav that is too long": wav(2.1),
    "silent flac that is long": wav(0.3, format="FLAC")[:20],
    "wav of 1 GB": lying_wav(4, 10**9),
    "wav whose data is 1 GB": lying_wav(40, 10**9)[:44] + bytes(8),
    "wav of no rate": lying_wav(24, 0),
    "wav of a wild rate": lying_wav(24, 2**31 - 1),
    "wav of a slow rate": lying_wav(24, 3),
    "wav of NaN": wav(subtype="FLOAT")[:-400] + struct.pack("<f", float("nan")) * 100,
    "wav of no samples": wav()[:44],
    **{
        f"{form} cut at {at}": wav(format=form)[:at]
        for form in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU")
        for at in (3, 10, 30, 60)
    },
}
QUERIES = {
    **{f"temperature={value}": 422 for value in ("x", "-1", "nan", "inf", "1e9", "")},
    **{f"seed={value}": 422 for value in ("x", "-1", "1.5", str(2**64), "%00")},
    **{f"passes={value}": 422 for value in ("x", "-1", "99", "1e3")},
    **{
        f"model={value}": 404
        for value in ("x", "/etc/passwd", "../../lj-student", "lj-student", "%2e%2e%2f", "%00", "", "A" * 5000)
    },
    **{f"{key}=/etc/passwd": 422 for key in ("path", "input", "file", "output")},
    **{f"speaker={value}": 400 for value in ("x", "0", "-1", "%00", "9" * 4000)},
    "model=teacher": 400,
}
PATHS = (
    *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/..%2f..%2fetc/passwd", "//etc/passwd", "/v1/speak", "/v1"),
    *(f"/static-offline-docs/{path}" for path in ("../../../../etc/passwd", "%2e%2e/core.py", "..%2fcore.py")),
    "/\\..\\x",
)
STREAMS: dict[str, tuple[list[str | bytes], str]] = {
    "bytes first": ([b"abcd"], "first message"),
    "no JSON": (["hello"], "`first message`.*JSON"),
    "an empty text": ([""], "`first message`.*JSON"),
    "a list": (["[]"], "`first message`.*object"),
    "deep JSON": (["[" * 50000], "JSON"),
    "an unknown option": (['{"path": "/etc/passwd"}'], "path"),
    "an unknown model": (['{"model": "../lj-student"}'], "model"),
    "a teacher": (['{"model": "teacher"}'], "model"),
    "a wrong temperature": (['{"temperature": -1}'], "temperature"),
    "NaN": (['{"temperature": NaN}'], "temperature"),
    "a wrong seed": (['{"seed": 1e30}'], "seed"),
    "a speaker": (['{"speaker": "x"}'], "speaker"),
    "half a number": (["{}", b"abc"], "whole frames"),
    "half a frame": (["{}", bytes(16)], "whole frames"),
    "frames of NaN": (["{}", struct.pack("<8f", *[float("nan")] * 8)], "finite|NaN"),
    "frames of a wild scale": (["{}", struct.pack("<8f", *[1e30] * 8)], "mel"),
    "too many frames": (["{}", bytes(32 * 1001)], "limit"),
    "another word": (["{}", struct.pack("<8f", *[-6.0] * 8), "stop"], "end"),
    "nothing": ([], "No message"),
    "nothing more": (["{}"], "No message"),
}


@pytest.fixture
def unharmed(server: Running, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Holds that no traceback is logged, that all slots come free again, and that a good request works after it."""
    yield
    deadline = time.monotonic() + 5
    while (server.service.requests.taken or server.service.streams.slots.taken) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (server.service.requests.taken, server.service.streams.slots.taken) == (0, 0)
    assert server.post("/v1/synthesize?passes=0", npy(np.full((8, 4), -6.0, np.float32))).status_code == 200
    records = [*caplog.get_records("call"), *caplog.records]  # of the test, and of what came after it
    records = [record for record in records if not record.name.startswith("websockets")]  # the test's own client
    assert not [record for record in records if record.exc_info or record.levelname == "ERROR"]


def heard(client: ClientConnection) -> tuple[list[Any], int]:
    """Returns all messages up to the close, and its code."""
    messages = []
    try:
        while True:
            messages.append(client.recv(timeout=10))
    except ConnectionClosed as closed:
        return messages, 1006 if closed.rcvd is None else closed.rcvd.code


def refused(answer: requests.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert "/tmp" not in answer.text, "no place on the server's disk is told"


def test_malformed_bodies_are_refused(server: Running, unharmed: None) -> None:
    for name, body in BODIES.items():
        for path in ("/v1/synthesize", "/v1/score", "/v1/report"):
            answer = server.post(path, body)
            assert answer.status_code == 400, (name, path, answer.status_code)
            refused(answer, 400)
            assert "`mels`" not in answer.text, "that is an option of the training"


def test_malformed_options_and_paths_are_refused(server: Running, unharmed: None) -> None:
    for query, status in QUERIES.items():
        refused(server.post(f"/v1/synthesize?{query}", wav()), status)
    for path in PATHS:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert re.match(rb"HTTP/1.1 4\d\d", client.recv(1000)), path
    for method in ("get", "put", "delete"):
        refused(requests.request(method, f"http://127.0.0.1:{server.port}/v1/synthesize", timeout=5), 405)


def test_malformed_texts_are_refused(server: Running, unharmed: None) -> None:
    texts = {"": "a word", "... !": "a word", "ab " * 21: "60 characters", "a. b.": "more than 2 s", b"\xff\xfea": "UTF-8"}
    for text, words in texts.items():
        answer = server.post("/v1/speak?pause=10&temperature=0", text)
        refused(answer, 400)
        assert words in answer.text, text
    refused(server.post("/v1/speak?model=teacher", "a"), 400)
    refused(server.post("/v1/speak?length_scale=1e9", "a"), 422)


def test_pages_of_other_sites_are_refused(server: Running, unharmed: None) -> None:
    for origin in ("https://example.org", "null", f"http://127.0.0.1:{server.port + 1}", "http://127.0.0.1", "http://["):
        refused(server.post("/v1/synthesize", wav(), headers={"Origin": origin}), 403)
        with pytest.raises(InvalidStatus) as status:
            server.stream(additional_headers={"Origin": origin})
        assert status.value.response.status_code == 403
    own = {"Origin": f"http://127.0.0.1:{server.port}"}
    assert server.post("/v1/synthesize", wav(), headers=own).status_code == 200
    with server.stream(additional_headers=own) as client:
        client.send("{}")
        assert "sample_rate" in client.recv()


def test_names_of_other_sites_are_refused(server: Running, unharmed: None) -> None:
    """A site may have its name resolve to 127.0.0.1: to a browser its pages are of the server's origin then."""
    others = ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[evil.example]", "[", "")
    for host in (*others, "LocalHost:1", "127.0.0.1", "[::1]:80", "10.0.0.7", "Wavflow.test:80"):
        status, headers = 403 if host in others else 200, {"Host": host, "Origin": f"http://{host}"}
        assert server.post("/v1/synthesize", wav(), headers=headers).status_code == status, host
        for path in ("/", "/healthz", "/metrics"):
            assert server.get(path, headers=headers).status_code == status, (host, path)
    with pytest.raises(InvalidStatus, match="403"):
        connect("ws://evil.example/v1/stream", sock=socket.create_connection(("127.0.0.1", server.port)))


HEAD = "POST /v1/synthesize HTTP/1.1\r\nHost: localhost\r\n"
SOCKETS = {
    "no HTTP": ("hello\r\n\r\n", b"400"),
    "a length that is no number": (f"{HEAD}Content-Length: x\r\n\r\n", b"400"),
    "a negative length": (f"{HEAD}Content-Length: -1\r\n\r\n", b"400"),
    "1 GB by its header": (f"{HEAD}Content-Length: 1000000000\r\n\r\nabc", b"413"),
    "more than there is": (f"{HEAD}Content-Length: 1000\r\n\r\nabc", b"408"),
    "chunks without end": (f"{HEAD}Transfer-Encoding: chunked\r\n\r\n" + 11 * f"19000\r\n{'x' * 0x19000}\r\n", b"413"),
    "a wrong chunk": (f"{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
    "a long header": (f"{HEAD}X: {'a' * 100000}\r\n\r\n", b"4"),
    "nothing": ("", b"408"),
    "half a header": (HEAD, b"408"),
}


def test_malformed_connections_are_refused(server: Running, unharmed: None) -> None:
    for name, (sent, status) in SOCKETS.items():
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
            client.sendall(sent.encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 " + status), name


def test_half_a_header_after_an_answer_is_refused(server: Running, unharmed: None) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not client.recv(10000).endswith(b"}"):
            pass
        client.sendall(HEAD.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 408")


def test_an_answer_may_take_longer_than_the_idle_limit(
    server: Running, unharmed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = wavflow.vocoder.VocoderStream.push
    monkeypatch.setattr(wavflow.vocoder.VocoderStream, "push", lambda self, mel: (time.sleep(1.3), push(self, mel))[1])
    head, body = f"{HEAD}Content-Length: ", npy(np.full((8, 4), -6.0, np.float32))
    asked = f"{head}{len(body)}\r\n\r\n".encode() + body
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(2 * asked)  # the second waits for the first
        answer = b""
        while answer.count(b"HTTP/1.1 200") < 2:
            part = client.recv(10000)
            assert part, answer
            answer += part


def test_clients_that_go_away_leave_nothing(server: Running, unharmed: None) -> None:
    body = npy(np.full((8, 900), -6.0, np.float32))
    for sent in ("", HEAD, f"{HEAD}Content-Length: 1000\r\n\r\nabc", f"{HEAD}Content-Length: {len(body)}\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(sent.encode() + body * (str(len(body)) in sent))
    for messages in ([], ["{}"], ["{}", frames(random_log_mel(30))]):
        with server.stream() as client:
            for message in messages:
                client.send(message)
            client.socket.shutdown(socket.SHUT_RDWR)  # without a word


@pytest.mark.parametrize("name", STREAMS)
def test_malformed_streams_are_refused(server: Running, unharmed: None, name: str) -> None:
    messages, words = STREAMS[name]
    with server.stream() as client:
        for message in messages:
            client.send(message)
        texts, code = heard(client)
    assert code == 1008
    assert re.search(words, json.loads(texts[-1])["detail"]), texts[-1]


def test_a_message_that_is_too_large_ends_a_stream(server: Running, unharmed: None) -> None:
    with server.stream() as client:
        client.send("{}")
        client.recv()
        client.send(bytes(2 * 10**6))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=5)
    assert closed.value.rcvd.code == 1009


def test_frames_are_read_while_others_are_drawn(server: Running, unharmed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the pings of a client that sends faster than it is drawn would go unanswered, and it would give up."""
    held, push = threading.Event(), wavflow.vocoder_stream.VocoderStream.push
    monkeypatch.setattr(wavflow.vocoder_stream.VocoderStream, "push", lambda self, mel: (held.wait(5), push(self, mel))[1])
    with server.stream() as client:
        client.send("{}")
        client.recv()
        for _ in range(4):
            client.send(frames(random_log_mel(3)))
        answered = client.ping().wait(5)
        held.set()
        assert answered
        client.send("end")
        heard(client)


def test_more_streams_and_requests_than_there_are_slots_are_refused(server: Running, unharmed: None) -> None:
    with server.stream(), server.stream():
        with pytest.raises(InvalidStatus) as status:
            server.stream()
        assert (status.value.response.status_code, status.value.response.headers["Retry-After"]) == (429, "1")
    open_ones = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    for client in open_ones:
        client.sendall(f"{HEAD}Content-Length: 1000\r\n\r\n".encode())
    while server.service.requests.taken < 3:
        time.sleep(0.01)
    answer = server.post("/v1/synthesize", wav())
    refused(answer, 429)
    assert answer.headers["Retry-After"] == "1"
    for client in open_ones:
        client.close()


def test_a_client_that_goes_away_ends_its_work(server: Running, unharmed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, waiting = [], threading.Event()
    push = wavflow.vocoder_stream.VocoderStream.push

    def slow(self: Any, mel: torch.Tensor) -> torch.Tensor:
        pieces.append(mel)
        waiting.wait(5)
        return push(self, mel)

    monkeypatch.setattr(wavflow.vocoder_stream.VocoderStream, "push", slow)
    body = npy(np.full((8, 900), -6.0, np.float32))
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while not pieces:
            time.sleep(0.01)
    while server.service.requests.taken:
        time.sleep(0.01)
    waiting.set()
    monkeypatch.undo()
    assert len(pieces) == 1, "of 29"


def test_a_token_is_asked_for() -> None:
    running: Callable[[], Iterator[Running]] = lambda: serving(token="secret")  # noqa: E731
    for server in running():
        good = {"Authorization": "Bearer secret"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"Authorization": "Bearer "}):
            refused(server.post("/v1/synthesize", wav(), headers=headers), 401)
            refused(server.get("/metrics", headers=headers), 401)
            with pytest.raises(InvalidStatus) as status:
                server.stream(additional_headers=headers)
            assert status.value.response.status_code == 401
        assert server.post("/v1/synthesize", wav(), headers=good).status_code == 200
        assert server.get("/healthz").status_code == 200
        with server.stream(additional_headers=good) as client:
            client.send("{}")
            assert "sample_rate" in client.recv()


@pytest.mark.slow
def test_sigterm_ends_a_stream_with_the_audio_of_what_was_sent(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)  # as in the server's process, which rounds the mel's filters so
    student, mel = tiny_student(0.1).float(), random_log_mel(50).float()
    wavflow.save_model(student, tmp_path / "tiny.safetensors")
    command = [sys.executable, "-m", "wavflow.serve", "model=tiny.safetensors", "port=0", "threads=1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert process.stderr is not None
    log: list[str] = []
    while not (port := re.search(r"running on http://127.0.0.1:(\d+)", "".join(log))):
        log.append(process.stderr.readline())
        assert log[-1], log
    with connect(f"ws://127.0.0.1:{port[1]}/v1/stream") as client:
        client.send("{}")
        client.recv()
        client.send(frames(mel))
        first = client.recv()
        process.send_signal(signal.SIGTERM)
        pieces, code = heard(client)
    assert code == 1012
    assert b"".join([first, *pieces]) == quantized(drawn(student, mel, 0), "PCM_16").astype("<i2").tobytes()
    rest = process.communicate(timeout=20)[1]
    assert process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in "".join(log) + rest

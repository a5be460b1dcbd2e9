"""A server of tiny models, in a thread of this process."""

import io
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import requests
import soundfile
import torch
import uvicorn
from commands import tone
from helpers import MEL, random_log_mel, tiny_student, tiny_teacher
from websockets.sync.client import ClientConnection, connect

import wavflow
from wavflow.commands.serve import Connection, Server, Socket
from wavflow.serving.app import make_app
from wavflow.serving.limits import Limits
from wavflow.text_to_mel import TextToMel

LIMITS = Limits(body_mb=1.0, seconds=2.0, idle_seconds=1.0, streams=2, requests=3)


class Running(NamedTuple):
    """A server in a thread of this process, and its models."""

    port: int
    service: Any
    student: wavflow.Vocoder
    teacher: wavflow.Vocoder
    text: TextToMel

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return requests.post(f"http://127.0.0.1:{self.port}{path}", data=body, timeout=60, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=60, **options)

    def stream(self, **options: Any) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/v1/stream", compression=None, **options)


def tiny_text_model() -> TextToMel:
    """A text model of the student's mel, whose frames are all alike: random weights would be no speech."""
    model = wavflow.models.text_to_mel(MEL, [" ", ".", *"abcde"], "characters", 8, 1, 1, 0.1, 2, 2, 16, 3, 4).eval().double()
    model.initialize(random_log_mel(20).double())  # whose mean is now at 0
    torch.nn.init.zeros_(model.means.weight)
    torch.nn.init.zeros_(model.means.bias)
    return model.requires_grad_(False)


def serving(limits: Limits = LIMITS, **options: Any) -> Iterator[Running]:
    student, teacher = tiny_student(0.1).float(), tiny_teacher(0.1).float()
    drawn(student, random_log_mel(8), 0)  # compiles, as the command does before it serves
    text = tiny_text_model()
    app = make_app({"student": student, "teacher": teacher}, limits, text=text, **options)
    protocols = {"http": Connection, "ws": Socket, "ws_max_size": 10**6}
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1, **protocols)
    server = Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Running(server.servers[0].sockets[0].getsockname()[1], app.state.service, student, teacher, text)
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def wav(seconds: float = 0.3, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(seconds), 8000, **{"format": "WAV"} | options)
    return file.getvalue()


def drawn(model: wavflow.Vocoder, mel: torch.Tensor, seed: int, **options: Any) -> torch.Tensor:
    return torch.cat([*model.stream(mel.float(), generator=torch.Generator().manual_seed(seed), **options)], dim=-1)[0]

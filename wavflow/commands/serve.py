"""What `python -m wavflow.serve` does: it loads the models, compiles their engines and serves them until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import torch
import uvicorn
from omegaconf import DictConfig
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from wavflow.arguments import about
from wavflow.cli import listed, named, number
from wavflow.devices import pick_device
from wavflow.models import load_model
from wavflow.serving.app import make_app
from wavflow.serving.limits import Limits
from wavflow.speakers import first_speaker
from wavflow.text_to_mel import TextToMel
from wavflow.vocoder import Vocoder

LEAST = Limits(body_mb=0.0, seconds=0.0, idle_seconds=0.0, streams=0, requests=1)


class Connection(H11Protocol):
    """Closes a connection when the line and headers of a request have not all come within the idle limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for the first request."""
        super().connection_made(transport)
        self._wait(None)

    def on_response_complete(self) -> None:
        """Waits for the next one."""
        answered = self.cycle
        super().on_response_complete()  # begins the next one if it has come already
        self._wait(answered)

    def _wait(self, cycle: Any) -> None:
        self.loop.call_later(self.config.app.state.service.limits.idle_seconds, self._end, cycle)  # type: ignore[union-attr]

    def _end(self, cycle: Any) -> None:
        if self.cycle is cycle and self.transport.get_protocol() is self and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.transport.close()


class Socket(WebSocketsSansIOProtocol):
    """Takes a refused connection as answered, where uvicorn would log an error."""

    async def send(self, message: Any) -> None:
        """Sends one of ASGI's messages."""
        await super().send(message)
        self.handshake_complete |= self.close_sent


class Server(uvicorn.Server):
    """Ends the streams in flight before the connections."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops."""
        await self.config.app.state.service.streams.stop()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def run(cfg: DictConfig) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    limits = Limits(*(number(name, cfg[name], least, isinstance(least, float)) for name, least in LEAST._asdict().items()))
    torch.set_num_threads(1)  # a request takes one thread, and another request the next
    device, token = pick_device(cfg.device), cfg.token or os.environ.get("WAVFLOW_TOKEN")
    models = load(listed(cfg.model), device)
    text = None if cfg.text is None else load_text(cfg.text, models, device)
    hosts = [str(cfg.host), *listed(cfg.hosts)]
    app = make_app(models, limits, number("threads", cfg.threads, 1), None if token is None else str(token), text, hosts)
    config = uvicorn.Config(
        app,
        host=str(cfg.host),
        port=number("port", cfg.port, 0),
        http=Connection,
        ws=Socket,
        ws_max_size=int(limits.body_mb * 1e6),
        ws_per_message_deflate=False,  # neither mels nor audio get smaller
        timeout_graceful_shutdown=max(1, int(limits.idle_seconds)),
    )
    Server(config).run()


def load(sources: list[str], device: torch.device) -> dict[str, Vocoder]:
    """Loads models by name, in their order, and draws a little with each, so that its engine is there before the first request.

    Raises:
        FileNotFoundError: When there is no such model.
        ValueError: When a file is no model, or one is named twice.
    """
    models = {}
    for name, source in named(sources, "model", ()).items():
        with about("model", "path"):
            models[name] = model = load_model(source, device)
        if model.draws_in_parallel and model.mel.n_mels:
            model.sample(torch.full((1, model.mel.n_mels, 8), -6.0), speaker=first_speaker(model))
    return models


def load_text(source: str, models: dict[str, Vocoder], device: torch.device) -> TextToMel:
    """Loads a text model.

    Raises:
        FileNotFoundError: When there is no such model.
        ValueError: When the file is no text model, or none of the models can draw from its mel.
    """
    with about("text", "path"):
        text = load_model(source, device, TextToMel)
    if not any(model.mel.spec == text.mel.spec and model.draws_in_parallel for model in models.values()):
        raise ValueError(f"`text`: no model draws from the mel of {source}, {text.mel.spec}: add one that does to `model`.")
    return text

"""What `python -m wavflow.serve` does: it loads the models, compiles their engines and serves them until it is told to stop."""

from __future__ import annotations

import os
import socket

import torch
import uvicorn
from omegaconf import DictConfig

from wavflow.arguments import about
from wavflow.cli import listed, named, number
from wavflow.devices import pick_device
from wavflow.models import load_model, released_models
from wavflow.serving.app import make_app
from wavflow.serving.limits import Limits
from wavflow.vocoder import Vocoder

LEAST = Limits(body_mb=0.0, seconds=0.0, idle_seconds=0.0, streams=0, requests=1)


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
    models = load(listed(cfg.model), pick_device(cfg.device))
    token = cfg.token or os.environ.get("WAVFLOW_TOKEN")
    app = make_app(models, limits, number("threads", cfg.threads, 1), None if token is None else str(token))
    config = uvicorn.Config(
        app,
        host=str(cfg.host),
        port=number("port", cfg.port, 0),
        ws_max_size=int(limits.body_mb * 1e6),
        ws_per_message_deflate=False,  # neither mels nor audio get smaller
        timeout_graceful_shutdown=max(1, int(limits.idle_seconds)),
    )
    Server(config).run()


def load(sources: list[str], device: torch.device) -> dict[str, Vocoder]:
    """Loads models by name, and draws a little with each, so that its engine is there before the first request.

    Raises:
        FileNotFoundError: When there is no such model.
        ValueError: When a file is no model, or two have one name.
    """
    released = released_models()
    names = {source: source for source in sources if source in released}
    files = named([source for source in sources if source not in released], "model", names)
    models = {}
    for name, source in (names | files).items():
        with about("model", "path"):
            models[name] = model = load_model(source, device)
        if model.draws_in_parallel and model.mel.n_mels:
            speaker = None if model.speakers is None else torch.zeros(1, dtype=torch.long)
            model.sample(torch.full((1, model.mel.n_mels, 8), -6.0), speaker=speaker)
    return models

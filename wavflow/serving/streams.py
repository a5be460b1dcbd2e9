"""`WS /v1/stream`: mel frames in, 16-bit audio out as it is known.

    client                                    server
    {"model": ..., "temperature": ...}   ->
                                         <-   {"sample_rate": ..., "n_mels": ..., "limits": {...}, ...}
    float32 frames, (F, n_mels)          ->
                                         <-   16-bit samples
    "end"                                ->
                                         <-   the last samples, close 1000

Numbers are little-endian. An error is a text message {"detail": ...} before the close (1008). When the server stops, a stream
gets the audio of what it has sent, and close 1012.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import torch
from fastapi import HTTPException, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from wavflow.serving.limits import Limits, Slots
from wavflow.serving.metrics import Metrics
from wavflow.serving.models import Draw, Models
from wavflow.writing import quantized

PIECE = 32  # frames that are drawn at a time: then it is another stream's turn
Work = Callable[..., Awaitable[Any]]


class Streams:
    """All streams of a server."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics, work: Work) -> None:
        self.models, self.limits, self.metrics, self.work = models, limits, metrics, work
        self.slots, self.stopping = Slots("streams", limits.streams), asyncio.Event()

    async def stop(self) -> None:
        """Ends all streams, and waits until their clients have what they sent; or until the idle limit."""
        self.stopping.set()
        end = time.monotonic() + self.limits.idle_seconds
        while self.slots.taken and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def serve(self, socket: WebSocket) -> None:
        """Serves one stream to its end."""
        if self.stopping.is_set():
            raise HTTPException(503, "The server stops: try again later.")
        with self.slots.take(), self.metrics.streams.track_inprogress():
            await socket.accept()
            try:
                try:
                    await socket.close(*await self._stream(socket))
                except ValidationError as error:
                    words = (f"`{'.'.join(map(str, each['loc']))}`: {each['msg']}" for each in error.errors())
                    await self._refuse(socket, "; ".join(words))
                except HTTPException as error:
                    await self._refuse(socket, error.detail)
                except (ValueError, TimeoutError) as error:
                    await self._refuse(socket, str(error))
            except (WebSocketDisconnect, TimeoutError):
                pass  # the client is gone, or takes nothing

    async def _refuse(self, socket: WebSocket, words: str) -> None:
        await self._send(socket.send_json({"detail": words}))
        await socket.close(1008)

    async def _send(self, sending: Awaitable[None]) -> None:
        await asyncio.wait_for(sending, self.limits.idle_seconds)

    async def _next(self, socket: WebSocket) -> str | bytes | None:
        """Returns the next message; None when the server stops.

        Raises:
            WebSocketDisconnect: When the client is gone.
            TimeoutError: When nothing comes.
        """
        idle = self.limits.idle_seconds
        tasks = asyncio.ensure_future(socket.receive()), asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait(tasks, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                message = tasks[0].result()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message.get("code") or 1006)
                text = message.get("text")
                return message["bytes"] if text is None else text
            if tasks[1].done():
                return None
            raise TimeoutError(f"No message came for {idle:g} s, which is the limit.")
        finally:
            for task in tasks:
                task.cancel()

    async def _stream(self, socket: WebSocket) -> tuple[int, str]:
        """Takes all messages of a stream; returns the close code and its reason."""
        options = await self._next(socket)
        if options is None:
            return 1012, "the server stops"
        if isinstance(options, bytes):
            raise ValueError("The first message must be a JSON object of options, as text, got bytes.")
        stream = self.models.open_stream(Draw.model_validate_json(options))
        vocoder, frames, started = stream.vocoder, 0, None
        spec = vocoder.mel.spec
        await self._send(socket.send_json({**spec, "limits": self.limits._asdict()}))

        async def draw(work: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> None:
            nonlocal started
            audio = (await self.work(work, *arguments))[0]
            if len(audio):
                if started is not None:
                    self.metrics.first_audio.observe(time.monotonic() - started)
                    started = None
                self.metrics.audio.inc(len(audio) / vocoder.sample_rate)
                await self._send(socket.send_bytes(quantized(audio, "PCM_16").astype("<i2").tobytes()))

        while isinstance(message := await self._next(socket), bytes):
            if len(message) % (4 * vocoder.mel.n_mels):
                raise ValueError(
                    f"A message must hold whole frames, {vocoder.mel.n_mels} float32 numbers each, got {len(message)} bytes."
                )
            mel = torch.from_numpy(np.frombuffer(message, "<f4").reshape(1, -1, vocoder.mel.n_mels).astype(np.float32))
            started = time.monotonic() if frames == 0 else started
            frames += mel.shape[1]
            if frames * vocoder.hop_length > self.limits.seconds * vocoder.sample_rate:
                raise ValueError(f"A stream of {self.limits.seconds:g} s of audio is the limit: start another.")
            for piece in mel.transpose(1, 2).split(PIECE, dim=-1):
                await draw(stream.push, piece)
        if message not in ("end", None):
            raise ValueError('A text message after the first must be "end".')
        if stream.started:
            await draw(stream.end)
        return (1012, "the server stops") if message is None else (1000, "")

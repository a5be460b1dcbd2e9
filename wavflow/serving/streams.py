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
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import torch
from fastapi import HTTPException, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from wavflow.serving.limits import Limits, Slots
from wavflow.serving.metrics import Metrics
from wavflow.serving.models import Draw, Models
from wavflow.vocoder import Vocoder
from wavflow.writing import quantized

PIECE = 32  # frames that are drawn at a time: then it is another stream's turn


class Streams:
    """All streams of a server."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics, work: Callable[..., Awaitable[Any]]) -> None:
        self.models, self.limits, self.metrics, self.work = models, limits, metrics, work
        self.slots, self.stopping = Slots("stream", limits.streams), asyncio.Event()

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
                    words = (
                        f"`{'.'.join(map(str, each['loc'])) or 'first message'}`: {each['msg']}" for each in error.errors()
                    )
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

    async def _next(self, coming: Coroutine[Any, Any, Any]) -> Any:
        """Returns the next message, which is coming; None when the server stops and nothing is there.

        Raises:
            WebSocketDisconnect: When the client is gone.
            TimeoutError: When nothing comes.
        """
        idle = self.limits.idle_seconds
        tasks = asyncio.ensure_future(coming), asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait(tasks, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                return tasks[0].result()
            if tasks[1].done():
                return None
            raise TimeoutError(f"No message came for {idle:g} s, which is the limit.")
        finally:
            for task in tasks:
                task.cancel()

    async def _fill(self, socket: WebSocket, vocoder: Vocoder, inbox: asyncio.Queue[Any]) -> None:
        """Puts frames (F, n_mels) as they come, and then what ends them: a text, or an exception.

        It reads on while audio is drawn: otherwise the client's pings would wait behind its frames, and it would give up.
        """
        frames, bands = 0, vocoder.mel.n_mels
        while True:
            try:
                message = await _receive(socket)
                if isinstance(message, str):
                    return inbox.put_nowait(message)
                if len(message) % (4 * bands):
                    raise ValueError(
                        f"A message must hold whole frames, {bands} float32 numbers each, got {len(message)} bytes."
                    )
                frames += len(message) // (4 * bands)
                if frames * vocoder.hop_length > self.limits.seconds * vocoder.sample_rate:
                    raise ValueError(f"A stream of {self.limits.seconds:g} s of audio is the limit: start another.")
            except (ValueError, WebSocketDisconnect) as error:
                return inbox.put_nowait(error)
            if message:
                inbox.put_nowait(np.frombuffer(message, "<f4").reshape(-1, bands).astype(np.float32))

    async def _stream(self, socket: WebSocket) -> tuple[int, str]:
        """Takes all messages of a stream; returns the close code and its reason."""
        options = await self._next(_receive(socket))
        if options is None:
            return 1012, "the server stops"
        if isinstance(options, bytes):
            raise ValueError("The first message must be a JSON object of options, as text, got bytes.")
        stream = self.models.open_stream(Draw.model_validate_json(options))
        vocoder, first, began = stream.vocoder, True, 0.0
        await self._send(socket.send_json({**vocoder.mel.spec, "limits": self.limits._asdict()}))

        async def draw(work: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> None:
            nonlocal first
            audio = (await self.work(work, *arguments))[0]
            if len(audio):
                if first:
                    self.metrics.first_audio.observe(time.monotonic() - began)
                    first = False
                self.metrics.audio.inc(len(audio) / vocoder.sample_rate)
                await self._send(socket.send_bytes(quantized(audio, "PCM_16").astype("<i2").tobytes()))

        inbox: asyncio.Queue[Any] = asyncio.Queue()
        filling = asyncio.ensure_future(self._fill(socket, vocoder, inbox))
        try:
            while isinstance(message := await self._next(inbox.get()), np.ndarray):
                began = began or time.monotonic()
                for piece in torch.from_numpy(message).T[None].split(PIECE, dim=-1):
                    await draw(stream.push, piece)
        finally:
            filling.cancel()
        if isinstance(message, Exception):
            raise message
        if message not in ("end", None):
            raise ValueError('A text message after the first must be "end".')
        if stream.started:
            await draw(stream.end)
        return (1012, "the server stops") if message is None else (1000, "")


async def _receive(socket: WebSocket) -> str | bytes:
    """Returns the next message; raises WebSocketDisconnect when the client is gone."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code") or 1006)
    text = message.get("text")
    return message["bytes"] if text is None else text

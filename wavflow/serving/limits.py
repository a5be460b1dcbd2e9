"""What one client may ask of the server, and how a request that asks for more is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from wavflow.audio_files import counted


class Limits(NamedTuple):
    """Of one request or stream, and of how many there may be at once."""

    body_mb: float  # also of one message of a stream
    seconds: float  # of audio
    idle_seconds: float  # without a byte from a client, or without its taking one
    streams: int
    requests: int  # that are worked on or wait


class Slots:
    """So many things at once; one more is refused with status 429."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count, self.taken = name, count, 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Holds a slot; raises HTTPException when all are taken."""
        if self.taken >= self.count:
            raise HTTPException(429, f"The limit is {counted(self.count, self.name)} at once: try again.", {"Retry-After": "1"})
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


async def read_body(request: Request, limits: Limits) -> bytes:
    """Returns the body of a request.

    Raises:
        HTTPException: When it is too large (413), by its header or its bytes, or comes too slowly (408).
        ClientDisconnect: When the client goes away.
    """
    largest = int(limits.body_mb * 1e6)
    too_large = HTTPException(413, f"A body of {limits.body_mb:g} MB is the limit: send less.", {"Connection": "close"})
    if int(request.headers.get("content-length", 0)) > largest:
        raise too_large
    body, chunks = bytearray(), request.stream()
    while True:
        try:
            body += await asyncio.wait_for(anext(chunks), limits.idle_seconds)
        except StopAsyncIteration:
            return bytes(body)
        except TimeoutError as error:
            words = f"No byte came for {limits.idle_seconds:g} s, which is the limit."
            raise HTTPException(408, words, {"Connection": "close"}) from error
        if len(body) > largest:
            raise too_large


async def unless_gone(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """Returns what the work returns; ends it, and raises ClientDisconnect, when the client goes away before."""
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

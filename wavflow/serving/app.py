"""The application: its routes, and the threads that do their work."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.requests import HTTPConnection
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect
from torch import Tensor

from wavflow import __version__
from wavflow.likelihood.bits import bits_per_sample
from wavflow.likelihood.scoring import joined, overall, read, score_samples
from wavflow.mel_files import load_mel
from wavflow.serving.limits import Limits, Slots, read_body, unless_gone
from wavflow.serving.metrics import Counted, Metrics
from wavflow.serving.models import Draw, Models, Speech, Voice, read_upload, speaker_of
from wavflow.serving.page import LONGEST, report_page, start_page
from wavflow.serving.streams import PIECE, Streams
from wavflow.text_to_mel import TextToMel
from wavflow.vocoder import Vocoder, VocoderStream
from wavflow.writing import encode_audio

BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"format": "binary"}}}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body or an option does not fit; `detail` says what was needed"},
    401: {"description": "The bearer token is missing or wrong"},
    403: {"description": "A browser asks for the page of another site, or by a name that is not the server's"},
    404: {"description": "There is no such model"},
    408: {"description": "The body came too slowly"},
    413: {"description": "The body is too large"},
    429: {"description": "Too many requests at once: try again after `Retry-After` seconds"},
}


class Service:
    """What the routes do.

    Args:
        models: By name.
        limits: Of each request.
        threads: That draw and score, each for one request at a time.
        text: A text model; None for none.
    """

    def __init__(self, models: Mapping[str, Vocoder], limits: Limits, threads: int, text: TextToMel | None) -> None:
        self.models, self.limits, self.metrics = Models(models, text), limits, Metrics()
        self.pool, self.requests = ThreadPoolExecutor(threads), Slots("request", limits.requests)
        self.streams = Streams(self.models, limits, self.metrics, self.work)

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    async def collect(self, pieces: Iterator[Any]) -> list[Any]:
        """Returns what an iterator yields, each found by itself in one of the threads."""
        found = []
        while (piece := await self.work(next, pieces, None)) is not None:
            found.append(piece)
        return found

    async def answer(self, request: Request, make: Callable[[bytes], Coroutine[Any, Any, Response]]) -> Response:
        """Returns what `make` makes of a request's body, within all limits."""
        try:
            with self.requests.take():
                body = await read_body(request, self.limits)
                return await unless_gone(request, make(body))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it

    async def synthesize(self, request: Request, draw: Annotated[Draw, Query()]) -> Response:
        """Audio from the mel of other audio, of any format that libsndfile reads, or from a mel as .npy: a 16-bit WAV file."""
        return await self.answer(request, partial(self._synthesize, draw))

    async def _synthesize(self, draw: Draw, body: bytes) -> Response:
        stream = self.models.open_stream(draw)
        vocoder = stream.vocoder
        mel = await self.work(read_upload, body, vocoder, self.limits, lambda path: load_mel(path, vocoder.mel))
        return await self._wav((await self._drawn(stream, mel))[0], vocoder.sample_rate)

    async def _drawn(self, stream: VocoderStream, mel: Tensor) -> Tensor:
        """Returns the audio (1, T) of a mel."""
        audio = [await self.work(stream.push, piece) for piece in mel.split(PIECE, dim=-1)]
        return torch.cat([*audio, await self.work(stream.end)], dim=-1)

    async def _wav(self, audio: Tensor, sample_rate: int) -> Response:
        self.metrics.audio.inc(len(audio) / sample_rate)
        return Response(await self.work(encode_audio, audio, sample_rate, "wav"), media_type="audio/wav")

    async def speak(self, request: Request, speech: Annotated[Speech, Query()]) -> Response:
        """Speech from a text in UTF-8: a 16-bit WAV file; see `python -m wavflow.speak`."""
        return await self.answer(request, partial(self._speak, speech))

    async def _speak(self, speech: Speech, body: bytes) -> Response:
        assert self.models.text is not None, "else there is no such route"
        chunks = await self.collect(self.models.speak(speech, self.models.text, body, self.limits))
        return await self._wav(torch.cat(chunks), self.models.text.mel.sample_rate)

    async def report(self, request: Request, draw: Annotated[Draw, Query()]) -> Response:
        """A page to hear and see a recording beside what a model draws from its mel; see `python -m wavflow.evaluate`."""
        return await self.answer(request, partial(self._report, draw))

    async def _report(self, draw: Draw, body: bytes) -> Response:
        stream = self.models.open_stream(draw.model_copy(update={"passes": 0}))
        vocoder, limits = stream.vocoder, self.limits._replace(seconds=min(self.limits.seconds, LONGEST))
        audio, mel = await self.work(read_upload, body, vocoder, limits, lambda path: read(path, vocoder))
        drawn, scorer = await self._drawn(stream, mel), self.models.scorer(vocoder)
        self.metrics.audio.inc(drawn.shape[-1] / vocoder.sample_rate)
        scores = {}
        if scorer is not None:
            parts = await self.collect(score_samples(scorer, audio, mel, speaker_of(draw, scorer)))
            scores[self.models.name_of(scorer)] = tuple(map(torch.cat, zip(*parts, strict=True)))
        name = self.models.name_of(vocoder)
        return HTMLResponse(await self.work(report_page, name, vocoder, audio, mel, drawn, draw.passes, scores))

    async def score(self, request: Request, voice: Annotated[Voice, Query()]) -> Response:
        """Likelihood and surprise of a recording, as a whole and by frame; see `python -m wavflow.score`."""
        return await self.answer(request, partial(self._score, voice))

    async def _score(self, voice: Voice, body: bytes) -> Response:
        model = self.models.choose(voice.model, lambda model: model.scores_in_parallel, "scores in one pass")
        speaker = speaker_of(voice, model)
        audio, mel = await self.work(read_upload, body, model, self.limits, lambda path: read(path, model))
        scores = joined(await self.collect(score_samples(model, audio, mel, speaker)))
        nats, surprise = float(scores.log_prob.mean()), overall(scores.surprise)
        whole = {"surprise": surprise, "nats_per_sample": nats, "bits_per_sample": bits_per_sample(nats)}
        hop = model.hop_length / model.sample_rate
        frames = {"seconds_per_frame": hop, "nats": scores.log_prob.tolist(), "surprise": scores.surprise.tolist()}
        return JSONResponse({**whole, "frames": frames})

    async def page(self) -> str:
        """The page to try the models in a browser."""
        return start_page(min(self.limits.seconds, LONGEST))

    async def health(self) -> dict[str, Any]:
        """The models, and the limits of a request; status 503 when the server stops."""
        if self.streams.stopping.is_set():
            raise HTTPException(503, "The server stops.")
        models = {
            name: {**model.mel.spec, "draws": model.draws_in_parallel, "scores": model.scores_in_parallel}
            for name, model in self.models.by_name.items()
        }
        text = self.models.text
        speakers = any(model.speakers is not None for model in (*self.models.by_name.values(), text) if model is not None)
        told = {"models": models, "speaks": text is not None, "speakers": speakers, "limits": self.limits._asdict()}
        return {"status": "ok", **told}

    async def counts(self) -> Response:
        """What was done so far, for Prometheus."""
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def is_own(host: str, names: Collection[str]) -> bool:
    """Whether a header `Host` is an address, localhost or one of the names.

    The name of any other site may resolve to this machine; then its pages are of the server's own origin to a browser.
    """
    name = re.sub(r":\d*$", "", host).strip("[]").lower()
    try:
        return name in {"localhost", *map(str.lower, names)} or bool(ip_address(name))
    except ValueError:
        return False


def make_app(
    models: Mapping[str, Vocoder],
    limits: Limits,
    threads: int = 2,
    token: str | None = None,
    text: TextToMel | None = None,
    hosts: Collection[str] = (),
) -> FastAPI:
    """Returns the application; its `state.service` is the `Service`.

    Args:
        models: By the names that clients choose them by.
        limits: Of each request.
        threads: That draw and score.
        token: That clients have to send as `Authorization: Bearer <token>`; None for none.
        text: A text model, for speech; None for none.
        hosts: Names that clients call the server by, besides its addresses and localhost.
    """
    service = Service(models, limits, threads, text)

    def called(connection: HTTPConnection) -> None:
        host = connection.headers.get("host", "localhost")
        if not is_own(host, hosts):
            raise HTTPException(403, f"This server is not known as {host[:100]}: `serve hosts=` takes its further names.")

    def authorized(connection: HTTPConnection) -> None:
        origin = connection.headers.get("origin")  # sent by browsers, which let any site open a WebSocket to any other
        if origin is not None and origin.partition("://")[2] != connection.headers.get("host"):
            raise HTTPException(403, f"A page of another site, {origin[:100]}, may not use this server.")
        sent = connection.headers.get("authorization", "").encode()
        if token is not None and not secrets.compare_digest(sent, f"Bearer {token}".encode()):
            raise HTTPException(401, "A bearer token is needed.", {"WWW-Authenticate": "Bearer"})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.pool.shutdown(cancel_futures=True)

    app = FastAPIOffline(
        title="wavflow", version=__version__, redoc_url=None, lifespan=lifespan, dependencies=[Depends(called)]
    )
    guarded = APIRouter(dependencies=[Depends(authorized)])
    posts = {"/v1/synthesize": service.synthesize, "/v1/score": service.score, "/v1/report": service.report}
    for path, call in (posts if text is None else posts | {"/v1/speak": service.speak}).items():
        guarded.add_api_route(path, call, methods=["POST"], response_class=Response, responses=REFUSALS, openapi_extra=BODY)
    guarded.add_api_route("/metrics", service.counts, response_class=Response)
    guarded.add_api_websocket_route("/v1/stream", service.streams.serve)
    app.include_router(guarded)
    app.add_api_route("/healthz", service.health)
    app.add_api_route("/", service.page, response_class=HTMLResponse, include_in_schema=False)
    app.add_middleware(Counted, metrics=service.metrics)
    app.state.service = service
    return app

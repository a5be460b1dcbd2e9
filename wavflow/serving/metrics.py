"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("wavflow_requests", "Answers by path and status", ["path", "status"], registry=self.registry)
        self.streams = Gauge("wavflow_streams", "Streams that are open", registry=self.registry)
        self.audio = Counter("wavflow_audio_seconds", "Seconds of audio that were drawn", registry=self.registry)
        self.first_audio = Histogram(
            "wavflow_first_audio_seconds", "From a stream's first frame to its first audio", registry=self.registry
        )


class Counted:
    """Counts the answers of an ASGI app; unknown paths count as one, so that nobody can fill the memory with them."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Passes a connection on."""

        async def counting(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        await self.app(scope, receive, counting)

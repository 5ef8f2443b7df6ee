"""Numbers about the service, in the form that Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STRUCTURES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Requests by path and status with their times, structures in each batch, and what the process takes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        common = {"namespace": "crystalformers", "registry": self.registry}
        self.requests = Counter("requests", "Requests by path and status.", ["path", "status"], **common)  # type: ignore[arg-type]
        self.seconds = Histogram("request_seconds", "Time to answer.", ["path"], buckets=SECONDS, **common)  # type: ignore[arg-type]
        self.batch = Histogram("batch_structures", "Structures computed together.", buckets=STRUCTURES, **common)  # type: ignore[arg-type]
        self.active = Gauge("active_requests", "Requests that are served or wait.", **common)  # type: ignore[arg-type]
        ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

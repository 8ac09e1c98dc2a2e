"""What the server counts, for Prometheus. Each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms, all named ``tintype_...``, and what the system knows of the process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "tintype_requests", "Requests that were answered.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "tintype_request_seconds", "From a request's headers to its answer.", ["route"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._images = Counter(
            "tintype_images", "Images by what came of them: sure, unsure or unreadable.", ["outcome"], registry=registry
        )
        self._labels = Counter("tintype_labels", "Images by the label they got.", ["label"], registry=registry)
        self._batches = Histogram(
            "tintype_batch_images", "Images that the network saw at once.", buckets=BATCHES, registry=registry
        )
        self._batch_seconds = Histogram(
            "tintype_batch_seconds", "Time of the network for one batch.", buckets=SECONDS, registry=registry
        )
        ProcessCollector(registry=registry)

    def gauge(self, name: str, words: str, value: Callable[[], float]) -> None:
        """Show a value that is asked for whenever the metrics are read."""
        Gauge(f"tintype_{name}", words, registry=self._registry).set_function(value)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def labelled(self, label: str, is_sure: bool) -> None:
        """Count an image that got a label."""
        self._images.labels("sure" if is_sure else "unsure").inc()
        self._labels.labels(label).inc()

    def unreadable(self) -> None:
        """Count an image that could not be read."""
        self._images.labels("unreadable").inc()

    def saw(self, images: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(images)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format, of type :data:`CONTENT_TYPE`."""
        return generate_latest(self._registry)

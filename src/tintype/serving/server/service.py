"""The parts of a server that its routes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tintype.serving.server.batching import Batcher
from tintype.serving.server.decoding import Decoder
from tintype.serving.server.guard import Guard
from tintype.serving.server.limits import Intake, Limits
from tintype.serving.server.metrics import Metrics

if TYPE_CHECKING:
    from tintype.serving.labels import Classifier


@dataclass(frozen=True)
class Documents:
    """Pages that were made with the model, read once, since no path is opened for a request.

    Attributes:
        report: The run's report; empty where it is not there.
        card: The model card, likewise.
    """

    report: bytes = b""
    card: bytes = b""


@dataclass(eq=False)
class Service:
    """A classifier and everything between it and its clients.

    Attributes:
        classifier: The model.
        name: Its name, as it stands in addresses.
        limits: What is taken on.
        token: Needed for everything but health and the bare page; None for no token.
        documents: Pages to link to.
        is_draining: The server was told to stop: it finishes what it has, and asks clients not to come back.
    """

    classifier: Classifier
    name: str
    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    documents: Documents = field(default_factory=Documents)
    is_draining: bool = False

    def __post_init__(self) -> None:
        self.guard = Guard(self.token)
        self.metrics = Metrics()
        self.intake = Intake(self.limits)
        self.decoder = Decoder(self.classifier, self.limits.decoders)
        self.batcher = Batcher(self.classifier, self.limits, self.metrics.saw)
        self.metrics.gauge("pending_images", "Images accepted and not answered yet.", lambda: self.batcher.pending)
        self.metrics.gauge("held_bytes", "Bytes of requests in memory.", lambda: self.intake.held)

    def start(self) -> None:
        """Get ready to answer."""
        self.batcher.start()

    def close(self) -> None:
        """End the threads; what was accepted is finished first."""
        self.batcher.close()
        self.decoder.close()

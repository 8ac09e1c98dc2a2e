"""Images of all clients, seen by the network in batches: a few threads call it, and take what waits."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tintype.serving.labels import in_trained_polarity
from tintype.serving.server.limits import Limits, Refusal

if TYPE_CHECKING:
    from tintype.serving.labels import Classifier

LONGEST_RETRY = 30
"""Seconds that a client is told to wait at most before it tries again."""


@dataclass(frozen=True)
class Seen:
    """What the network says about one image.

    Attributes:
        probabilities: Calibrated, in the order of the classes, shape (K,).
        map: Where it looked for the most probable class, 0 to 1; None where that was not asked for or the network
            has no map.
    """

    probabilities: NDArray[np.float32]
    map: NDArray[np.float32] | None = None


@dataclass(eq=False, slots=True)
class _Waiting:
    image: NDArray[np.uint8]
    explain: bool
    future: asyncio.Future[Seen]


class Batcher:
    """Hands images to the network.

    A batch holds what waits when a thread is free. The thread waits in turn, for a moment, only while images are on
    their way that could join the batch; so a client that is alone never waits.

    Args:
        classifier: Called from ``limits.lanes`` threads at once.
        limits: Batch, lanes, wait and queue.
        on_batch: Told the number of images and the seconds of each batch, from those threads.
    """

    def __init__(
        self, classifier: Classifier, limits: Limits, on_batch: Callable[[int, float], None] = lambda _n, _s: None
    ) -> None:
        self._classifier = classifier
        self._limits = limits
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._coming = 0
        self._is_closed = False
        self._seconds_each = 0.0
        self._pending = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"network {lane}", daemon=True) for lane in range(limits.lanes)
        ]

    @property
    def pending(self) -> int:
        """Images that are accepted and not answered yet."""
        return self._pending

    def start(self) -> None:
        """Begin, after the network has seen full batches, whose memory it takes now and not with the first clients."""
        size, channels = self._classifier.geometry.size, self._classifier.geometry.channels
        black_NHWC = np.zeros((self._limits.batch, size, size, channels), np.uint8)
        with ThreadPoolExecutor(self._limits.lanes) as pool:
            list(pool.map(self._classifier.probabilities, [black_NHWC] * self._limits.lanes))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End when everything that waits has been seen."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def hold(self) -> Hold:
        """Places for the images of one request, none yet.

        Raises:
            Refusal: 503, there is no place.
        """
        if self._pending >= self._limits.queue:
            raise self._busy()
        return Hold(self)

    def take_places(self, images: int) -> None:
        """Count images that will come.

        Raises:
            Refusal: 503, there are not so many places.
        """
        if self._pending + images > self._limits.queue:
            raise self._busy()
        self._pending += images
        with self._changed:
            self._coming += images

    def give_places(self, images: int, coming: int) -> None:
        """Count images as answered, of which some will not come."""
        self._pending -= images
        if coming:
            with self._changed:
                self._coming -= coming
                self._changed.notify_all()

    async def see(self, images_HWC: Sequence[NDArray[np.uint8]], explain: bool, coming: int) -> list[Seen]:
        """What the network says about images.

        Args:
            images_HWC: Of its own size, each uint8 (S, S, C).
            explain: Also where it looked.
            coming: Images that were counted as coming and that these are all of.
        """
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(image_HWC, explain, loop.create_future()) for image_HWC in images_HWC]
        with self._changed:
            self._coming -= coming
            self._waiting.extend(waiting)
            self._changed.notify_all()
        return list(await asyncio.gather(*(item.future for item in waiting)))

    def _busy(self) -> Refusal:
        seconds = min(max(1, math.ceil(self._pending * self._seconds_each / self._limits.lanes)), LONGEST_RETRY)
        return Refusal(503, "the server has as many images as it can take; try again.", seconds)

    def _work(self) -> None:
        while batch := self._take():
            begin = time.perf_counter()
            try:
                seen = self._look(batch)
            except Exception as error:  # whatever it is, it answers these images; the next batch has its own answer
                _hand_over(batch, error)
                continue
            seconds = time.perf_counter() - begin
            self._seconds_each += (seconds / len(batch) - self._seconds_each) / 8
            self._on_batch(len(batch), seconds)
            _hand_over(batch, seen)

    def _take(self) -> list[_Waiting]:
        """The next batch; empty when there is nothing left and nothing will come."""
        most = self._limits.batch
        with self._changed:
            while self._waiting or not self._is_closed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                self._changed.wait_for(
                    lambda: len(self._waiting) >= most or not self._coming or self._is_closed, self._limits.wait_seconds
                )
                taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
                # Clients that have gone, or were told that it took too long, need no answer.
                if wanted := [item for item in taken if not item.future.done()]:
                    return wanted
        return []

    def _look(self, batch: Sequence[_Waiting]) -> list[Seen]:
        decoded_NHWC = np.stack([item.image for item in batch])
        images_NHWC = in_trained_polarity(self._classifier.statistics, decoded_NHWC)
        probabilities_NK = self._classifier.probabilities(images_NHWC)
        rows = [row for row, item in enumerate(batch) if item.explain]
        maps_Nhw = None
        if rows:
            classes_N = probabilities_NK[rows].argmax(axis=1).astype(np.int64)
            maps_Nhw = self._classifier.maps(images_NHWC[rows], classes_N)
        found = {} if maps_Nhw is None else dict(zip(rows, maps_Nhw, strict=True))
        return [Seen(probabilities_K, found.get(row)) for row, probabilities_K in enumerate(probabilities_NK)]


class Hold:
    """The places of one request's images, free again when the context is left."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._images = self._coming = 0

    def grow(self, images: int) -> None:
        """Take more places.

        Raises:
            Refusal: 503, there are not so many.
        """
        self._batcher.take_places(images)
        self._images += images
        self._coming += images

    async def see(self, images_HWC: Sequence[NDArray[np.uint8]], explain: bool = False) -> list[Seen]:
        """What the network says about those images of the request that could be read, as :meth:`Batcher.see`."""
        coming, self._coming = self._coming, 0
        return await self._batcher.see(images_HWC, explain, coming)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._batcher.give_places(self._images, self._coming)


def _hand_over(batch: Sequence[_Waiting], outcome: list[Seen] | Exception) -> None:
    """Give the answers to the event loop, all at once, since each call wakes it."""

    def give() -> None:
        for row, item in enumerate(batch):
            if item.future.done():
                continue
            if isinstance(outcome, Exception):
                item.future.set_exception(outcome)
            else:
                item.future.set_result(outcome[row])

    batch[0].future.get_loop().call_soon_threadsafe(give)

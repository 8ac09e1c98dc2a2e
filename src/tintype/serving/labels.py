"""Labels for images that were never seen: decoded ahead in threads, streamed in constant memory. No torch here."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tintype.data.decode import Geometry, decode_image
from tintype.data.paths import is_web_address
from tintype.data.shift import opposite_polarity
from tintype.errors import DataError, RunError
from tintype.records import ImageStatistics

if TYPE_CHECKING:
    from tintype.serving.explain import Explainer

Source = Path | bytes | NDArray[np.uint8]
"""A file, a file's content, or pixels of shape (H, W) or (H, W, C)."""

MOST_AT_ONCE = 256
PIXELS_AT_ONCE = 64 * 224**2
"""Pixels that go through the network together: 64 images of 224 px, 10 MB, of which three lots are held at most."""


@dataclass(frozen=True)
class Label:
    """What a model says about one image.

    Attributes:
        path: As it was given.
        label: The most probable class; empty where the image could not be read.
        probability: Its calibrated probability.
        probabilities: Class to probability, in the model's order.
        sure: Whether the probability reaches the model's threshold, so that the label can be relied on as the
            report says; False where the image could not be read.
        explanation: Path of the picture that shows where the model looked; empty where none was asked for.
        error: Why the image could not be read; empty otherwise.
    """

    path: str
    label: str
    probability: float
    probabilities: dict[str, float]
    sure: bool = True
    explanation: str = ""
    error: str = ""


class Classifier(Protocol):
    """What labels images: a run's network, or what was exported of it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""

    @property
    def geometry(self) -> Geometry:
        """What images are brought to."""

    @property
    def statistics(self) -> ImageStatistics:
        """What the training images look like."""

    @property
    def threshold(self) -> float:
        """An image whose most probable class is less probable is not answered for sure; 0 answers all."""

    @property
    def max_megapixels(self) -> float:
        """Larger images are refused."""

    def probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probabilities of images of the model's geometry, shape (N, K)."""

    def maps(self, images_NHWC: NDArray[np.uint8], classes_N: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Where it looks for each image's class, shape (N, h, w), 0 to 1; None where it cannot say."""


class Labeller:
    """Labels a stream of images.

    While a batch goes through the network, threads decode the next two; no more is read ahead.

    Args:
        classifier: The model.
        threads: How many images are decoded at a time.
        answer_all: Call every answer sure.
        explainer: Draws where the model looked, if anybody asked.
    """

    def __init__(
        self, classifier: Classifier, threads: int, *, answer_all: bool = False, explainer: Explainer | None = None
    ) -> None:
        self._classifier = classifier
        self._threads = threads
        self._threshold = 0.0 if answer_all else classifier.threshold
        self._explainer = explainer
        self._at_once = max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // classifier.geometry.size**2))

    def labels(self, items: Iterable[tuple[str, Source]]) -> Iterator[Label]:
        """Label images one by one and in order; an unreadable one gives an ``error``.

        Args:
            items: The name and the source of each.

        Raises:
            RunError: An explanation was asked for, and the model has none.
        """
        with closing(self._decoded_ahead(items)) as decoded:
            while batch := list(islice(decoded, self._at_once)):
                read = [(name, image) for name, image in batch if not isinstance(image, str)]
                found = iter(self._label_batch(read) if read else ())
                for name, image in batch:
                    yield _unreadable(name, image) if isinstance(image, str) else next(found)

    def _decoded_ahead(self, items: Iterable[tuple[str, Source]]) -> Generator[tuple[str, NDArray[np.uint8] | str]]:
        """Images in their order, or the reasons why they cannot be read."""
        waiting = iter(items)
        ahead: deque[tuple[str, Future[NDArray[np.uint8] | str]]] = deque()
        pool = ThreadPoolExecutor(self._threads)
        try:
            while True:
                for name, source in islice(waiting, 2 * self._at_once - len(ahead)):
                    ahead.append((name, pool.submit(self._decode, name, source)))
                if not ahead:
                    return
                name, image = ahead.popleft()
                yield name, image.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, name: str, source: Source) -> NDArray[np.uint8] | str:
        try:
            return decode_image(source, self._classifier.geometry, self._classifier.max_megapixels)
        except DataError as error:
            return "a web address, and tintype fetches nothing" if is_web_address(name) else str(error)

    def _label_batch(self, named: Sequence[tuple[str, NDArray[np.uint8]]]) -> Iterator[Label]:
        """Labels of decoded images, in their order."""
        images_NHWC = np.stack([image_HWC for _, image_HWC in named])
        seen_NHWC = in_trained_polarity(self._classifier.statistics, images_NHWC)
        probabilities_NK = self._classifier.probabilities(seen_NHWC)
        best_N = probabilities_NK.argmax(axis=1).astype(np.int64)
        maps_Nhw = None if self._explainer is None else self._maps(seen_NHWC, best_N)
        for row, (name, image_HWC) in enumerate(named):
            best, probability = int(best_N[row]), float(probabilities_NK[row, best_N[row]])
            table = dict(zip(self._classifier.classes, probabilities_NK[row].tolist(), strict=True))
            picture = ""
            if self._explainer is not None and maps_Nhw is not None:
                picture = self._explainer.write(name, image_HWC, maps_Nhw[row])
            yield Label(
                name, self._classifier.classes[best], probability, table, probability >= self._threshold, picture
            )

    def _maps(self, images_NHWC: NDArray[np.uint8], classes_N: NDArray[np.int64]) -> NDArray[np.float32]:
        maps_Nhw = self._classifier.maps(images_NHWC, classes_N)
        if maps_Nhw is None:
            raise RunError(
                "the answers cannot be explained: this model keeps no places of the image apart, or its export has no "
                "maps. Leave --explain out."
            )
        return maps_Nhw


def in_trained_polarity(statistics: ImageStatistics, images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images with those turned into negatives whose polarity is the opposite of the training images'."""
    negatives_N = opposite_polarity(statistics, images_NHWC)
    if not negatives_N.any():
        return images_NHWC
    return np.where(negatives_N[:, None, None, None], 255 - images_NHWC, images_NHWC)


def _unreadable(name: str, reason: str) -> Label:
    return Label(name, "", 0.0, {}, sure=False, error=reason)

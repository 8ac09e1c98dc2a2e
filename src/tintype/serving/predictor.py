"""Labels for images that were never seen: files, folders and globs, streamed in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tintype.data.decode import decode_image
from tintype.data.shift import opposite_polarity
from tintype.data.sources import index_paths
from tintype.errors import DataError
from tintype.evaluation.calibration import apply_temperature
from tintype.records import OnProgress, silent
from tintype.rundir import RunDir
from tintype.runtime import Runtime, start_runtime
from tintype.serving.explain import Explainer
from tintype.serving.model import Model, load_model

BATCH = 64


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


class Predictor:
    """A trained run, ready to label images.

    Args:
        path: The run directory.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        RunError: The directory holds no finished model.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        run_dir = RunDir(Path(path))
        run_dir.require_complete()
        self.model: Model = load_model(run_dir)
        self._runtime: Runtime = start_runtime(device, None, 0)
        self.model.network.place(self._runtime.device)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.model.classes

    def predict(self, path: str | Path, *, explain: str | Path | None = None, answer_all: bool = False) -> Label:
        """Label one image file.

        Args:
            path: The image.
            explain: A folder for the picture of where the model looked.
            answer_all: Call every answer sure.

        Raises:
            DataError: The file is missing or is no image that can be read.
            RunError: The model has no map to explain itself with.
        """
        label = next(self._labels([str(path)], [Path(path)], explain, answer_all))
        if label.error:
            raise DataError(f"{path} cannot be read: {label.error}.")
        return label

    def predict_many(
        self,
        paths: Sequence[str | Path],
        on_progress: OnProgress = silent,
        *,
        explain: str | Path | None = None,
        answer_all: bool = False,
    ) -> Iterator[Label]:
        """Label files, folders and globs, one by one and in order; an unreadable image gives an ``error``.

        Args:
            paths: The images.
            on_progress: Called after each image.
            explain: A folder for pictures of where the model looked, one an image.
            answer_all: Call every answer sure.

        Raises:
            DataError: Nothing matches the paths.
            RunError: The model has no map to explain itself with.
        """
        index = index_paths(paths)
        files = (index.root / path for path in index.paths)
        for done, label in enumerate(self._labels(index.paths, files, explain, answer_all), start=1):
            on_progress("labelling images", done, len(index))
            yield label

    def _labels(
        self, names: Sequence[str], files: Iterable[Path], explain: str | Path | None, answer_all: bool
    ) -> Iterator[Label]:
        explainer = None if explain is None else Explainer(self.model.network, Path(explain))
        threshold = 0.0 if answer_all else self.model.threshold
        with ThreadPoolExecutor(self._runtime.threads) as pool:
            pairs = zip(names, files, strict=True)
            while chunk := list(islice(pairs, BATCH)):
                decoded = list(pool.map(self._decode, (file for _, file in chunk)))
                named = zip((name for name, _ in chunk), decoded, strict=True)
                read = [(name, image) for name, image in named if not isinstance(image, str)]
                found = iter(self._label_batch(read, explainer, threshold) if read else ())
                for (name, _), image in zip(chunk, decoded, strict=True):
                    yield self._failed(name, image) if isinstance(image, str) else next(found)

    def _label_batch(
        self, named: Sequence[tuple[str, NDArray[np.uint8]]], explainer: Explainer | None, threshold: float
    ) -> Iterator[Label]:
        """Labels of decoded images, in their order."""
        images_NHWC = np.stack([image_HWC for _, image_HWC in named])
        seen_NHWC = self._in_trained_polarity(images_NHWC)
        probabilities_NK = self._probabilities(seen_NHWC)
        best_N = probabilities_NK.argmax(axis=1).astype(np.int64)
        maps_Nhw = None if explainer is None else explainer.maps(seen_NHWC, best_N)
        for row, (name, image_HWC) in enumerate(named):
            best, probability = int(best_N[row]), float(probabilities_NK[row, best_N[row]])
            table = dict(zip(self.classes, probabilities_NK[row].tolist(), strict=True))
            picture = "" if explainer is None or maps_Nhw is None else explainer.write(name, image_HWC, maps_Nhw[row])
            yield Label(name, self.classes[best], probability, table, probability >= threshold, picture)

    def _decode(self, file: Path) -> NDArray[np.uint8] | str:
        try:
            return decode_image(file, self.model.geometry, self.model.max_megapixels)
        except DataError as error:
            return str(error)

    def _in_trained_polarity(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Images with those turned into negatives whose polarity is the opposite of the training images'."""
        negatives = opposite_polarity(self.model.statistics, images_NHWC)
        return np.where(negatives[:, None, None, None], 255 - images_NHWC, images_NHWC)

    def _probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        images_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).to(self._runtime.device)
        network = self.model.network
        with torch.inference_mode():
            probabilities = network.probabilities(network(images_NCHW))
            if self.model.config.flip_average:
                probabilities = (probabilities + network.probabilities(network(images_NCHW.flip(3)))) / 2
        return apply_temperature(probabilities.cpu().numpy(), self.model.temperature)

    def _failed(self, name: str, reason: str) -> Label:
        return Label(name, "", 0.0, {}, sure=False, error=reason)

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
        error: Why the image could not be read; empty otherwise.
    """

    path: str
    label: str
    probability: float
    probabilities: dict[str, float]
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
        self.model.network.to(device=self._runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.model.classes

    def predict(self, path: str | Path) -> Label:
        """Label one image file.

        Raises:
            DataError: The file is missing or is no image that can be read.
        """
        label = next(self._labels([str(path)], [Path(path)]))
        if label.error:
            raise DataError(f"{path} cannot be read: {label.error}.")
        return label

    def predict_many(self, paths: Sequence[str | Path], on_progress: OnProgress = silent) -> Iterator[Label]:
        """Label files, folders and globs, one by one and in order; an unreadable image gives an ``error``.

        Raises:
            DataError: Nothing matches the paths.
        """
        index = index_paths(paths)
        files = (index.root / path for path in index.paths)
        for done, label in enumerate(self._labels(index.paths, files), start=1):
            on_progress("labelling images", done, len(index))
            yield label

    def _labels(self, names: Sequence[str], files: Iterable[Path]) -> Iterator[Label]:
        with ThreadPoolExecutor(self._runtime.threads) as pool:
            pairs = zip(names, files, strict=True)
            while chunk := list(islice(pairs, BATCH)):
                decoded = list(pool.map(self._decode, (file for _, file in chunk)))
                images = [image for image in decoded if not isinstance(image, str)]
                rows = iter(self._probabilities(np.stack(images)) if images else np.zeros((0, 1), np.float32))
                for (name, _), image in zip(chunk, decoded, strict=True):
                    yield self._failed(name, image) if isinstance(image, str) else self._label(name, next(rows))

    def _decode(self, file: Path) -> NDArray[np.uint8] | str:
        try:
            return decode_image(file, self.model.geometry, self.model.max_megapixels)
        except DataError as error:
            return str(error)

    def _probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        negatives = opposite_polarity(self.model.statistics, images_NHWC)
        images_NHWC = np.where(negatives[:, None, None, None], 255 - images_NHWC, images_NHWC)
        images_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).to(self._runtime.device)
        network = self.model.network
        with torch.inference_mode():
            probabilities = network.probabilities(network(images_NCHW))
            if self.model.config.flip_average:
                probabilities = (probabilities + network.probabilities(network(images_NCHW.flip(3)))) / 2
        return apply_temperature(probabilities.cpu().numpy(), self.model.temperature)

    def _label(self, name: str, probabilities_K: NDArray[np.float32]) -> Label:
        best = int(probabilities_K.argmax())
        table = dict(zip(self.classes, probabilities_K.tolist(), strict=True))
        return Label(name, self.classes[best], float(probabilities_K[best]), table)

    def _failed(self, name: str, reason: str) -> Label:
        return Label(name, "", 0.0, {}, reason)

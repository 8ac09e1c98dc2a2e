"""A run's own network as what labels images: torch, on a CPU or a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tintype.data.decode import Geometry
from tintype.evaluation.attention import MapPlace, NoMap, attention_maps, find_place
from tintype.evaluation.temperature import apply_temperature
from tintype.ranks.torchrun import rank_of_process
from tintype.records import ImageStatistics
from tintype.rundir import RunDir
from tintype.runtime import start_runtime
from tintype.serving.model import load_model


class RunClassifier:
    """The network of a finished run, in fp32.

    Args:
        path: The run directory.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Processes that torchrun starts on one machine take a GPU each
            unless a number is given.

    Attributes:
        device: Where it computes.

    Raises:
        RunError: The directory holds no finished model.
        ConfigError: There is no such device.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        self._model = load_model(RunDir(path))
        self.device = start_runtime(_own_gpu(device), None, 0).device
        self._model.network.place(self.device)
        self._place: MapPlace | NoMap | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self._model.classes

    @property
    def geometry(self) -> Geometry:
        """What images are brought to."""
        return self._model.geometry

    @property
    def statistics(self) -> ImageStatistics:
        """What the training images look like."""
        return self._model.statistics

    @property
    def threshold(self) -> float:
        """An image whose most probable class is less probable is not answered for sure; 0 answers all."""
        return self._model.threshold

    @property
    def max_megapixels(self) -> float:
        """Larger images are refused."""
        return self._model.max_megapixels

    def probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probabilities, shape (N, K); with ``flip_average`` the mean of both mirror images'."""
        network, images_NCHW = self._model.network, self._as_tensor(images_NHWC)
        with torch.inference_mode():
            probabilities = network.probabilities(network(images_NCHW))
            if self._model.config.flip_average:
                probabilities = (probabilities + network.probabilities(network(images_NCHW.flip(3)))) / 2
        return apply_temperature(probabilities.cpu().numpy(), self._model.temperature)

    def maps(self, images_NHWC: NDArray[np.uint8], classes_N: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Where the network looks for each image's class, shape (N, h, w), 0 to 1; None where it keeps no places."""
        images_NCHW = self._as_tensor(images_NHWC)
        if self._place is None:
            self._place = find_place(self._model.network, images_NCHW[0])
        if isinstance(self._place, NoMap):
            return None
        maps_Nhw = attention_maps(self._model.network, images_NCHW, classes_N, self._place)
        return None if isinstance(maps_Nhw, NoMap) else maps_Nhw

    def _as_tensor(self, images_NHWC: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).to(self.device)


def _own_gpu(device: str) -> str:
    """The GPU of this process, where several run on one machine."""
    if rank_of_process() is None or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"

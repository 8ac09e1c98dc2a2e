"""Pictures of where a model looked: each image beside itself under a map, in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tintype.errors import RunError
from tintype.evaluation.attention import MapPlace, NoMap, attention_maps, find_place
from tintype.evaluation.overlay import side_by_side
from tintype.models.network import Network
from tintype.rundir import atomic_path


class Explainer:
    """Writes pictures of where a network looked.

    Args:
        network: In inference mode, on its device.
        folder: Where the pictures go; made where it is absent. No file in it is ever replaced.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self._network = network
        self._folder = folder
        self._place: MapPlace | None = None
        self._numbers: dict[str, int] = {}

    def maps(self, images_NHWC: NDArray[np.uint8], classes_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Where the network looks for each image's class, shape (N, h, w), 0 to 1.

        Raises:
            RunError: The network has no map.
        """
        images_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).to(self._network.mean.device)
        place = self._place or find_place(self._network, images_NCHW[0])
        if isinstance(place, NoMap):
            raise _unexplained(place)
        maps_Nhw = attention_maps(self._network, images_NCHW, classes_N, place)
        if isinstance(maps_Nhw, NoMap):
            raise _unexplained(maps_Nhw)
        self._place = place
        return maps_Nhw

    def write(self, name: str, image_HWC: NDArray[np.uint8], map_hw: NDArray[np.float32]) -> str:
        """Write the picture of one image as PNG, atomically.

        Args:
            name: Path of the image; the picture has its name, with a number where that is taken.
            image_HWC: As it was decoded.
            map_hw: From :meth:`maps`.

        Returns:
            The picture's path.
        """
        path = self._free(Path(name).stem)
        with atomic_path(path) as temporary:
            Image.fromarray(side_by_side(image_HWC, map_hw)).save(temporary, "PNG")
        return str(path)

    def _free(self, stem: str) -> Path:
        """A name that is not taken; the next number of each name is remembered, since a thousand may share one."""
        while True:
            number = self._numbers[stem] = self._numbers.get(stem, 0) + 1
            path = self._folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
            if not path.exists():
                return path


def _unexplained(why: NoMap) -> RunError:
    return RunError(f"the answers cannot be explained: {why.reason}. Leave --explain out.")

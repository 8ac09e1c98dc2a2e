"""Pictures of where a model looked: each image beside itself under a map, in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tintype.evaluation.overlay import side_by_side
from tintype.rundir import atomic_path

_MOST_NUMBERS = 65_536


class Explainer:
    """Writes pictures of where a model looked.

    Args:
        folder: Where the pictures go; made where it is absent. No file in it is ever replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[str, int] = {}

    def write(self, name: str, image_HWC: NDArray[np.uint8], map_hw: NDArray[np.float32]) -> str:
        """Write the picture of one image as PNG, atomically.

        Args:
            name: Path of the image, ``-`` for standard input; the picture has its name, with a number where that is
                taken.
            image_HWC: As it was decoded.
            map_hw: Where the model looked, in 0..1.

        Returns:
            The picture's path.
        """
        path = self._free("stdin" if name == "-" else Path(name).stem)
        with atomic_path(path) as temporary:
            Image.fromarray(side_by_side(image_HWC, map_hw)).save(temporary, "PNG")
        return str(path)

    def _free(self, stem: str) -> Path:
        """A name that is not taken; the next number of each name is remembered, since a thousand may share one."""
        if len(self._numbers) == _MOST_NUMBERS:  # of a million images, few share a name with one so long ago
            self._numbers.clear()
        while True:
            number = self._numbers[stem] = self._numbers.get(stem, 0) + 1
            path = self._folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
            if not path.exists():
                return path

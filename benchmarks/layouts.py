"""Data folders made of the images for one turn, so that all contenders get the same ones."""

from __future__ import annotations

import shutil
from pathlib import Path

XRAY_CLASSES = ("covid", "normal")
HELD_OUT = 5
"""Every fifth training image validates."""


def lay_out_xrays(data: Path, folder: Path) -> None:
    """Copy the X-rays of the labs' two-class task into ``train/``, ``val/`` and ``test/``.

    Args:
        data: With ``chest_xray/train/CLASS`` and ``chest_xray/test/CLASS``.
        folder: Made here.
    """
    for name in XRAY_CLASSES:
        training = sorted((data / "chest_xray" / "train" / name).iterdir())
        parts = {
            "train": [path for number, path in enumerate(training) if number % HELD_OUT],
            "val": training[::HELD_OUT],
            "test": sorted((data / "chest_xray" / "test" / name).iterdir()),
        }
        for split, paths in parts.items():
            target = folder / split / name
            target.mkdir(parents=True)
            for path in paths:
                shutil.copyfile(path, target / path.name)

"""The data of ``tintype demo``: scikit-learn's handwritten digits, real images that come with a dependency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tintype.rundir import atomic_path, cache_folder


def write_digits() -> Path:
    """Write the 1,797 digits of 8x8 pixels as PNG files in class folders, unless they are there already.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998; the test part, as
    shipped with scikit-learn.

    Returns:
        The folder.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder = cache_folder() / "demo" / "digits"
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        if not path.exists():
            with atomic_path(path) as temporary:
                # The grey levels are 0 to 16.
                Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(temporary, format="PNG")
    return folder

"""Figures of images, kept on disk so that the next run on the same images need not look at their pixels again."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from tintype.rundir import atomic_path, cache_folder

Figures = Mapping[str, NDArray[np.generic]]


def kept_figures(
    fingerprint: str, what: str, make: Callable[[], Figures], asked: Sequence[NDArray[np.generic]] = ()
) -> Figures:
    """What an earlier call kept under this name, or else what ``make`` gives, which is then kept.

    A damaged file is made anew. A folder that cannot be written costs the time of the next run and nothing else.

    Args:
        fingerprint: Of the images, as :class:`tintype.data.cache.ImageCache` has it.
        what: What the figures are, with a version that changes when they would come out differently.
        make: Computes them; arrays by name, none of objects.
        asked: What else they depend on, such as the rows of the images that are measured.
    """
    key = hashlib.blake2b(f"{what}, {fingerprint}".encode(), digest_size=16)
    for array in asked:
        key.update(f"{array.dtype}, {array.shape}".encode() + array.tobytes())
    path = cache_folder() / "figures" / f"{key.hexdigest()}.npz"
    # The archive holds a checksum of each array, which is verified in reading.
    damage = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
    with suppress(*damage), path.open("rb") as file, np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}
    figures = make()
    with suppress(OSError), atomic_path(path) as temporary, temporary.open("wb") as archive:
        np.savez(archive, **figures)  # type: ignore[arg-type]
    return figures

"""Whether the ranks of a run have the same images, found out before they share the work of decoding them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import PIL

from tintype.data.decode import DECODE_VERSION, Geometry, UnreadableImageError, read_file
from tintype.data.decoding import content_hash
from tintype.data.index import UNLABELLED, ImageIndex, counted, listed, shown
from tintype.ranks.joining import require_equal
from tintype.ranks.world import World
from tintype.records import SPLITS

SAMPLE = 64
"""Files whose content is compared: of two sets in which a share p of the files differs, (1 - p)^64 are not told apart,
that is 4 % of those in which every twentieth does."""

SAMPLE_BYTES = 64 * 2**20
"""No further files are read after so many bytes."""

_REMEDY = "Copy the same data to every machine."


def require_same_images(index: ImageIndex, geometry: Geometry, world: World) -> None:
    """Refuse ranks that have listed other images, would decode them otherwise, or hold other contents; collective.

    Names, labels, splits and groups are compared whole, contents in a sample: some files evenly spread over the list.

    Args:
        index: What this rank found.
        geometry: What it would bring the images to.
        world: The ranks; a single process passes.

    Raises:
        RankError: On all ranks, with the first difference.
    """
    if world.is_alone:
        return
    found = f"{counted(len(index), 'image')} in {counted(len(index.classes), 'class')}"
    require_equal(world, "data", world.exchange(found), _REMEDY)
    require_equal(world, "classes", world.exchange(listed(index.classes, 20)), _REMEDY)
    decoder = f"Pillow {PIL.__version__} (decoder {DECODE_VERSION})"
    require_equal(world, "versions", world.exchange(decoder), "Install the same on every machine.")
    require_equal(world, "images", world.exchange(_as_decoded(index, geometry)), _REMEDY)
    _require_same_list(index, world)
    for told in zip(*world.exchange(_sample(index)), strict=False):
        require_equal(world, "contents", list(told), _REMEDY)


def _as_decoded(index: ImageIndex, geometry: Geometry) -> str:
    size, color = geometry.size, "grey" if geometry.channels == 1 else "RGB"
    decoded = f"images to be decoded to {size}x{size} {color} with resize {geometry.resize}"
    return decoded if index.arrays is None else f"{decoded} from arrays of {index.arrays.shape[1:]}"


def _require_same_list(index: ImageIndex, world: World) -> None:
    lines = _lines(index)
    digests = world.exchange(hashlib.blake2b("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest())
    if len(set(digests)) == 1:
        return
    # Only now is the whole list sent, to name what differs.
    text = world.share_bytes("\n".join(lines).encode("utf-8", "surrogateescape"), source=0)
    first = text.decode("utf-8", "surrogateescape").split("\n")
    differing = (i for i, (mine, other) in enumerate(zip(lines, first, strict=True)) if mine != other)
    place = min(i for i in world.exchange(next(differing, len(lines))) if i is not None)
    require_equal(world, "data", world.exchange(f"{lines[place]} as image {place + 1:,}"), _REMEDY)


def _lines(index: ImageIndex) -> list[str]:
    """What is known of each image, on one line."""
    lines = []
    for i, path in enumerate(index.paths):
        label, split = int(index.labels[i]), int(index.given_split[i])
        line = f"{shown(path)} ({'no label' if label == UNLABELLED else shown(index.classes[label])}"
        line += "" if split < 0 else f", {SPLITS[split]}"
        line += "" if index.groups is None else f", group {shown(index.groups[i])}"
        lines.append(f"{line})")
    return lines


def _sample(index: ImageIndex) -> list[str]:
    """Name, size and hash of some images; the list ends after those that are large enough together."""
    described, read = [], 0
    for i in np.unique(np.linspace(0, len(index) - 1, SAMPLE).astype(int)).tolist():
        if read > SAMPLE_BYTES:
            break
        try:
            source = index.source(i)
            data = read_file(source) if isinstance(source, Path) else source.tobytes()
        except UnreadableImageError as error:
            described.append(f"{shown(index.paths[i])}, which cannot be read ({error})")
            continue
        read += len(data)
        described.append(f"{shown(index.paths[i])} with {len(data):,} bytes (hash {content_hash(data):016x})")
    return described

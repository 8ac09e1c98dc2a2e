"""Random changes to images: one affine warp and one colour step, drawn as a pure function of (seed, epoch, index).

What is drawn for an image depends on nothing else: not on the batch it stands in, the number of threads, or the
images before it. That is what makes resuming bit-exact and lets two ranks agree without talking.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tintype.config import AugmentConfig

Fill = Literal["nearest", "reflect"]

_GOLDEN = 0x9E3779B97F4A7C15
_CV2_BORDER = {"nearest": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT_101}
_TORCH_PADDING = {"nearest": "border", "reflect": "reflection"}
_IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
# The columns of `uniform`. An effect keeps its column, so switching one on changes no other.
_ROTATION, _SHEAR, _ZOOM, _SHIFT_X, _SHIFT_Y, _FLIP_X, _FLIP_Y, _BRIGHTNESS, _CONTRAST = range(9)

# Up to this side many images are warped by one call, as a call costs as long as a 28-pixel image takes. Mosaic
# against a call per image on one core (OpenCV 5.0, AMD EPYC): 376,000 and 253,000 images/s at 28x28x1, 53,000 and
# 53,000 at 64x64x3, 5,500 and 6,100 at 180x180x3. With two threads small calls contend for the interpreter lock:
# 671,000 and 274,000 at 28x28x1.
_MOSAIC_SIDE = 64
# A mosaic's maps must stay in a core's second-level cache.
_MOSAIC_ROWS = 2048
# Coordinates in a mosaic are multiples of this many pixels. Below 2,048 rows their sums are then exact in
# float32, so that an image's grey levels do not depend on its place in the mosaic.
_MOSAIC_GRID = 2.0**-12

# Half a megabyte takes a core 1 to 2 ms. In training, sharing less than that between threads made 256 MNIST images
# slower (18,200 images/s trained against 18,900), as torch's own threads still spin after a step.
_PART_BYTES = 2**19

_cv2_lock = threading.Lock()


@dataclass(frozen=True)
class Warps:
    """What happens to each of B images.

    Attributes:
        matrices: (B, 2, 3) float32; maps pixel coordinates (x, y, 1) of the output to those of the input, with
            pixel centres at whole numbers.
        gains: (B,) float32; a grey level v becomes ``gain * v + offset``, rounded and cut to 0..255.
        offsets: (B,) float32, in grey levels.
    """

    matrices: NDArray[np.float32]
    gains: NDArray[np.float32]
    offsets: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, part: slice) -> Warps:
        return Warps(self.matrices[part], self.gains[part], self.offsets[part])


def uniform(seed: int, epoch: int | NDArray[np.int64], indices: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """Random numbers that belong to (seed, epoch, image index), without any state.

    Each of seed, epoch, index and number of the draw in turn picks the output of that number from the splitmix64
    generator whose state is the result so far (Steele, Lea and Flood, OOPSLA 2014).

    Args:
        seed: Seed of the run, not negative.
        epoch: The epoch, or one per image.
        indices: (B,) image indices, not negative.
        draws: Numbers wanted per image.

    Returns:
        (B, draws) float64 in [0, 1), multiples of 2**-53.
    """
    state = np.zeros(1, dtype=np.uint64)
    for number in (seed, epoch, indices):
        state = _splitmix64(state, np.atleast_1d(np.asarray(number, dtype=np.uint64)))
    bits = _splitmix64(state[:, None], np.arange(draws, dtype=np.uint64))
    return np.asarray(bits >> np.uint64(11), dtype=np.float64) * 2.0**-53


def draw_warps(
    config: AugmentConfig, seed: int, epoch: int | NDArray[np.int64], indices: NDArray[np.int64], size: int
) -> Warps:
    """Draw every image's warp and colour step.

    The map from output to input is that of Keras' ``ImageDataGenerator``: about the image's centre, rotation times
    shift times shear times zoom, then the flips. As there, a shear by s degrees takes (x, y) to
    (x cos s, y - x sin s). Other than there, zoom is one magnification for both axes, log-uniform between 1 - x and
    1 + x, so above 1 the picture grows. Contrast is uniform about mid grey (127.5).

    Args:
        config: Resolved settings, no number None.
        seed: Seed of the run.
        epoch: The epoch, or one per image.
        indices: (B,) image indices.
        size: Side of the images in pixels.
    """
    settings = (config.rotation, config.shear, config.zoom, config.shift, config.brightness, config.contrast)
    rotation, shear, zoom, shift, brightness, contrast = (_required(value) for value in settings)
    drawn = uniform(seed, epoch, indices, 9)
    signed = 2 * drawn - 1

    turn, slant = np.deg2rad(rotation) * signed[:, _ROTATION], np.deg2rad(shear) * signed[:, _SHEAR]
    flipped = (drawn[:, [_FLIP_X, _FLIP_Y]] < 0.5) & [bool(config.flip_horizontal), bool(config.flip_vertical)]
    flips = np.where(flipped, -1.0, 1.0)
    low, high = np.log(1 - zoom), np.log(1 + zoom)
    magnification = np.exp(low + (high - low) * drawn[:, _ZOOM])
    shifts = size * shift * signed[:, [_SHIFT_X, _SHIFT_Y]]
    # Keras' first axis is y, so its positive angles turn the other way than the textbook's matrix in (x, y).
    rotations = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]).transpose(2, 0, 1)
    shears = np.array([[np.cos(slant), 0 * slant], [-np.sin(slant), 0 * slant + 1]]).transpose(2, 0, 1)
    centre = (size - 1) / 2
    matrices = np.empty((len(indices), 2, 3))
    matrices[:, :, :2] = rotations @ shears * (flips / magnification[:, None])[:, None, :]
    matrices[:, :, 2] = centre + (rotations @ shifts[:, :, None])[:, :, 0] - centre * matrices[:, :, :2].sum(axis=2)

    gains = 1 + contrast * signed[:, _CONTRAST]
    offsets = 127.5 * (1 - gains) + 255 * brightness * signed[:, _BRIGHTNESS]
    return Warps(matrices.astype(np.float32), gains.astype(np.float32), offsets.astype(np.float32))


def augment_numpy(
    images_NHWC: NDArray[np.uint8],
    warps: Warps,
    fill: Fill,
    threads: int,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.uint8]:
    """Warp square images on the CPU, with linear interpolation.

    OpenCV's thread count is process-wide and its pool would fight ours; it is 1 during the call and what it was
    afterwards. Calls from several threads wait for each other.

    Args:
        images_NHWC: (N, S, S, C) uint8, C 1 or 3; it may be a memory map.
        warps: The warps of B images.
        fill: What stands outside the image: its border pixel, or the image mirrored about its border pixels.
        threads: Threads that share the work; the result does not depend on it.
        rows: (B,) rows of ``images_NHWC`` to take, without an extra copy. None: all, and B is N.

    Returns:
        (B, S, S, C) uint8, a new array.
    """
    images = np.asarray(images_NHWC)  # views of a memory map are slow to make
    rows = np.arange(len(images)) if rows is None else rows
    assert len(rows) == len(warps)
    assert images.shape[1] == images.shape[2]
    out = np.empty((len(rows), *images.shape[1:]), dtype=np.uint8)
    warp = _warp_mosaics if images.shape[1] <= _MOSAIC_SIDE else _warp_each

    def work(part: slice) -> None:
        warp(images, rows[part], warps[part], fill, out[part])

    # More parts than threads, as threads are not equally fast; and none too small to be worth handing over.
    parts = 1 if threads == 1 else max(1, min(4 * threads, out.nbytes // _PART_BYTES))
    step = max(1, -(-len(rows) // parts))
    slices = [slice(start, start + step) for start in range(0, len(rows), step)]
    with _cv2_lock:
        before = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            if len(slices) <= 1:
                list(map(work, slices))
            else:
                list(_pool(threads, os.getpid()).map(work, slices))
        finally:
            cv2.setNumThreads(before)
    return out


def augment_torch(images_NCHW: torch.Tensor, warps: Warps, fill: Fill) -> torch.Tensor:
    """Warp square images on whatever device they are on, with linear interpolation.

    It agrees with :func:`augment_numpy` within one grey level on average.

    Args:
        images_NCHW: (B, C, S, S) uint8.
        warps: The warps of the B images.
        fill: As in :func:`augment_numpy`.

    Returns:
        (B, C, S, S) uint8 in channels-last memory, on the same device.
    """
    device, size = images_NCHW.device, images_NCHW.shape[-1]
    assert len(images_NCHW) == len(warps)
    assert images_NCHW.shape[-2] == size
    # align_corners=True counts in pixel centres from -1 to 1, as the matrices do from 0 to size - 1.
    centre = (size - 1) / 2
    theta = warps.matrices.astype(np.float64)
    theta[:, :, 2] += centre * (theta[:, :, 0] + theta[:, :, 1] - 1)
    theta[:, :, 2] /= centre
    color = np.stack([warps.gains, warps.offsets]).reshape(2, -1, 1, 1, 1)
    theta_on_device = torch.from_numpy(theta.astype(np.float32)).to(device, non_blocking=True)
    gains, offsets = torch.from_numpy(color).to(device, non_blocking=True)

    grid = functional.affine_grid(theta_on_device, list(images_NCHW.shape), align_corners=True)
    warped = functional.grid_sample(
        images_NCHW.float(), grid, mode="bilinear", padding_mode=_TORCH_PADDING[fill], align_corners=True
    )
    levels = warped.mul_(gains).add_(offsets).round_().clamp_(0, 255)
    return levels.to(torch.uint8, memory_format=torch.channels_last)


def _splitmix64(state: NDArray[np.uint64], number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Output ``number`` of the splitmix64 generator that starts at ``state``."""
    mixed = state + (number + np.uint64(1)) * np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


def _required(value: float | None) -> float:
    assert value is not None, "the settings must be resolved"
    return value


@lru_cache(maxsize=2)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """The threads that warp, kept for reuse; a forked process gets its own, as threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"tintype-augment-{process}")


def _warp_each(
    images: NDArray[np.uint8], rows: NDArray[np.int64], warps: Warps, fill: Fill, out: NDArray[np.uint8]
) -> None:
    """One OpenCV call per image."""
    size = (images.shape[2], images.shape[1])
    moved = (warps.matrices != _IDENTITY).any(axis=(1, 2)).tolist()
    for position, row in enumerate(rows.tolist()):
        if moved[position]:
            cv2.warpAffine(
                images[row],
                warps.matrices[position],
                size,
                dst=out[position],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=_CV2_BORDER[fill],
            )
        else:
            out[position] = images[row]
    _recolor(out, warps)


def _warp_mosaics(
    images: NDArray[np.uint8], rows: NDArray[np.int64], warps: Warps, fill: Fill, out: NDArray[np.uint8]
) -> None:
    """Stack images into one tall image and warp it by one map."""
    side, channels = images.shape[2], images.shape[3]
    count = _MOSAIC_ROWS // side
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        source = images[rows[part]]
        tall = (len(source) * side, side)
        map_x, map_y = _mosaic_maps(warps.matrices[part], side, fill)
        # The maps never leave their image, so this border is never looked at but with weight 0.
        cv2.remap(
            source.reshape(*tall, channels),
            map_x.reshape(tall),
            map_y.reshape(tall),
            cv2.INTER_LINEAR,
            dst=out[part].reshape(*tall, channels),
            borderMode=cv2.BORDER_REPLICATE,
        )
    _recolor(out, warps)


def _mosaic_maps(
    matrices: NDArray[np.float32], side: int, fill: Fill
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where each pixel of a mosaic comes from: x and y, each (n, side, side) float32."""
    last = np.float32(side - 1)
    steps = np.arange(side, dtype=np.float32)
    gridded = np.rint(matrices / np.float32(_MOSAIC_GRID)) * np.float32(_MOSAIC_GRID)
    maps = []
    for axis in range(2):
        along_x, along_y, constant = (gridded[:, axis, column, None] for column in range(3))
        places = (along_y * steps + constant)[:, :, None] + (along_x * steps)[:, None, :]
        if fill == "nearest":
            np.clip(places, 0, last, out=places)
        else:
            # A zigzag between 0 and last with a period of 2 * last; most warps stay within one period.
            np.abs(places, out=places)
            if places.max(initial=0) > 2 * last:
                np.fmod(places, 2 * last, out=places)
            np.subtract(last, places, out=places)
            np.abs(places, out=places)
            np.subtract(last, places, out=places)
        maps.append(places)
    maps[1] += np.arange(len(matrices), dtype=np.float32)[:, None, None] * side
    return maps[0], maps[1]


def _recolor(images: NDArray[np.uint8], warps: Warps) -> None:
    """Gain and offset in place.

    ``addWeighted`` rounds and cuts to 0..255 (``convertScaleAbs`` would mirror negative values) and is the fastest:
    84,000 images of 180x180x3 a second, against 38,000 with a table per image and 22,000 in numpy.
    """
    changed = (warps.gains != 1) | (warps.offsets != 0)
    gains, offsets = warps.gains.tolist(), warps.offsets.tolist()
    for position in np.flatnonzero(changed).tolist():
        image = images[position]
        cv2.addWeighted(image, gains[position], image, 0.0, offsets[position], dst=image)

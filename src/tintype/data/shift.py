"""Whether other images look like those that a model was trained on, told by a few figures that ship with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tintype.records import Finding, ImageStatistics, Shift

if TYPE_CHECKING:
    from tintype.data.cache import ImageCache  # with all of its room; labelling one image needs none of it

POLARITY_SHARE = 0.8
"""Share of one polarity from which on a set is said to have it."""
MOST_BRIGHTNESS = 48.0
"""Grey levels; mean images that differ by more are reported."""
MOST_CONTRAST = 1.8
"""Factor between the deviations inside images from which on it is reported."""
LEAST_SIZE = 0.5
"""Share of the trained images' size below which other images are reported as small."""
STATISTICS_VERSION = 1
"""Raised whenever the same images would be measured differently."""
_SAMPLE = 2000
_SAMPLE_PIXELS = 25_000_000  # 500 images of 224 px, which take a third of a second
_LEAST_SAMPLE = 200
_AT_ONCE = 64
_TINT = 3.0  # mean difference of the channels in grey levels
_EVEN_BORDER = 32.0  # grey levels around the border's median
_EVEN_SHARE = 0.9
_STANDS_OUT = 48.0  # grey levels from the border's median
_LEAST_FOREGROUND, _MOST_FOREGROUND = 0.005, 0.6


def compare_figures(trained: ImageStatistics, other: ImageStatistics) -> list[Shift]:
    """All figures of two sets side by side.

    Grey levels of sets of opposite polarity are compared after inversion, as the predictions are made.
    """
    is_inverted = polarity_differs(trained, other)
    note = ", inverted" if is_inverted else ""

    def grey(words: str, name: str) -> Shift:
        here, there = getattr(other, name), getattr(trained, name)
        return _apart(words + note, "grey", 255 - here if is_inverted else here, there, trained.spread.get(name))

    side, trained_side = min(other.width, other.height), min(trained.width, trained.height)
    return [
        grey("brightness (mean grey level)", "mean"),
        _apart(
            "contrast (deviation of the grey levels)", "grey", other.deviation, trained.deviation,
            trained.spread.get("deviation"),
        ),
        grey("background (grey level of the border)", "border"),
        grey("grey level of the middle", "centre"),
        _apart("size (shorter side)", "pixels", side, trained_side, trained.spread.get("side")),
        _apart("dark on light", "share", other.dark_on_light, trained.dark_on_light, None),
        _apart("in colour", "share", other.color, trained.color, None),
    ]  # fmt: skip


def _apart(
    figure: str, kind: Literal["grey", "share", "pixels"], other: float, trained: float, spread: float | None
) -> Shift:
    return Shift(figure, kind, other, trained, (other - trained) / spread if spread else None)


def image_statistics(cache: ImageCache, indices: NDArray[np.int64]) -> ImageStatistics:
    """Measure at most 2,000 of the given images, fewer where they are large, evenly taken.

    ``dark_on_light`` is the share among the images that show something on an even ground, and 0.5 where fewer than
    half do: photos have no polarity.

    Args:
        cache: The images.
        indices: Positions in the index; unusable ones are passed over. At least one has to be usable.
    """
    from tintype.data.kept import kept_figures

    usable = indices[cache.usable[indices]]
    assert len(usable), "no usable image to measure"
    sample = min(_SAMPLE, max(_LEAST_SAMPLE, _SAMPLE_PIXELS // cache.geometry.size**2))
    rows = usable[np.unique(np.linspace(0, len(usable) - 1, min(len(usable), sample)).astype(np.int64))]
    what = f"statistics {STATISTICS_VERSION}"
    kept = kept_figures(cache.fingerprint, what, lambda: {"measured": _measure_all(cache, rows)}, [rows])
    measured = kept["measured"].astype(np.float64)
    mean, deviation, border, centre, color = measured[:, :5].mean(axis=0).tolist()
    polarity = measured[:, 5]
    is_decided = ~np.isnan(polarity)
    dark_on_light = float(polarity[is_decided].mean()) if 2 * is_decided.sum() >= len(rows) else 0.5
    sides = np.minimum(cache.widths[rows], cache.heights[rows])
    spread = dict(zip(("mean", "deviation", "border", "centre"), measured[:, :4].std(axis=0).tolist(), strict=True))
    return ImageStatistics(
        n=len(rows),
        mean=mean,
        deviation=deviation,
        border=border,
        centre=centre,
        dark_on_light=dark_on_light,
        color=color,
        width=float(np.median(cache.widths[rows])),
        height=float(np.median(cache.heights[rows])),
        spread={**spread, "side": float(sides.std())},
    )


def _measure_all(cache: ImageCache, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.concatenate([_measure(cache.images[part]) for part in _slices(rows)])


def polarity_differs(trained: ImageStatistics, other: ImageStatistics) -> bool:
    """True when one set is dark on light and the other light on dark, both grey and on even grounds."""
    if max(trained.color, other.color) > 1 - POLARITY_SHARE:
        return False
    low, high = sorted((trained.dark_on_light, other.dark_on_light))
    if low > 1 - POLARITY_SHARE or high < POLARITY_SHARE:
        return False
    # Turned round, the other ground has to be more like the trained one.
    return abs(255 - other.border - trained.border) < abs(other.border - trained.border)


def opposite_polarity(trained: ImageStatistics, images_NHWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which images are negatives of what a model was trained on, so that it should see them inverted.

    Only where the trained images are grey and nearly all of one polarity, such as digits and drawings; never for
    photos. Where an image's own polarity cannot be told, the ground that is nearer to the trained one decides.

    Args:
        trained: What the training images look like.
        images_NHWC: uint8, decoded as for the model.

    Returns:
        True for images to invert, shape (N,).
    """
    if trained.color > 1 - POLARITY_SHARE or 1 - POLARITY_SHARE < trained.dark_on_light < POLARITY_SHARE:
        return np.zeros(len(images_NHWC), dtype=np.bool_)
    grey_NHW = _grey(images_NHWC)
    dark = _dark_on_light(grey_NHW)
    ground = np.median(_border(grey_NHW), axis=1)
    is_nearer_inverted = np.abs(255 - ground - trained.border) < np.abs(ground - trained.border)
    is_opposite = dark == (0.0 if trained.dark_on_light > 0.5 else 1.0)
    return np.asarray(np.where(np.isnan(dark), is_nearer_inverted, is_opposite), dtype=np.bool_)


def compare_statistics(trained: ImageStatistics, other: ImageStatistics) -> list[Finding]:
    """Say in what other images differ from the trained ones so much that a model may fail on them.

    Brightness is compared after inversion where the polarity differs, because predictions are made on inverted
    images then.
    """
    findings = []
    mean = other.mean
    if polarity_differs(trained, other):
        mean = 255 - mean
        findings.append(
            Finding(
                "shift-polarity",
                "warning",
                f"these images are {_polarity(other)}, the training images {_polarity(trained)}",
                (
                    f"here: {100 * other.dark_on_light:.0f} % dark on light, mean border {other.border:.0f}",
                    f"in training: {100 * trained.dark_on_light:.0f} % dark on light, mean border {trained.border:.0f}",
                ),
                "They are inverted before prediction. Train on both polarities if both will come.",
            )
        )
    findings += _levels(trained, other, mean)
    size, trained_size = min(other.width, other.height), min(trained.width, trained.height)
    if size < LEAST_SIZE * trained_size:
        findings.append(
            Finding(
                "shift-size",
                "warning",
                f"these images are small: {other.width:.0f}x{other.height:.0f} pixels in the middle, the training "
                f"images {trained.width:.0f}x{trained.height:.0f}",
                (),
                "They lack detail that the model may rely on. Use larger originals, or train at a smaller image size.",
            )
        )
    if abs(trained.color - other.color) > POLARITY_SHARE:
        ours, theirs = ("grey", "in colour") if trained.color > other.color else ("in colour", "grey")
        findings.append(
            Finding(
                "shift-color",
                "warning",
                f"these images are {ours}, the training images {theirs}",
                (f"with colour: {100 * other.color:.0f} % here, {100 * trained.color:.0f} % in training",),
                "A model may rely on colour. Use images of one kind, or train on grey ones: --set data.color=grey.",
            )
        )
    return findings


def _levels(trained: ImageStatistics, other: ImageStatistics, mean: float) -> Iterator[Finding]:
    """Findings on contrast and brightness; ``mean`` is the other mean grey level, inverted if need be."""
    factor = max(1.0, other.deviation) / max(1.0, trained.deviation)
    if max(factor, 1 / factor) > MOST_CONTRAST:
        yield Finding(
            "shift-contrast",
            "warning",
            f"these images have {'more' if factor > 1 else 'less'} contrast than the training images: grey levels "
            f"deviate by {other.deviation:.0f} instead of {trained.deviation:.0f}",
            (),
            "Stretch the contrast of these images, or train with a wider --set augment.contrast.",
        )
    if abs(mean - trained.mean) > MOST_BRIGHTNESS:
        yield Finding(
            "shift-brightness",
            "warning",
            f"these images are {'brighter' if mean > trained.mean else 'darker'} than the training images: mean grey "
            f"level {mean:.0f} instead of {trained.mean:.0f}",
            (),
            "Look whether they were exposed or cut differently, or train with a wider --set augment.brightness.",
        )


def _polarity(statistics: ImageStatistics) -> str:
    return "dark on light" if statistics.dark_on_light > 0.5 else "light on dark"


def dark_on_light(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Whether what stands out from an even border is darker than it, image by image.

    Args:
        images_NHWC: uint8, shape (N, S, S, C) with C 1 or 3.

    Returns:
        1 where it is darker, 0 where it is lighter, NaN where the border is uneven or nothing stands out; shape (N,).
    """
    return _dark_on_light(_grey(images_NHWC))


def _grey(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    if images_NHWC.shape[3] == 1:
        return images_NHWC[..., 0].astype(np.float32)
    import cv2  # a tenth of a second, for grey images kept in colour alone

    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images_NHWC]).astype(np.float32)


def _measure(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Columns mean, deviation, border, centre, whether coloured, whether dark on light (NaN where undecided)."""
    n, height, width, channels = images_NHWC.shape
    grey_NHW = _grey(images_NHWC)
    color = np.zeros(n)
    if channels == 3:
        red, green, blue = (images_NHWC[..., channel] for channel in range(3))
        spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        color = (spread.mean(axis=(1, 2)) > _TINT).astype(np.float64)
    top, left = height // 4, width // 4
    return np.stack(
        [
            grey_NHW.mean(axis=(1, 2)),
            grey_NHW.std(axis=(1, 2)),
            _border(grey_NHW).mean(axis=1),
            grey_NHW[:, top : height - top, left : width - left].mean(axis=(1, 2)),
            color,
            _dark_on_light(grey_NHW),
        ],
        axis=1,
    )


def _border(grey_NHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """The outermost pixels, shape (N, B)."""
    ring = np.ones(grey_NHW.shape[1:], dtype=np.bool_)
    ring[1:-1, 1:-1] = False
    return grey_NHW[:, ring]


def _dark_on_light(grey_NHW: NDArray[np.float32]) -> NDArray[np.float64]:
    border_NB = _border(grey_NHW)
    ground = np.median(border_NB, axis=1, keepdims=True)
    is_even = (np.abs(border_NB - ground) <= _EVEN_BORDER).mean(axis=1) >= _EVEN_SHARE
    above = grey_NHW - ground[:, None]
    stands_out = np.abs(above) > _STANDS_OUT
    share = stands_out.mean(axis=(1, 2))
    is_decided = is_even & (share >= _LEAST_FOREGROUND) & (share <= _MOST_FOREGROUND)
    return np.where(is_decided, (above * stands_out).sum(axis=(1, 2)) < 0, np.nan)


def _slices(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), _AT_ONCE):
        yield rows[start : start + _AT_ONCE]

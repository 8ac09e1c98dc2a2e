"""Look for what would make a result wrong before anything is trained, and say it with evidence and remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.data.cache import ImageCache
from tintype.data.duplicates import DUPLICATES_VERSION, Duplicates, find_duplicates
from tintype.data.index import counted, shown
from tintype.data.kept import kept_figures
from tintype.data.leakage import Placed, copies_findings
from tintype.data.likeness import LOOKS_VERSION, Looks, measure
from tintype.data.oddities import blank_images, mixed_modes, odd_shapes
from tintype.data.shortcuts import shortcuts
from tintype.data.split import Split
from tintype.records import Finding, OnProgress, silent

IMBALANCE = 5.0
"""Images of the largest class over those of the smallest from which on it is said."""
FEW_IMAGES = 20
"""Training images of a class below which little can be learned of it."""
_SMALL_TEST, _MODEST_TEST = 100, 400
_MOST_EVIDENCE = 24
_Z_SQUARED = 1.959964**2  # 95 %


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        findings: In the order of looking; see :func:`tintype.rundir.sort_findings`.
        leaked_test: Positions in the index of test images that stand in training or validation too, ascending.
    """

    findings: tuple[Finding, ...]
    leaked_test: NDArray[np.int64]


def audit(cache: ImageCache, split: Split, on_progress: OnProgress = silent) -> Audit:
    """Look at all images of the splits. The findings of the split itself are not repeated.

    Args:
        cache: The decoded images; read once, in slices.
        split: Its three parts are compared with each other.
        on_progress: Told how many images have been looked at.
    """
    findings = [*_bad_files(cache), *_class_sizes(cache, split), *_test_size(split)]
    parts = (split.train, split.validation, split.test)
    rows = np.concatenate(parts)
    if not len(rows):
        return Audit(tuple(findings), np.empty(0, np.int64))
    part = np.repeat(np.array([0, 1, 2], dtype=np.int8), [len(rows_of_part) for rows_of_part in parts])
    order = np.argsort(rows, kind="stable")  # in the order of the disk
    rows, part = rows[order], part[order]
    looks = _looks(cache, rows, on_progress)
    copies = _copies(cache, rows, looks)
    about_copies, leaked = copies_findings(Placed(cache.index, rows, part), copies)
    findings += [
        *about_copies,
        *blank_images(cache, rows, looks.relief),
        *shortcuts(cache, rows[copies.is_first]),
        *odd_shapes(cache, rows),
        *mixed_modes(cache, rows),
    ]
    return Audit(tuple(findings), rows[leaked])


def _looks(cache: ImageCache, rows: NDArray[np.int64], on_progress: OnProgress) -> Looks:
    """What the given images look like; kept of all that can be read, since other splits ask for others of them."""

    def measure_all() -> dict[str, NDArray[np.float32]]:
        usable = np.flatnonzero(cache.usable)
        found = measure(cache.images, usable, on_progress)
        spectrum = np.zeros((len(cache.usable), found.spectrum.shape[1]), np.float32)
        relief = np.zeros(len(cache.usable), np.float32)
        spectrum[usable], relief[usable] = found.spectrum, found.relief
        return {"spectrum": spectrum, "relief": relief}

    kept = kept_figures(cache.fingerprint, f"looks {LOOKS_VERSION}", measure_all)
    return Looks(kept["spectrum"][rows].astype(np.float32), kept["relief"][rows].astype(np.float32))


def _copies(cache: ImageCache, rows: NDArray[np.int64], looks: Looks) -> Duplicates:
    """The copies among the given images, kept for them."""
    kept = kept_figures(
        cache.fingerprint,
        f"copies {DUPLICATES_VERSION}, {LOOKS_VERSION}",
        lambda: asdict(find_duplicates(cache.images, rows, cache.content_hash, looks)),
        [rows],
    )
    return Duplicates(**kept)  # type: ignore[arg-type]


def _bad_files(cache: ImageCache) -> list[Finding]:
    if not cache.bad:
        return []
    return [
        Finding(
            "bad-files",
            "warning",
            f"{counted(len(cache.bad), 'file')} of {len(cache.index):,} cannot be read and "
            f"{'was' if len(cache.bad) == 1 else 'were'} left out",
            tuple(f"{shown(path)}: {reason}" for path, reason in list(cache.bad.items())[:_MOST_EVIDENCE]),
            "Mend or remove them.",
        )
    ]


def _class_sizes(cache: ImageCache, split: Split) -> list[Finding]:
    names = cache.index.classes
    images = np.bincount(cache.index.labels[split.train], minlength=len(names))
    order = [label for label in np.argsort(images, kind="stable").tolist() if images[label]]
    if not order:
        return []
    findings = []
    smallest, largest = order[0], order[-1]
    ratio = images[largest] / images[smallest]
    if ratio >= IMBALANCE:
        shown_classes = [*order[::-1][: _MOST_EVIDENCE // 2], *order[: _MOST_EVIDENCE // 2][::-1]]
        findings.append(
            Finding(
                "class-imbalance",
                "warning",
                f"{shown(names[largest])} has {ratio:.3g} times as many training images as {shown(names[smallest])}",
                tuple(f"{shown(names[label])}: {int(images[label]):,}" for label in dict.fromkeys(shown_classes)),
                "Look at the figures of each class and at macro averages rather than at the accuracy. Add images of "
                "the small classes, or let them weigh more: --set fit.class_weights=balanced.",
            )
        )
    few = [label for label in order if images[label] < FEW_IMAGES]
    if few:
        findings.append(
            Finding(
                "few-images",
                "warning",
                f"{counted(len(few), 'class')} with fewer than {FEW_IMAGES} training images",
                tuple(f"{shown(names[label])}: {int(images[label]):,}" for label in few[:_MOST_EVIDENCE]),
                "So few images are learned by heart rather than understood. Add some.",
            )
        )
    return findings


def _test_size(split: Split) -> list[Finding]:
    n = len(split.test)
    if n == 0:
        return [
            Finding(
                "no-test-set",
                "warning",
                "no image is held out for the test",
                (),
                "The validation figures are too good, as the best epoch was chosen by them. Set data.test_fraction.",
            )
        ]
    if n >= _MODEST_TEST:
        return []
    low = n / (n + _Z_SQUARED)  # Wilson's lower bound of n right out of n
    half = _Z_SQUARED**0.5 * np.sqrt(0.9 * 0.1 / n)
    return [
        Finding(
            "small-test-set",
            "warning" if n < _SMALL_TEST else "info",
            f"with {counted(n, 'test image')} even a perfect score proves no more than an accuracy above {low:.2f}; "
            f"around 0.90 the uncertainty is ±{half:.2f}",
            (),
            "Differences smaller than that are chance. Add test images, or repeat over several splits.",
        )
    ]

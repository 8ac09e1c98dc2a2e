"""Shortcut baselines on images whose class is planted in one place: the shortcut that sees it finds it alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tintype.data.cache import ImageCache
from tintype.data.index import ImageIndex
from tintype.data.pixels import Geometry
from tintype.data.split import Split
from tintype.evaluation.baselines import Baselines, baseline_findings
from tintype.records import Predictions, SplitName
from tintype.runtime import Runtime
from tintype.training.baselines import MOST_IMAGES, shortcut_baselines, stratified

RUNTIME = Runtime(torch.device("cpu"), 1, 0)
SIDE = 48


def cache_of(
    images_NHWC: NDArray[np.uint8], labels: NDArray[np.int64], classes: int, files: int | None = None
) -> ImageCache:
    n, side, _, channels = images_NHWC.shape
    names = tuple(f"class {number}" for number in range(classes))
    index = ImageIndex(
        "npz", Path("made.npz"), names, tuple(map(str, range(n))), labels, np.full(n, -1, np.int8), None, None, "made"
    )
    sides = np.full(n, files or side, np.int32)
    return ImageCache(
        index, Geometry(side, channels, "stretch"), images_NHWC, np.ones(n, np.bool_), {}, sides, sides,
        ("RGB",) * n, np.arange(n).astype(np.uint64), "made", was_built=True,
    )  # fmt: skip


def halves(n: int) -> Split:
    rows = np.arange(n)
    return Split(rows[: n // 2], rows[:0], rows[n // 2 :], "", ())


def answers(cache: ImageCache, rows: NDArray[np.int64], share: float, split: SplitName = "test") -> Predictions:
    """Of a network that is right for exactly so many of the rows."""
    labels, classes = cache.index.labels[rows], len(cache.index.classes)
    wrong = np.random.default_rng(9).permutation(len(rows))[round(share * len(rows)) :]
    said = labels.copy()
    said[wrong] = (said[wrong] + 1) % classes
    paths = tuple(cache.index.paths[row] for row in rows.tolist())
    return Predictions(split, cache.index.classes, paths, labels, np.eye(classes, dtype=np.float32)[said])


def noise(n: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64], np.random.Generator]:
    random = np.random.default_rng(seed)
    images = random.integers(60, 190, (n, SIDE, SIDE, 3), dtype=np.uint8)
    return images, (np.arange(n) % 2).astype(np.int64), random


def judged(images: NDArray[np.uint8], labels: NDArray[np.int64], share: float = 0.99) -> Baselines:
    cache, split = cache_of(images, labels, 2), halves(len(images))
    return shortcut_baselines(cache, split, answers(cache, split.test, share), RUNTIME)


def accuracies(found: Baselines) -> dict[str, float]:
    return {row.name: row.accuracy.value for row in found.rows}


def test_a_mark_at_the_border_is_found_by_the_border_alone() -> None:
    images, labels, _ = noise(400)
    images[labels == 1, :3, 10:40] = 250  # such as a label that one hospital puts on its X-rays
    found = judged(images, labels)
    assert accuracies(found)["border"] > 0.98
    (finding,) = baseline_findings(found)
    assert (finding.code, finding.severity) == ("hardly-better-than-shortcut", "critical")
    assert "outermost 8 %" in finding.title


def test_a_tint_is_found_by_the_colours() -> None:
    images, labels, _ = noise(400)
    centre = images[labels == 1, 12:36, 12:36]
    images[labels == 1, 12:36, 12:36] = np.clip(centre + np.array([40, 0, -40]), 0, 255)
    found = accuracies(judged(images, labels))
    assert found["colours"] > 0.97
    assert found["border"] < 0.65


def test_a_large_dark_patch_is_found_by_the_blur() -> None:
    images, labels, _ = noise(400)
    for number in range(400):
        left = 12 if labels[number] else 24
        images[number, 12:36, left : left + 12] //= 2
    found = accuracies(judged(images, labels))
    assert found["blurred"] > 0.97
    assert max(found["colours"], found["border"]) < 0.65


def test_what_is_in_the_shape_alone_is_found_by_none() -> None:
    images, labels, random = noise(600)
    stripes = np.tile([[0, 120]], (24, 12))
    for number in range(600):
        turned = stripes.T if labels[number] else stripes
        pattern = np.roll(turned, int(random.integers(2)), axis=(0, 1))
        images[number, 12:36, 12:36] = 60 + pattern[:, :, None]
    found = judged(images, labels)
    assert max(accuracies(found).values()) < 0.62
    assert baseline_findings(found) == []
    assert found.seconds < 60


def test_the_same_images_are_looked_at_once() -> None:
    images, labels, _ = noise(200)
    cache, split = cache_of(images, labels, 2), halves(200)
    looked: list[str] = []

    def found(of: Split) -> Baselines:
        said = answers(cache, of.test, 0.9)
        return shortcut_baselines(cache, of, said, RUNTIME, lambda task, done, total: looked.append(task))

    first = found(split)
    assert looked
    looked.clear()
    again = found(split)
    assert not looked
    assert again.rows == first.rows
    found(Split(split.train[1:], split.validation, split.test, "", ()))
    assert looked


def test_grey_images_and_the_figures_that_are_kept() -> None:
    images, labels, _ = noise(300)
    grey = np.ascontiguousarray(images[..., :1])
    cache = cache_of(grey, labels, 2)
    split = Split(np.arange(200), np.arange(200, 300), np.arange(0), "", ())
    found = shortcut_baselines(cache, split, answers(cache, split.validation, 0.8, "validation"), RUNTIME)
    assert [row.name for row in found.rows] == ["majority", "colours", "blurred", "border"]
    assert "grey levels" in found.rows[1].description
    assert (found.split, found.judged, found.trained, found.trained_of) == ("validation", 100, 200, 200)
    assert found.network.value == 0.8


def test_small_images_are_no_blur_of_themselves() -> None:
    images, labels, _ = noise(200)
    cache, split = cache_of(images, labels, 2, files=8), halves(200)
    found = shortcut_baselines(cache, split, answers(cache, split.test, 1.0), RUNTIME)
    assert "blurred" not in accuracies(found)
    assert "8 px images" in found.left_out[0]


def test_too_few_images_of_a_class_are_not_learnt_from() -> None:
    images, _, _ = noise(120)
    labels = (np.arange(120) % 12).astype(np.int64)
    cache, split = cache_of(images, labels, 12), halves(120)
    found = shortcut_baselines(cache, split, answers(cache, split.test, 1.0), RUNTIME)
    assert list(accuracies(found)) == ["majority"]
    assert "60 training images of 12 classes" in found.left_out[0]


def test_the_majority_class_is_that_of_the_training_images() -> None:
    images, _, _ = noise(100)
    labels = np.concatenate([np.repeat([0, 1], [30, 20]), np.repeat([0, 1], [10, 40])]).astype(np.int64)
    cache, split = cache_of(images, labels, 2), halves(100)
    found = shortcut_baselines(cache, split, answers(cache, split.test, 1.0), RUNTIME)
    assert accuracies(found)["majority"] == 0.2


def test_answers_to_random_labels_are_chance() -> None:
    images, labels, random = noise(1000)
    found = judged(images, random.permutation(labels), 0.5)
    assert all(row.accuracy.low < 0.55 and row.accuracy.high > 0.45 for row in found.rows)


def test_many_images_are_drawn_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [9000, 900, 100]).astype(np.int64)
    places = stratified(labels, 1000)
    assert len(places) == len(np.unique(places)) == 1000
    assert (np.diff(places) > 0).all()
    counts = Counter(labels[places].tolist())
    assert all(abs(counts[label] - share) <= 1 for label, share in ((0, 900), (1, 90), (2, 10)))
    np.testing.assert_array_equal(stratified(labels[:MOST_IMAGES], MOST_IMAGES), np.arange(MOST_IMAGES))

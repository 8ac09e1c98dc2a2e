"""Likely wrong labels of a data set: what a classifier that did not see an image thinks of its label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tintype.data.cache import ImageCache
from tintype.data.index import counted, shown
from tintype.data.likeness import thumbnail
from tintype.data.split import Split
from tintype.data.thumbnails import make_thumbnail
from tintype.errors import DataError
from tintype.evaluation.label_errors import LabelErrors, Suspect, find_label_errors, label_findings
from tintype.planning import Plan
from tintype.planning.chooser import SMALL_SIDE
from tintype.preparing import Prepared, build
from tintype.records import Finding
from tintype.report.mislabelled import (
    MOST_PICTURES,
    TABLE_NAME,
    SuspectPicture,
    write_labels_page,
    write_labels_table,
)
from tintype.training.features import run_frozen, vectors
from tintype.training.logistic import FOLDS, fit_logistic
from tintype.watch import Watch

EDGES_SIDE = 32
"""Side to which images are scaled where the directions of their edges are what the classifier sees."""

DIRECTIONS, PLACES = 8, 8
"""Directions of edges that are told apart, and places along each side where they are."""

_THUMBNAIL = 128


@dataclass(frozen=True)
class CheckedLabels:
    """The labels of a data set, looked at.

    Attributes:
        errors: What was found; positions count the images that were looked at.
        rows: Position in the index of each image that was looked at, ascending.
        findings: The same as a finding, where there is something to say.
    """

    errors: LabelErrors
    rows: NDArray[np.int64]
    findings: tuple[Finding, ...]


def check_labels(data: Prepared, watch: Watch = Watch()) -> CheckedLabels:
    """Find the labels that are likely to be wrong, in all splits together.

    Each image is judged by a logistic regression that was fitted without it, without its copies and without its group,
    on what a pretrained network sees of it, or on the pixels of small images.

    Args:
        data: The images with their split.
        watch: Progress and messages.

    Raises:
        DataError: There are photos and no pretrained weights, or too few images.
    """
    cache = data.cache
    groups = _groups(cache)
    rows, classes, left_out = _judgeable(cache, groups)
    features_RF, description = _features(data, rows, watch)
    watch.on_message(f"labels are judged from {description}")
    labels = np.searchsorted(classes, cache.index.labels[rows])

    def out_of_fold(labels_N: NDArray[np.int64]) -> NDArray[np.float32]:
        return _out_of_fold(features_RF, labels_N, len(classes), groups[rows], watch)

    splits = _splits(data.split, len(cache.index))
    images = [(cache.index.paths[row], splits[row]) for row in rows.tolist()]
    names = [cache.index.classes[label] for label in classes.tolist()]
    errors = find_label_errors(labels, out_of_fold, names, images, description, left_out)
    return CheckedLabels(errors, rows, tuple(label_findings(errors)))


def write_labels(
    checked: CheckedLabels, cache: ImageCache, source: str, *, folder: Path | None = None, table: Path | None = None
) -> list[Path]:
    """Write what was found.

    Args:
        checked: What was found.
        cache: The decoded images, for the pictures.
        source: The data, as it was given.
        folder: Gets ``labels.html`` and ``labels.csv``; None for no page.
        table: A CSV file; None for none outside the folder.

    Returns:
        The files.
    """
    tables = [] if table is None else [table]
    pages: list[Path] = []
    if folder is not None:
        pictures = [
            _picture(item, cache.images[checked.rows[item.place]]) for item in checked.errors.suspects[:MOST_PICTURES]
        ]
        tables.append(folder / TABLE_NAME)
        pages.append(write_labels_page(folder, source, checked.errors, pictures))
    for path in tables:
        write_labels_table(path, checked.errors)
    return [*tables, *pages]


def _picture(item: Suspect, image_HWC: NDArray[np.uint8]) -> SuspectPicture:
    thumbnail = make_thumbnail(np.asarray(image_HWC), _THUMBNAIL)
    url = f"data:{thumbnail.media_type};base64,{thumbnail.data}"
    return SuspectPicture(url, thumbnail.width, thumbnail.height, item)


def _splits(split: Split, n: int) -> list[str]:
    """Name of the split of each image of the index; empty where it is in none."""
    names = np.full(n, "", dtype="U10")
    for name, rows in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        names[rows] = name
    return [str(name) for name in names]


def _groups(cache: ImageCache) -> NDArray[np.int64]:
    """A number for each image of the index; images of one group, and copies of one file, share it. Shape (N,)."""
    _, same_content = np.unique(cache.content_hash, return_inverse=True)
    n = len(same_content)
    names = cache.index.groups
    if names is None:
        return np.asarray(same_content, dtype=np.int64)
    own = [name or f"\0{number}" for number, name in enumerate(names)]  # an empty name is no group
    _, same_group = np.unique(own, return_inverse=True)
    images = np.tile(np.arange(n), 2)
    sets = np.concatenate([same_content, same_group + same_content.max() + 1]) + n
    size = int(sets.max()) + 1
    graph = coo_array((np.ones(2 * n, np.int8), (images, sets)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][:n], dtype=np.int64)


def _judgeable(cache: ImageCache, groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """The images whose labels can be judged, the classes that are among them, and which were left out and why.

    A class needs as many groups as there are folds, so that every one is judged by others of its class.
    """
    labels = cache.index.labels
    rows = np.flatnonzero(cache.usable & (labels >= 0))
    sizes = np.array([len(np.unique(groups[rows[labels[rows] == label]])) for label in range(len(cache.index.classes))])
    classes = np.flatnonzero(sizes >= FOLDS)
    if len(classes) < 2:
        raise DataError(
            f"labels can be checked with at least two classes of {FOLDS} different images each; "
            f"{counted(len(classes), 'class')} of {shown(cache.index.root)} "
            f"{'has' if len(classes) == 1 else 'have'} so many. Add images."
        )
    kept = rows[np.isin(labels[rows], classes)]
    small = int((sizes > 0).sum()) - len(classes)
    left_out = (
        f"{counted(len(rows) - len(kept), 'image')} of {counted(small, 'class')} with fewer than {FOLDS} different "
        "images were not judged."
        if small
        else ""
    )
    return kept.astype(np.int64), classes.astype(np.int64), left_out


def _features(data: Prepared, rows: NDArray[np.int64], watch: Watch) -> tuple[torch.Tensor, str]:
    """What the classifier sees of each row, (R, F), and what that is in words."""
    model = data.plan.config.model
    if model.backbone is not None and model.weights != "none":
        return _network_features(data, rows, watch), f"what the pretrained {model.backbone} sees of each image"
    side = data.cache.geometry.size
    if side > SMALL_SIDE:
        raise DataError(
            f"the labels of {side} px photos are judged by what a pretrained network sees, and no weights were found. "
            "Name a folder of them in TINTYPE_WEIGHTS, let timm download some, or judge by pixels: --image-size "
            f"{EDGES_SIDE}."
        )
    return _pixel_features(
        data.cache, rows
    ), f"the directions of its edges and {PLACES} x {PLACES} pixels of each image"


def _network_features(data: Prepared, rows: NDArray[np.int64], watch: Watch) -> torch.Tensor:
    """Features of the whole backbone as `tintype train` keeps them, so that neither computes what the other did."""
    frozen = {
        "model.freeze": "all", "model.depth": None, "model.head": None, "heads": None, "fit.optimizer": "lbfgs",
        "fit.views": 1, "fit.feature_cache": True, "augment.policy": "none",
    }  # fmt: skip
    built = build(replace(data, plan=Plan(data.plan.config.replace(frozen), ())))
    config = built.plan.config
    assert built.cut is not None
    features = run_frozen(
        built.cut, data.cache, data.split, config.fit, config.augment, built.runtime, watch.on_progress
    )
    return vectors(built.cut.tail, features, rows, np.zeros_like(rows), built.runtime)


def _pixel_features(cache: ImageCache, rows: NDArray[np.int64]) -> torch.Tensor:
    """Which way the edges of small images run, and a few of their pixels, (R, F)."""
    found = []
    for row in rows.tolist():
        image_HWC = np.asarray(cache.images[row])
        pixels = cv2.resize(image_HWC, (PLACES, PLACES), interpolation=cv2.INTER_AREA)
        # Enlarging by areas would draw steps, whose edges are the grid's.
        how = cv2.INTER_AREA if image_HWC.shape[0] > EDGES_SIDE else cv2.INTER_LINEAR
        whole = np.asarray(cv2.resize(image_HWC, (EDGES_SIDE, EDGES_SIDE), interpolation=how), dtype=np.uint8)
        edges = edge_directions(thumbnail(whole, EDGES_SIDE))
        found.append(np.concatenate([pixels.ravel().astype(np.float32), edges]))
    return torch.from_numpy(np.stack(found))


def edge_directions(grey_SS: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How strongly edges run in each of 8 directions in each of 8 x 8 overlapping places; float32, shape (512,).

    A plain form of N. Dalal and B. Triggs, "Histograms of oriented gradients for human detection", CVPR 2005: a blur in
    place of cells, and the root of the shares in place of blocks. On 1,797 digits of 8 x 8 pixels a logistic regression
    of them is right on 0.993 of held-out images, of the pixels on 0.968; on 2,000 of CIFAR-10 on 0.50, with pixels on
    0.54.
    """
    grey = grey_SS.astype(np.float32)
    down, right = cv2.Sobel(grey, cv2.CV_32F, 0, 1), cv2.Sobel(grey, cv2.CV_32F, 1, 0)
    strength, angle = cv2.cartToPolar(right, down)
    place = angle * (DIRECTIONS / (2 * np.pi))
    nearest = np.arange(DIRECTIONS)[:, None, None]
    distance = np.abs((place - nearest + DIRECTIONS / 2) % DIRECTIONS - DIRECTIONS / 2)
    votes_DSS = strength * np.maximum(0, 1 - distance)
    blurred_SSD = cv2.GaussianBlur(votes_DSS.transpose(1, 2, 0), (0, 0), grey.shape[0] / 12)
    cells = cv2.resize(blurred_SSD, (PLACES, PLACES), interpolation=cv2.INTER_AREA)
    return np.asarray(np.sqrt(cells / max(1.0, float(cells.max()))), dtype=np.float32).ravel()


def _out_of_fold(
    features_RF: torch.Tensor, labels_R: NDArray[np.int64], classes: int, groups_R: NDArray[np.int64], watch: Watch
) -> NDArray[np.float32]:
    """Probabilities of each row by a logistic regression that did not see its group, (R, K)."""
    none = torch.zeros(0, features_RF.shape[1], device=features_RF.device)
    head = fit_logistic(
        features_RF, labels_R, none, np.zeros(0, np.int64), classes, "softmax", groups=groups_R,
        on_progress=watch.on_progress, should_stop=watch.should_stop,
    )  # fmt: skip
    assert head.held_out is not None
    probabilities_RK: NDArray[np.float32] = torch.softmax(head.held_out, dim=1).cpu().numpy()
    return probabilities_RK

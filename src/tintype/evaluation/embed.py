"""Features in two dimensions: t-SNE, how far its map can be trusted, and new images placed into it.

What was decided, and why:

- Features of a network are compared by their direction (cosine): how long they are mostly says how much contrast an
  image has. They are scaled to length 1, after which the Euclidean distance orders images as the cosine does. Layers
  of fewer than 16 features have their features standardised and compared as they are: there the length says something.
- The principal 50 components come first, as in most uses of t-SNE: the rest is noise to the neighbours and costs time.
- The map begins with the first two components, so that it keeps what it can of the global shape (D. Kobak and
  G. C. Linderman, "Initialization is critical for preserving global data structure in both t-SNE and UMAP", Nature
  Biotechnology 39, 2021), and is a function of features and seed.
- Barnes-Hut (L. van der Maaten, "Accelerating t-SNE using tree-based algorithms", JMLR 15, 2014) up to 10,000 images,
  interpolation by FFT (G. C. Linderman and others, Nature Methods 16, 2019) above: openTSNE chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from tintype.errors import DataError
from tintype.evaluation.neighbours import directions
from tintype.evaluation.stats import mean_interval
from tintype.records import Interval

PERPLEXITY = 30.0
"""About how many neighbours an image is to keep near it; the usual default."""
LEAST_PERPLEXITY = 2.0
LEAST_IMAGES = 10
COMPONENTS = 50
COSINE_FROM = 16
"""Layers of at least this many features are compared by cosine."""
TRUSTED_NEIGHBOURS = 10
_PLACING_PERPLEXITY = 5.0
_LEAST_VARIANCE = 1e-10  # share of the largest below which a component is rounding
_BLOCK_VALUES = 8_000_000
_INITIAL_DEVIATION = 1e-4

Metric = Literal["cosine", "euclidean"]


@dataclass(frozen=True)
class Space:
    """How features are brought into the space that they are compared in.

    Attributes:
        metric: ``cosine``: features of length 1; ``euclidean``: standardised features.
        mean: Of the prepared features, shape (F,).
        deviation: What they are divided by, shape (F,); ones for ``cosine``.
        basis: Principal axes, shape (F, C).
    """

    metric: Metric
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    basis: NDArray[np.float32]

    def prepare(self, features_NF: NDArray[np.floating]) -> NDArray[np.float32]:
        """Features whose Euclidean distances are meant, shape (N, F)."""
        if self.metric == "cosine":
            return directions(features_NF) - self.mean
        return np.asarray((np.asarray(features_NF, dtype=np.float32) - self.mean) / self.deviation, dtype=np.float32)

    def components(self, features_NF: NDArray[np.floating]) -> NDArray[np.float64]:
        """Their principal components, shape (N, C)."""
        return np.asarray(self.prepare(features_NF) @ self.basis, dtype=np.float64)


@dataclass(frozen=True)
class Map:
    """Images in two dimensions.

    Attributes:
        points: Where each image stands, centred, shape (N, 2).
        space: How their features are compared.
        perplexity: As used: at most a third of the images.
        trustworthiness: How far near images on the map are near in the features; see :func:`trustworthiness`.
        neighbours: How many neighbours on the map were looked at for that.
    """

    points: NDArray[np.float64]
    space: Space
    perplexity: float
    trustworthiness: Interval
    neighbours: int
    _fitted: Any = field(repr=False, compare=False)

    def place(self, features_MF: NDArray[np.floating]) -> NDArray[np.float64]:
        """Put new images into the map, which stays as it is: shape (M, 2).

        Each finds its own place among its neighbours on the map, whatever other new images there are. An image unlike
        all of them is put somewhere too; look at its distance to the nearest.
        """
        if not len(features_MF):
            return np.zeros((0, 2))
        perplexity = min(_PLACING_PERPLEXITY, _largest_perplexity(len(self.points)))
        placed = self._fitted.transform(self.space.components(features_MF), perplexity=perplexity)
        return np.array(placed, dtype=np.float64)


def embed_features(
    features_NF: NDArray[np.floating], seed: int, perplexity: float | None = None, threads: int = 1
) -> Map:
    """Bring features into two dimensions with t-SNE.

    Args:
        features_NF: Finite, shape (N, F), N at least 10.
        seed: The same features and seed give the same map on one machine.
        perplexity: About how many neighbours an image is to keep; None for 30. At most a third of the images.
        threads: CPU threads.

    Raises:
        DataError: There are fewer than 10 images, or all have the same features, or one is not finite.
    """
    n = len(features_NF)
    _require_usable(features_NF)
    space = _space(features_NF)
    components_NC = space.components(features_NF)
    used = min(PERPLEXITY if perplexity is None else perplexity, _largest_perplexity(n))
    from openTSNE import TSNE  # half a second

    start_N2 = np.zeros((n, 2))
    start_N2[:, : components_NC.shape[1]] = components_NC[:, :2]
    fitted = TSNE(
        perplexity=used,
        initialization=start_N2 * (_INITIAL_DEVIATION / start_N2[:, 0].std()),
        metric="euclidean",
        neighbors="exact" if n <= 10_000 else "auto",
        negative_gradient_method="auto",
        n_jobs=threads,
        random_state=seed,
    ).fit(components_NC)
    # openTSNE moves a map so that its box is centred before it places anything; done here, the points stay theirs.
    fitted -= (np.max(fitted, axis=0) + np.min(fitted, axis=0)) / 2
    points_N2 = np.array(fitted, dtype=np.float64)
    neighbours = min(TRUSTED_NEIGHBOURS, (n - 1) // 3)
    trust = trustworthiness(space.prepare(features_NF), points_N2, neighbours)
    return Map(points_N2, space, used, trust, neighbours, fitted)


def trustworthiness(space_NF: NDArray[np.floating], points_N2: NDArray[np.floating], neighbours: int) -> Interval:
    """How far images that are near on a map are near in the space that it was made from.

    1: all nearest neighbours on the map are as near in the space; a map drawn at random has about 0.5. Of each image's
    neighbours on the map, those that are no neighbours in the space count by how many ranks they are too far (J. Venna
    and S. Kaski, "Neighborhood preservation in nonlinear projection methods", ICANN 2001). The interval is that of the
    mean over the images of this one map.

    Args:
        space_NF: What the map was made from; Euclidean distances count.
        points_N2: The map.
        neighbours: How many are looked at: at least 1, and fewer than half the images.

    Raises:
        ValueError: ``neighbours`` is out of that range.
    """
    n = len(space_NF)
    if not 1 <= neighbours < n / 2:
        raise ValueError(f"neighbours must be at least 1 and less than half of {n} images. Got {neighbours} instead.")
    worst = neighbours * (2 * n - 3 * neighbours - 1) / 2
    values = np.empty(n)
    rows = max(1, _BLOCK_VALUES // (n * neighbours))
    for start in range(0, n, rows):
        block = np.arange(start, min(start + rows, n))
        away_BN = _squared_distances(space_NF, block)
        nearest_BK = np.argsort(_squared_distances(points_N2, block), axis=1, kind="stable")[:, :neighbours]
        of_neighbours = np.take_along_axis(away_BN, nearest_BK, axis=1)
        ranks_BK = 1 + (away_BN[:, None, :] < of_neighbours[:, :, None]).sum(axis=2)
        values[block] = 1 - np.maximum(ranks_BK - neighbours, 0).sum(axis=1) / worst
    return mean_interval(values, 0.0, 1.0)


def _squared_distances(rows_NF: NDArray[np.floating], block: NDArray[np.int64]) -> NDArray[np.float64]:
    """From the block's rows to all, infinite to themselves; shape (B, N)."""
    squares = np.einsum("nf,nf->n", rows_NF, rows_NF, dtype=np.float64)
    away = squares[block, None] + squares - 2.0 * (rows_NF[block] @ rows_NF.T)
    away[np.arange(len(block)), block] = np.inf
    return np.asarray(away, dtype=np.float64)


def _require_usable(features_NF: NDArray[np.floating]) -> None:
    n = len(features_NF)
    if n < LEAST_IMAGES:
        raise DataError(f"a map needs at least {LEAST_IMAGES} images. There are {n}; give more.")
    bad = int((~np.isfinite(features_NF).all(axis=1)).sum())
    if bad:
        raise DataError(f"the features of {bad:,} of {n:,} images are not finite. Train with --set precision=fp32.")
    if (features_NF == features_NF[0]).all():
        raise DataError(f"all {n:,} images have the same features in this layer, so there is no map. Name another one.")


def _largest_perplexity(n: int) -> float:
    """The library looks at three times as many neighbours as the perplexity."""
    return max(1.0, (n - 1) / 3)


def _space(features_NF: NDArray[np.floating]) -> Space:
    n, width = features_NF.shape
    metric: Metric = "cosine" if width >= COSINE_FROM else "euclidean"
    prepared = directions(features_NF) if metric == "cosine" else np.asarray(features_NF, dtype=np.float32)
    mean_F = prepared.mean(axis=0)
    deviation_F = np.ones(width, np.float32) if metric == "cosine" else prepared.std(axis=0)
    deviation_F = np.where(deviation_F > 0, deviation_F, 1).astype(np.float32)
    centred = (prepared - mean_F) / deviation_F
    # Of the covariance and the Gram matrix, the smaller one: both give the same axes.
    by_feature = width <= n
    gram = (centred.T @ centred if by_feature else centred @ centred.T).astype(np.float64)
    size = len(gram)
    variances, vectors = eigh(gram, subset_by_index=(max(0, size - COMPONENTS), size - 1))
    kept = variances > _LEAST_VARIANCE * max(variances[-1], np.finfo(np.float64).tiny)
    variances, vectors = variances[kept][::-1], vectors[:, kept][:, ::-1]
    basis = vectors if by_feature else centred.T @ (vectors / np.sqrt(variances))
    # An axis has no direction of its own; its largest part is made positive, so that a map is never its mirror image.
    signs = np.sign(np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0))
    return Space(metric, mean_F, deviation_F, np.asarray(basis * signs, dtype=np.float32))

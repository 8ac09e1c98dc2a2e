"""Maps in two dimensions: trustworthiness against scikit-learn, principal axes, t-SNE's properties."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from tintype.errors import DataError
from tintype.evaluation import embed
from tintype.evaluation.embed import embed_features, trustworthiness
from tintype.evaluation.neighbours import directions


def clusters(
    each: int, centres: int = 3, width: int = 20, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Well separated clouds of points, and which cloud each belongs to."""
    random = np.random.default_rng(seed)
    middle = 6 * random.normal(size=(centres, width))
    labels = np.repeat(np.arange(centres), each)
    return (middle[labels] + random.normal(size=(len(labels), width))).astype(np.float32), labels


def test_trustworthiness_is_scikit_learn_s(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    space = random.normal(size=(60, 8))
    flat = space[:, :2] + random.normal(0, 0.4, size=(60, 2))
    monkeypatch.setattr(embed, "_BLOCK_VALUES", 2_000)  # several blocks
    for count in (1, 5, 12):
        found = trustworthiness(space, flat, count)
        assert found.value == pytest.approx(sklearn_trustworthiness(space, flat, n_neighbors=count), abs=1e-12)
        assert found.low < found.value < found.high
        assert found.n == 60


def test_a_map_that_is_the_space_is_trusted_and_a_random_one_is_not() -> None:
    random = np.random.default_rng(1)
    space = random.normal(size=(200, 2))
    assert trustworthiness(space, space, 10).value == 1
    values = [trustworthiness(space, random.normal(size=(200, 2)), 10).value for _ in range(5)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="less than half of 200"):
        trustworthiness(space, space, 100)


@pytest.mark.parametrize(("n", "width"), [(80, 30), (40, 200), (60, 5)])
def test_components_are_the_principal_ones(n: int, width: int) -> None:
    features = np.random.default_rng(2).normal(size=(n, width)).astype(np.float32)
    space = embed._space(features)
    prepared = directions(features) if width >= 16 else (features - features.mean(0)) / features.std(0)
    count = space.basis.shape[1]
    theirs = PCA(count, svd_solver="full").fit_transform(prepared)
    np.testing.assert_allclose(np.abs(space.components(features)), np.abs(theirs), atol=2e-4)
    assert space.metric == ("cosine" if width >= 16 else "euclidean")


def test_clusters_stay_together_and_the_map_is_a_function_of_features_and_seed() -> None:
    features, labels = clusters(30)
    drawn = embed_features(features, seed=3)
    middles = np.array([drawn.points[labels == number].mean(0) for number in range(3)])
    away = np.linalg.norm(drawn.points[:, None] - middles, axis=2)
    assert (away.argmin(1) == labels).all()
    assert drawn.trustworthiness.value > 0.9
    assert drawn.perplexity == pytest.approx(89 / 3)
    np.testing.assert_array_equal(drawn.points, embed_features(features, seed=3).points)
    np.testing.assert_allclose((drawn.points.max(0) + drawn.points.min(0)) / 2, 0, atol=1e-9)


def test_new_images_find_their_cluster_and_the_map_stays() -> None:
    features, labels = clusters(40)
    random = np.random.default_rng(5)
    drawn = embed_features(features[::2], seed=0)
    before = drawn.points.copy()
    placed = drawn.place(features[1::2])
    nearest = np.linalg.norm(placed[:, None] - drawn.points, axis=2).argmin(1)
    assert (labels[::2][nearest] == labels[1::2]).all()
    np.testing.assert_array_equal(drawn.points, before)
    # A new image is placed by its own features alone, whoever comes with it.
    order = random.permutation(len(placed))
    np.testing.assert_allclose(drawn.place(features[1::2][order]), placed[order], atol=1e-6)
    assert drawn.place(features[:0]).shape == (0, 2)


def test_perplexity_is_bounded_by_the_images() -> None:
    features, _ = clusters(12)
    assert embed_features(features, 0).perplexity == pytest.approx(35 / 3)
    assert embed_features(features, 0, perplexity=5).perplexity == 5
    assert embed_features(features[:10], 0).neighbours == 3


def test_one_feature_is_enough() -> None:
    drawn = embed_features(np.linspace(0, 1, 40, dtype=np.float32)[:, None], 0)
    assert np.isfinite(drawn.points).all()
    assert drawn.space.metric == "euclidean"


def test_what_cannot_be_drawn_is_said() -> None:
    features, _ = clusters(10)
    with pytest.raises(DataError, match=r"at least 10 images. There are 9"):
        embed_features(features[:9], 0)
    with pytest.raises(DataError, match="all 30 images have the same features"):
        embed_features(np.ones_like(features), 0)
    features[4, 2] = np.nan
    with pytest.raises(DataError, match="features of 1 of 30 images are not finite"):
        embed_features(features, 0)

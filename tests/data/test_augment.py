from __future__ import annotations

import gzip
import multiprocessing
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage, stats
from sklearn.datasets import load_sample_image

from tintype.config import AugmentConfig
from tintype.data import augment as module
from tintype.data.augment import Fill, Warps, augment_numpy, augment_torch, draw_warps, uniform

SMALL, LARGE = 28, 96  # on either side of where images are no longer stacked into mosaics
FILLS: tuple[Fill, ...] = ("nearest", "reflect")
EVERYTHING = AugmentConfig(
    policy="none", rotation=25, shear=12, zoom=0.3, shift=0.15, flip_horizontal=True, flip_vertical=True,
    brightness=0.2, contrast=0.4,
).resolved()  # fmt: skip
MOVES = EVERYTHING.model_copy(update={"brightness": 0.0, "contrast": 0.0})


@lru_cache
def pieces(side: int) -> NDArray[np.uint8]:
    """Square pieces of scikit-learn's two photographs, scaled down."""
    random = np.random.default_rng(3)
    photographs = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    found = []
    for number in range(100):
        extent = int(random.integers(150, 420))
        top, left = random.integers(0, 427 - extent), random.integers(0, 640 - extent)
        piece = photographs[number % 2][top : top + extent, left : left + extent]
        found.append(cv2.resize(piece, (side, side), interpolation=cv2.INTER_AREA))
    return np.stack(found)


def photos(count: int, side: int, channels: int) -> NDArray[np.uint8]:
    images = np.resize(pieces(side), (count, side, side, 3))
    return images if channels == 3 else np.rint(images.mean(axis=3, keepdims=True)).astype(np.uint8)


def still(count: int) -> Warps:
    matrices = np.tile(np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32), (count, 1, 1))
    return Warps(matrices, np.ones(count, np.float32), np.zeros(count, np.float32))


def with_matrix(count: int, matrix: list[list[float]]) -> Warps:
    return Warps(np.tile(np.array(matrix, np.float32), (count, 1, 1)), still(count).gains, still(count).offsets)


def mean_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def config(**values: float | bool) -> AugmentConfig:
    return AugmentConfig.model_validate({"policy": "none", **values}).resolved()


# Random numbers


def test_generator_gives_the_published_splitmix64_numbers() -> None:
    outputs = module._splitmix64(np.array([1234567], np.uint64), np.arange(5, dtype=np.uint64))
    assert outputs.tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip


def test_uniform_never_changes_silently() -> None:
    assert uniform(0, 0, np.array([0, 1]), 2).tolist() == [
        [0.1296456182997474, 0.049920065672091285],
        [0.591449498199162, 0.29252335542281827],
    ]
    assert uniform(2**32 - 1, 99, np.array([10**9]), 3).tolist() == [
        [0.2553066041825307, 0.9384834929371179, 0.2530636672923323]
    ]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (1, 0), (2**32 - 1, 1000)])
def test_uniform_is_uniform(seed: int, epoch: int) -> None:
    drawn = uniform(seed, epoch, np.arange(20_000), 9)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for column in drawn.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4


def test_uniform_is_independent_across_everything() -> None:
    count = 40_000
    indices = np.arange(count)
    base = uniform(0, 0, indices, 3)
    others = {
        "next index": uniform(0, 0, indices + 1, 1)[:, 0],
        "next epoch": uniform(0, 1, indices, 1)[:, 0],
        "next seed": uniform(1, 0, indices, 1)[:, 0],
        "second draw": base[:, 1],
        "third draw": base[:, 2],
        "seed and epoch exchanged": uniform(5, 0, indices, 1)[:, 0],
    }
    for what, other in others.items():
        for one, another in ((base[:, 0], other), (np.abs(base[:, 0] - 0.5), np.abs(other - 0.5))):
            assert abs(np.corrcoef(one, another)[0, 1]) < 4.5 / np.sqrt(count), what
    assert uniform(5, 0, indices, 1)[0] != uniform(0, 5, indices, 1)[0]


@given(
    seed=st.integers(0, 2**32 - 1),
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=20),
    epochs=st.lists(st.integers(0, 10**6), min_size=20, max_size=20),
    draws=st.integers(1, 9),
)
def test_uniform_depends_on_nothing_else(seed: int, indices: list[int], epochs: list[int], draws: int) -> None:
    together = uniform(seed, np.array(epochs[: len(indices)]), np.array(indices), draws)
    for row, index, epoch in zip(together, indices, epochs, strict=False):
        alone = uniform(seed, epoch, np.array([index]), 9)
        np.testing.assert_array_equal(row, alone[0, :draws])


# Drawing warps


def keras_matrix(
    theta: float, shear: float, scale: float, shift_yx: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """The (y, x) matrix of keras.preprocessing.image.apply_affine_transform, written as there."""
    theta, shear = np.deg2rad(theta), np.deg2rad(shear)
    rotation = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    translation = np.array([[1, 0, shift_yx[0]], [0, 1, shift_yx[1]], [0, 0, 1]])
    shearing = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    zooming = np.diag([scale, scale, 1.0])
    to_centre, back = np.eye(3), np.eye(3)
    to_centre[:2, 2], back[:2, 2] = size / 2 - 0.5, -(size / 2 - 0.5)
    product: NDArray[np.float64] = to_centre @ rotation @ translation @ shearing @ zooming @ back
    return product


def test_warps_are_those_of_keras() -> None:
    size, indices = 30, np.arange(200)
    warps = draw_warps(EVERYTHING, 4, 2, indices, size)
    drawn = uniform(4, 2, indices, 9)
    signed = 2 * drawn - 1
    for number in indices.tolist():
        scale = 1 / np.exp(np.log(0.7) + (np.log(1.3) - np.log(0.7)) * drawn[number, 2])
        shift_yx = 0.15 * size * signed[number, [4, 3]]
        expected = keras_matrix(25 * signed[number, 0], 12 * signed[number, 1], scale, shift_yx, size)
        for axis_of_yx, column in ((1, 5), (0, 6)):
            if drawn[number, column] < 0.5:
                mirror = np.eye(3)
                mirror[axis_of_yx, axis_of_yx], mirror[axis_of_yx, 2] = -1, size - 1
                expected = expected @ mirror
        as_xy = expected[:2][::-1][:, [1, 0, 2]]
        np.testing.assert_allclose(warps.matrices[number], as_xy, atol=1e-5)
    np.testing.assert_allclose(warps.gains, 1 + 0.4 * signed[:, 8], rtol=1e-6)
    np.testing.assert_allclose(warps.offsets, 127.5 - 127.5 * warps.gains + 51 * signed[:, 7], atol=1e-4)


def test_each_setting_has_its_range() -> None:
    count, size = 20_000, 40
    indices = np.arange(count)

    def share(values: NDArray[np.floating], low: float, high: float) -> None:
        assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 1e-4

    turned = draw_warps(config(rotation=15), 0, 0, indices, size).matrices
    share(np.rad2deg(np.arctan2(turned[:, 0, 1], turned[:, 0, 0])), -15, 15)
    zoomed = draw_warps(config(zoom=0.2), 0, 0, indices, size).matrices
    share(np.log(1 / zoomed[:, 0, 0]), np.log(0.8), np.log(1.2))
    np.testing.assert_array_equal(zoomed[:, 0, 0], zoomed[:, 1, 1])
    shifted = draw_warps(config(shift=0.1), 0, 0, indices, size).matrices
    share(shifted[:, 0, 2], -4, 4)
    share(shifted[:, 1, 2], -4, 4)
    brightened = draw_warps(config(brightness=0.1), 0, 0, indices, size)
    share(brightened.offsets, -25.5, 25.5)
    contrasted = draw_warps(config(contrast=0.4), 0, 0, indices, size)
    share(contrasted.gains, 0.6, 1.4)
    np.testing.assert_allclose(contrasted.gains * 127.5 + contrasted.offsets, 127.5, atol=1e-4)
    flipped = draw_warps(config(flip_horizontal=True), 0, 0, indices, size).matrices
    assert set(np.unique(flipped[:, 0, 0]).tolist()) == {-1.0, 1.0}
    assert stats.binomtest(int((flipped[:, 0, 0] < 0).sum()), count).pvalue > 1e-4


def test_no_setting_changes_nothing() -> None:
    warps = draw_warps(config(), 1, 2, np.arange(50), 33)
    np.testing.assert_array_equal(warps.matrices, still(50).matrices)
    np.testing.assert_array_equal(warps.gains, 1)
    np.testing.assert_array_equal(warps.offsets, 0)


def test_an_effect_switched_on_leaves_the_others_as_they_were() -> None:
    indices = np.arange(100)
    moved, all_of_it = draw_warps(MOVES, 0, 3, indices, 64), draw_warps(EVERYTHING, 0, 3, indices, 64)
    np.testing.assert_array_equal(moved.matrices, all_of_it.matrices)
    assert (all_of_it.gains != 1).all()


@settings(deadline=None, max_examples=30)
@given(start=st.integers(0, 1000), count=st.integers(1, 40))
def test_an_image_is_drawn_alike_in_every_batch(start: int, count: int) -> None:
    everything = draw_warps(EVERYTHING, 9, 1, np.arange(1040), 50)
    some = draw_warps(EVERYTHING, 9, 1, np.arange(start, start + count), 50)
    np.testing.assert_array_equal(some.matrices, everything[start : start + count].matrices)
    np.testing.assert_array_equal(some.gains, everything[start : start + count].gains)
    np.testing.assert_array_equal(some.offsets, everything[start : start + count].offsets)


def test_unresolved_settings_are_refused() -> None:
    with pytest.raises(AssertionError, match="resolved"):
        draw_warps(AugmentConfig(rotation=15), 0, 0, np.arange(3), 10)


# Warping on the CPU


def scipy_warp(image_HWC: NDArray[np.uint8], warps: Warps, number: int, fill: Fill) -> NDArray[np.uint8]:
    matrix = warps.matrices[number].astype(np.float64)
    linear, constant = matrix[::-1, 1::-1], matrix[::-1, 2]
    mode = {"nearest": "nearest", "reflect": "mirror"}[fill]
    channels = [
        ndimage.affine_transform(image_HWC[:, :, channel].astype(np.float64), linear, constant, order=1, mode=mode)
        for channel in range(image_HWC.shape[2])
    ]
    levels = np.stack(channels, axis=2) * warps.gains[number] + warps.offsets[number]
    return np.asarray(np.clip(np.rint(levels), 0, 255), dtype=np.uint8)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_numpy_agrees_with_scipy(side: int, channels: int, fill: Fill) -> None:
    images = photos(80, side, channels)
    warps = draw_warps(EVERYTHING, 0, 0, np.arange(80), side)
    warped = augment_numpy(images, warps, fill, threads=1)
    expected = np.stack([scipy_warp(image, warps, number, fill) for number, image in enumerate(images)])
    assert warped.shape == images.shape
    assert warped.dtype == np.uint8
    assert mean_difference(warped, expected) < 0.5
    assert mean_difference(warped, images) > 20  # the warps do something


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_pixels_from_far_outside(side: int, fill: Fill) -> None:
    far = config(rotation=180, shift=1.0, zoom=0.9, shear=40)
    images = photos(20, side, 1)
    warps = draw_warps(far, 0, 0, np.arange(20), side)
    expected = np.stack([scipy_warp(image, warps, number, fill) for number, image in enumerate(images)])
    # A zoom of 0.1 makes steps of ten pixels, where OpenCV's fractions of a pixel show.
    assert mean_difference(augment_numpy(images, warps, fill, threads=1), expected) < 1.0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_exact_cases(side: int, channels: int) -> None:
    images, last = photos(90, side, channels), side - 1
    np.testing.assert_array_equal(augment_numpy(images, still(90), "reflect", 1), images)
    flipped = augment_numpy(images, with_matrix(90, [[-1, 0, last], [0, 1, 0]]), "reflect", 1)
    np.testing.assert_array_equal(flipped, images[:, :, ::-1])
    upside_down = augment_numpy(images, with_matrix(90, [[1, 0, 0], [0, -1, last]]), "nearest", 1)
    np.testing.assert_array_equal(upside_down, images[:, ::-1])
    moved = with_matrix(90, [[1, 0, 3], [0, 1, -2]])
    padding = ((0, 0), (2, 0), (0, 3), (0, 0))
    for fill, mode in (("nearest", "edge"), ("reflect", "reflect")):
        expected = np.pad(images, padding, mode=mode)[:, :side, 3:]  # type: ignore[call-overload]
        np.testing.assert_array_equal(augment_numpy(images, moved, fill, 1), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_color_step_cuts_at_black_and_white(side: int) -> None:
    image = np.resize(np.arange(256, dtype=np.uint8), (1, side, side, 1))
    images = np.repeat(image, 4, axis=0)
    gains = np.array([1.5, 1.0, 0.5, 1.0], np.float32)
    offsets = np.array([-127.5 * 0.5, -60, 90.25, 200], np.float32)
    changed = augment_numpy(images, Warps(still(4).matrices, gains, offsets), "reflect", 1)
    for number in range(4):
        exact = np.clip(images[number] * float(gains[number]) + float(offsets[number]), 0, 255)
        assert np.abs(changed[number] - exact).max() <= 0.5
    assert changed[1].min() == 0  # not the mirrored 60
    assert changed[3].max() == 255


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_an_image_comes_out_alike_in_every_batch_and_with_any_threads(side: int, fill: Fill) -> None:
    count = 1200 if side == SMALL else 100
    images = photos(count, side, 3)
    warps = draw_warps(EVERYTHING, 1, 1, np.arange(count), side)
    whole = augment_numpy(images, warps, fill, threads=1)
    for threads in (2, 3):
        np.testing.assert_array_equal(augment_numpy(images, warps, fill, threads), whole)
    for number in (0, 1, 50, 71, 72, 73, 99):
        alone = augment_numpy(images[number : number + 1], warps[number : number + 1], fill, threads=1)
        np.testing.assert_array_equal(alone[0], whole[number])


@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_rows_are_taken_from_a_read_only_map(side: int, tmp_path: Path) -> None:
    images = photos(12, side, 3)
    images.tofile(tmp_path / "images")
    mapped = np.memmap(tmp_path / "images", np.uint8, mode="r", shape=images.shape)
    rows = np.array([7, 0, 11, 7])
    warps = draw_warps(EVERYTHING, 0, 0, rows, side)
    taken = augment_numpy(mapped, warps, "reflect", 2, rows=rows)
    np.testing.assert_array_equal(taken, augment_numpy(images[rows], warps, "reflect", 1))
    assert type(taken) is np.ndarray
    assert taken.flags.writeable


def test_no_images() -> None:
    for side in (SMALL, LARGE):
        empty = np.zeros((0, side, side, 3), np.uint8)
        assert augment_numpy(empty, still(0), "reflect", 2).shape == empty.shape


def test_opencv_keeps_its_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cv2.getNumThreads()
    seen: list[int] = []

    def fail(*_: object) -> None:
        seen.append(cv2.getNumThreads())
        raise RuntimeError("in the middle")

    cv2.setNumThreads(3)
    try:
        augment_numpy(photos(4, LARGE, 3), still(4), "reflect", 2)
        assert cv2.getNumThreads() == 3
        monkeypatch.setattr(module, "_warp_each", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            augment_numpy(photos(4, LARGE, 3), still(4), "reflect", 2)
        assert cv2.getNumThreads() == 3
        assert set(seen) == {1}
    finally:
        cv2.setNumThreads(before)


def test_calls_from_several_threads() -> None:
    before = cv2.getNumThreads()
    images = photos(60, LARGE, 3)
    warps = draw_warps(MOVES, 0, 0, np.arange(60), LARGE)
    expected = augment_numpy(images, warps, "reflect", 1)
    with ThreadPoolExecutor(3) as callers:
        results = [callers.submit(augment_numpy, images, warps, "reflect", 2) for _ in range(6)]
    for result in results:
        np.testing.assert_array_equal(result.result(), expected)
    assert cv2.getNumThreads() == before


def test_threads_are_kept_for_reuse() -> None:
    images = photos(60, LARGE, 3)
    augment_numpy(images, still(60), "reflect", 2)
    before = {thread.ident for thread in threading.enumerate()}
    for _ in range(5):
        augment_numpy(images, still(60), "reflect", 2)
    assert {thread.ident for thread in threading.enumerate()} == before


def _checksum(images: NDArray[np.uint8], warps: Warps, answers: multiprocessing.SimpleQueue[int]) -> None:
    answers.put(int(augment_numpy(images, warps, "reflect", 2).sum(dtype=np.int64)))


def test_a_forked_process_has_threads_of_its_own() -> None:
    images = photos(60, LARGE, 3)
    warps = draw_warps(MOVES, 0, 0, np.arange(60), LARGE)
    expected = int(augment_numpy(images, warps, "reflect", 2).sum(dtype=np.int64))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_checksum, args=(images, warps, answers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested
        child.start()
    child.join(30)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert answers.get() == expected


# Warping with torch


def torch_warp(
    images: NDArray[np.uint8], warps: Warps, fill: Fill, device: str = "cpu", channels_last: bool = True
) -> NDArray[np.uint8]:
    tensor = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    warped = augment_torch(tensor if channels_last else tensor.contiguous(), warps, fill)
    assert warped.dtype == torch.uint8
    assert warped.device.type == device
    assert warped.is_contiguous(memory_format=torch.channels_last)
    return warped.permute(0, 2, 3, 1).cpu().numpy()


@pytest.mark.parametrize("augment", [MOVES, EVERYTHING], ids=["moves", "everything"])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_torch_agrees_with_numpy(side: int, channels: int, fill: Fill, augment: AugmentConfig) -> None:
    images = photos(64, side, channels)
    warps = draw_warps(augment, 0, 0, np.arange(64), side)
    one, other = augment_numpy(images, warps, fill, threads=1), torch_warp(images, warps, fill)
    assert mean_difference(one, other) < 0.5
    np.testing.assert_array_equal(torch_warp(images, warps, fill, channels_last=False), other)


@pytest.mark.parametrize("fill", FILLS)
def test_torch_is_exact_where_pixels_meet_pixels(fill: Fill) -> None:
    images = photos(8, LARGE, 3)
    for matrix in ([[1, 0, 0], [0, 1, 0]], [[-1, 0, LARGE - 1], [0, 1, 0]], [[1, 0, 5], [0, 1, -30]]):
        warps = with_matrix(8, matrix)  # type: ignore[arg-type]
        assert mean_difference(torch_warp(images, warps, fill), augment_numpy(images, warps, fill, 1)) < 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [SMALL, LARGE, 180])
def test_gpu_agrees_with_numpy(side: int, channels: int, fill: Fill) -> None:
    images = photos(64, side, channels)
    warps = draw_warps(EVERYTHING, 0, 0, np.arange(64), side)
    assert mean_difference(augment_numpy(images, warps, fill, 1), torch_warp(images, warps, fill, "cuda")) < 0.5


@pytest.mark.data
def test_agreement_on_real_digits(shared_data: Callable[[str], Path]) -> None:
    content = (shared_data("mnist") / "t10k-images-idx3-ubyte.gz").read_bytes()
    images = np.frombuffer(gzip.decompress(content), np.uint8, offset=16).reshape(-1, 28, 28, 1)[:500]
    warps = draw_warps(AugmentConfig(policy="digits").resolved(), 0, 0, np.arange(500), 28)
    one, other = augment_numpy(images, warps, "nearest", 1), torch_warp(images.copy(), warps, "nearest")
    assert mean_difference(one, other) < 0.5

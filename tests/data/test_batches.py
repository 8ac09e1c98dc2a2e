from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from tintype.config import AugmentConfig, DataConfig
from tintype.data import batches as module
from tintype.data.augment import augment_numpy, draw_warps
from tintype.data.batches import Batch, evaluation_batches, plan_epoch, step_indices, train_batches
from tintype.data.cache import ImageCache, build_cache
from tintype.data.index import ImageIndex
from tintype.data.sources import read_index
from tintype.errors import DataError

CPU = torch.device("cpu")
STILL = AugmentConfig(policy="none").resolved()
PHOTO = AugmentConfig(policy="photo").resolved()
COUNT, SIDE = 50, 24


def make_cache(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> ImageCache:
    """A cache of exactly these pixels."""
    count = len(images)
    index = ImageIndex(
        kind="npz", root=Path("images.npz"), classes=("a", "b", "c"),
        paths=tuple(f"train/{number:05}" for number in range(count)), labels=labels,
        given_split=np.full(count, -1, np.int8), groups=None, arrays=images, description="",
    )  # fmt: skip
    color = "rgb" if images.shape[3] == 3 else "grey"
    config = DataConfig.model_validate({"image_size": images.shape[1], "color": color, "resize": "stretch"})
    return build_cache(index, config)


@pytest.fixture(params=[3, 1], ids=["rgb", "grey"])
def cache(request: pytest.FixtureRequest) -> ImageCache:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (COUNT, SIDE, SIDE, request.param), dtype=np.uint8)
    return make_cache(noise, random.integers(0, 3, COUNT))


def pixels(batch: Batch) -> NDArray[np.uint8]:
    return batch.images.permute(0, 2, 3, 1).cpu().numpy()


def assert_equal(one: Batch, other: Batch) -> None:
    np.testing.assert_array_equal(one.indices, other.indices)
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)


# The order

subsets = st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True).map(
    lambda numbers: np.array(numbers, dtype=np.int64)
)


@given(subsets, st.integers(1, 70), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_an_epoch_is_one_pass_of_full_steps(subset: NDArray[np.int64], size: int, seed: int, epoch: int) -> None:
    steps = step_indices(subset, size, seed, epoch)
    assert steps.dtype == np.int64
    assert steps.shape == (max(1, len(subset) // size), min(size, len(subset)))
    assert len(np.unique(steps)) == steps.size
    assert np.isin(steps, subset).all()


@given(subsets, st.integers(1, 70), st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 6))
def test_steps_given_go_on_through_passes(
    subset: NDArray[np.int64], size: int, seed: int, steps: int, epochs: int
) -> None:
    plans = [plan_epoch(subset, size, seed, epoch, steps) for epoch in range(epochs)]
    assert {plan.indices.shape for plan in plans} == {(steps, min(size, len(subset)))}
    sequence = np.concatenate([plan.indices.ravel() for plan in plans])
    passes = np.concatenate([plan.passes.ravel() for plan in plans])
    count = len(subset)
    np.testing.assert_array_equal(passes, np.arange(len(sequence)) // count)
    for start in range(0, len(sequence), count):
        part = sequence[start : start + count]
        assert len(np.unique(part)) == len(part)
        if len(part) == count:
            np.testing.assert_array_equal(np.sort(part), np.sort(subset))
    # An epoch is the same whether or not those before it were planned, and passes are those of an epoch without steps.
    np.testing.assert_array_equal(sequence[:count], step_indices(subset, count, seed, 0).ravel()[: len(sequence)])


def test_order_never_changes_silently() -> None:
    assert step_indices(np.arange(10), 5, 0, 0).tolist() == [[0, 9, 1, 8, 4], [2, 3, 5, 6, 7]]
    assert step_indices(np.arange(10), 4, 7, 3, steps=3).tolist() == [[9, 7, 8, 0], [9, 2, 8, 5], [1, 7, 0, 6]]


def test_order_is_fair_and_changes_with_epoch_and_seed() -> None:
    subset = np.arange(100, 112)
    orders = np.array([step_indices(subset, 12, 3, epoch)[0] for epoch in range(6000)])
    for place in (0, 5, 11):
        counts = np.bincount(orders[:, place] - 100, minlength=12)
        assert stats.chisquare(counts).pvalue > 1e-4
    pairs = np.bincount((orders[:, 0] - 100) * 12 + orders[:, 1] - 100, minlength=144).reshape(12, 12)
    assert stats.chisquare(pairs[~np.eye(12, dtype=bool)]).pvalue > 1e-4
    assert (step_indices(subset, 12, 4, 0) != orders[0]).any()


def test_the_images_left_out_are_other_ones_each_epoch() -> None:
    left_out = [set(range(11)) - set(step_indices(np.arange(11), 4, 0, epoch).ravel().tolist()) for epoch in range(12)]
    assert {len(images) for images in left_out} == {3}
    assert len(set().union(*left_out)) == 11


def test_no_images_to_train_on() -> None:
    with pytest.raises(DataError, match="no images to train on"):
        step_indices(np.zeros(0, np.int64), 4, 0, 0)


# Training batches


def test_images_and_labels_belong_together(cache: ImageCache) -> None:
    subset = np.arange(5, 45)
    seen = []
    for batch in train_batches(cache, subset, 8, STILL, 1, 2, None, CPU):
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (8, cache.images.shape[3], SIDE, SIDE)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == torch.int64
        np.testing.assert_array_equal(pixels(batch), cache.images[batch.indices])
        np.testing.assert_array_equal(batch.labels.numpy(), cache.index.labels[batch.indices])
        batch.images.add_(1)  # a batch owns its memory; the map is read-only
        seen += batch.indices.tolist()
    assert sorted(seen) == subset.tolist()


def test_augmentation_is_that_of_seed_epoch_and_index(cache: ImageCache) -> None:
    for batch in train_batches(cache, np.arange(COUNT), 16, PHOTO, 6, 4, None, CPU, threads=2):
        warps = draw_warps(PHOTO, 6, 4, batch.indices, SIDE)
        expected = augment_numpy(cache.images[batch.indices], warps, "reflect", 1)
        np.testing.assert_array_equal(pixels(batch), expected)
        assert (pixels(batch) != cache.images[batch.indices]).mean() > 0.5


@pytest.mark.parametrize("steps", [None, 9])
def test_an_epoch_resumed_in_its_middle_has_the_same_batches(cache: ImageCache, steps: int | None) -> None:
    def batches(first_step: int) -> list[Batch]:
        return list(train_batches(cache, np.arange(COUNT), 8, PHOTO, 0, 3, steps, CPU, first_step))

    whole = batches(0)
    for first_step in (1, 3, len(whole)):
        resumed = batches(first_step)
        assert len(resumed) == len(whole) - first_step
        for one, other in zip(resumed, whole[first_step:], strict=True):
            assert_equal(one, other)


def test_an_image_shown_twice_in_an_epoch_is_changed_in_two_ways(cache: ImageCache) -> None:
    shown: dict[int, list[NDArray[np.uint8]]] = {}
    for batch in train_batches(cache, np.arange(10), 5, PHOTO, 0, 1, 6, CPU):
        for number, image in zip(batch.indices.tolist(), pixels(batch), strict=True):
            shown.setdefault(number, []).append(image)
    assert {len(images) for images in shown.values()} == {3}
    for first, second, third in shown.values():
        assert (first != second).any()
        assert (second != third).any()


def test_real_files_in_class_folders(shapes_folder: Path) -> None:
    index = read_index(DataConfig(source=str(shapes_folder)))
    cache = build_cache(index, DataConfig(image_size=24, color="rgb", resize="stretch"))
    batch = next(iter(train_batches(cache, np.arange(80), 80, STILL, 0, 0, None, CPU)))
    for number, label in zip(batch.indices.tolist(), batch.labels.tolist(), strict=True):
        assert index.paths[number].split("/")[0] == index.classes[label]


# Evaluation batches


def test_evaluation_takes_every_image_once_in_order(cache: ImageCache) -> None:
    subset = np.array([40, 3, 7, 12, 0, 49, 22])
    batches = list(evaluation_batches(cache, subset, 3, CPU))
    assert [len(batch.indices) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([batch.indices for batch in batches]), subset)
    np.testing.assert_array_equal(np.concatenate([pixels(batch) for batch in batches]), cache.images[subset])
    np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]).numpy(), cache.index.labels[subset])
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in batches)
    assert list(evaluation_batches(cache, subset[:0], 3, CPU)) == []


# What a GPU needs, tried on the CPU as far as that goes


def test_gathering_on_the_device_gives_the_same(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_UPLOAD_BYTES", 7 * SIDE * SIDE)
    resident = module._copy_in_parts(cache.images, CPU)
    np.testing.assert_array_equal(resident.numpy(), cache.images)
    indices = np.array([4, 44, 0, 13])
    warps = draw_warps(PHOTO, 0, 0, indices, SIDE)
    for drawn in (None, warps):
        on_cpu = module._on_cpu(cache, indices, drawn, "reflect", 1)
        kept = module._from_resident(cache, resident, indices, drawn, "reflect")
        sent = module._uploaded(cache, indices, drawn, "reflect", CPU)
        assert_equal(kept, sent)
        assert kept.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(kept.labels, on_cpu.labels)
        difference = np.abs(pixels(kept).astype(int) - pixels(on_cpu)).mean()
        assert difference < (1.0 if drawn else 1e-9)


def background_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tintype-batches")]


def make_batch(number: int) -> Batch:
    return Batch(torch.full((1, 1, 4, 4), number, dtype=torch.uint8), torch.tensor([number]), np.array([number]))


def test_one_ahead_keeps_the_order_and_ends() -> None:
    numbers = [int(batch.indices[0]) for batch in module._one_ahead(make_batch(number) for number in range(20))]
    assert numbers == list(range(20))
    assert background_threads() == []
    assert list(module._one_ahead(iter([]))) == []


def test_one_ahead_works_while_a_batch_is_used() -> None:
    made = [threading.Event() for _ in range(4)]

    def produce() -> Iterator[Batch]:
        for number, event in enumerate(made):
            event.set()
            yield make_batch(number)

    batches = module._one_ahead(produce())
    next(batches)
    assert made[1].wait(5)  # the second is made before it is asked for,
    assert not made[2].wait(0.05)  # and no more than one
    batches.close()  # type: ignore[attr-defined]


def test_an_error_in_the_background_is_raised_when_its_batch_is_due() -> None:
    def produce() -> Iterator[Batch]:
        yield make_batch(0)
        raise OSError("the disk is gone")

    batches = module._one_ahead(produce())
    assert next(batches).indices[0] == 0
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert background_threads() == []


def test_leaving_early_stops_the_background() -> None:
    def endless() -> Iterator[Batch]:
        while True:
            yield make_batch(1)

    for batch in module._one_ahead(endless()):
        assert background_threads() != []
        assert batch.indices[0] == 1
        break
    gc.collect()
    assert background_threads() == []


@pytest.mark.gpu
@pytest.mark.parametrize("share", [1.0, 0.0], ids=["resident", "streamed"])
def test_batches_on_a_gpu(cache: ImageCache, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RESIDENT_SHARE", share)
    device = torch.device("cuda")
    with torch.inference_mode():
        tested = list(evaluation_batches(cache, np.arange(COUNT), 16, device))
    np.testing.assert_array_equal(np.concatenate([pixels(batch) for batch in tested]), cache.images)
    arguments = (cache, np.arange(COUNT), 16, PHOTO, 0, 1, 7)
    for one, other in zip(train_batches(*arguments, device), train_batches(*arguments, CPU), strict=True):
        assert one.images.device.type == one.labels.device.type == "cuda"
        assert one.images.is_contiguous(memory_format=torch.channels_last)
        assert not one.images.is_inference()
        np.testing.assert_array_equal(one.indices, other.indices)
        assert torch.equal(one.labels.cpu(), other.labels)
        assert np.abs(pixels(one).astype(int) - pixels(other)).mean() < 1.0
    assert background_threads() == []


@pytest.mark.gpu
def test_a_gpu_forgets_the_images_with_their_cache() -> None:
    cache = make_cache(np.zeros((COUNT, SIDE, SIDE, 3), np.uint8), np.zeros(COUNT, np.int64))
    before = len(module._resident)
    next(iter(evaluation_batches(cache, np.arange(4), 4, torch.device("cuda"))))
    assert len(module._resident) == before + 1
    del cache
    gc.collect()
    assert len(module._resident) == before


@pytest.mark.data
def test_a_whole_epoch_of_photos(shared_data: Callable[[str], Path]) -> None:
    index = read_index(DataConfig(source=str(shared_data("cifar10_4k"))))
    cache = build_cache(index, DataConfig(image_size=32, color="rgb", resize="stretch"))
    batches = train_batches(cache, np.arange(4000), 100, PHOTO, 0, 0, None, CPU, threads=2)
    seen = np.concatenate([batch.indices for batch in batches])
    np.testing.assert_array_equal(np.sort(seen), np.arange(4000))

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data.index import ImageIndex
from tintype.data.sources import read_index
from tintype.data.split import Split, make_split
from tintype.errors import ConfigError, DataError

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1


def make_index(
    paths: Sequence[str],
    labels: Sequence[int],
    given_split: Sequence[int] | None = None,
    groups: Sequence[str] | None = None,
    classes: int | None = None,
) -> ImageIndex:
    count = (max(labels) + 1 if labels else 0) if classes is None else classes
    return ImageIndex(
        kind="folder",
        root=Path(),
        classes=tuple(f"class{number}" for number in range(count)),
        paths=tuple(paths),
        labels=np.array(labels, dtype=np.int64),
        given_split=np.array([-1] * len(paths) if given_split is None else given_split, dtype=np.int8),
        groups=None if groups is None else tuple(groups),
        arrays=None,
        description="",
    )


def everything(index: ImageIndex) -> NDArray[np.bool_]:
    return np.ones(len(index), dtype=np.bool_)


def split_of(index: ImageIndex, **settings: float | bool) -> Split:
    return make_split(index, everything(index), DataConfig(**settings))


def named(index: ImageIndex, rows: NDArray[np.int64]) -> set[str]:
    return {index.paths[row] for row in rows}


def places(index: ImageIndex, split: Split) -> dict[str, str]:
    return {index.paths[row]: part for part in ("train", "validation", "test") for row in getattr(split, part)}


def codes(split: Split) -> list[str]:
    return [finding.code for finding in split.findings]


def oracle(name: str) -> str:
    """The documented rule, computed by other means than numpy."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, person=b"tintype-split").digest()
    share = (int.from_bytes(digest, "big") >> 11) / 2**53
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


labelled = st.lists(
    st.tuples(st.text(min_size=1, max_size=6), st.integers(0, 3)),
    min_size=1,
    max_size=120,
    unique_by=lambda item: item[0],
)


def index_of(images: Sequence[tuple[str, int]], groups: Sequence[str] | None = None) -> ImageIndex:
    return make_index([name for name, _ in images], [label for _, label in images], groups=groups, classes=4)


@given(labelled, st.data())
def test_every_usable_image_is_in_exactly_one_split(images: list[tuple[str, int]], data: st.DataObject) -> None:
    n = len(images)
    index = index_of(images)
    index.given_split[:] = data.draw(st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=n, max_size=n))
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    if not (usable & (index.given_split <= 0)).any():
        with pytest.raises(DataError, match="train"):
            make_split(index, usable, DataConfig(allow_small=True))
        return
    split = make_split(index, usable, DataConfig(allow_small=True))
    together = np.concatenate([split.train, split.validation, split.test])
    assert sorted(together) == np.flatnonzero(usable).tolist()
    for part in (split.train, split.validation, split.test):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


@given(labelled)
def test_membership_is_the_documented_hash_unless_a_class_would_lack_a_split(images: list[tuple[str, int]]) -> None:
    index = index_of(images)
    found = places(index, split_of(index, allow_small=True))
    for label in range(4):
        names = [name for name, own in images if own == label]
        expected = {name: oracle(name) for name in names}
        if len(names) < 3:
            assert all(found[name] == "train" for name in names)
        elif len(set(expected.values())) == 3:
            assert {name: found[name] for name in names} == expected
        else:
            assert {found[name] for name in names} == {"train", "validation", "test"}
            assert sum(found[name] != expected[name] for name in names) <= 2


@given(labelled, labelled)
def test_growth_moves_no_old_image_of_a_class_that_the_hash_serves(
    old: list[tuple[str, int]], new: list[tuple[str, int]]
) -> None:
    known = {name for name, _ in old}
    grown = [*(item for item in new if item[0] not in known), *old]
    before = places(index_of(old), split_of(index_of(old), allow_small=True))
    after = places(index_of(grown), split_of(index_of(grown), allow_small=True))
    for label in range(4):
        names = [name for name, own in old if own == label]
        if {oracle(name) for name in names} == {"train", "validation", "test"}:
            assert {name: before[name] for name in names} == {name: after[name] for name in names}


@given(labelled, st.data())
def test_no_group_straddles_two_splits(images: list[tuple[str, int]], data: st.DataObject) -> None:
    n = len(images)
    groups = data.draw(st.lists(st.sampled_from(["", *"abcdefghijkl"]), min_size=n, max_size=n))
    index = index_of(images, groups)
    found = places(index, split_of(index, allow_small=True))
    by_group: dict[str, set[str]] = {}
    for (name, _), group in zip(images, groups, strict=True):
        if group:
            by_group.setdefault(group, set()).add(found[name])
    assert all(len(parts) == 1 for parts in by_group.values())


@given(labelled, st.floats(0.01, 1), st.floats(0.01, 1))
def test_fractions_are_nested_stratified_and_leave_held_out_images_alone(
    images: list[tuple[str, int]], one: float, other: float
) -> None:
    index = index_of(images)
    low, high = sorted((one, other))
    full, large, small = (split_of(index, allow_small=True, fraction=fraction) for fraction in (1.0, high, low))
    assert set(small.train) <= set(large.train) <= set(full.train)
    for part in (large, small):
        assert part.test.tolist() == full.test.tolist()
        assert part.validation.tolist() == full.validation.tolist()
    for label, images_of_class in Counter(index.labels[full.train].tolist()).items():
        kept = int((index.labels[small.train] == label).sum())
        assert max(1, low * images_of_class - 0.5) <= kept <= max(1, low * images_of_class + 0.5)


def test_fraction_says_so_and_is_drawn_apart_from_the_split() -> None:
    index = make_index([f"{number}.png" for number in range(4000)], [0, 1] * 2000)
    split = split_of(index, fraction=0.25)
    assert f"training uses {len(split.train):,} of " in split.description
    # A seventh of the training hashes lies in [0.3, 0.4); one hash for both purposes would keep all of these.
    wider = split_of(index, test_fraction=0.4)
    assert 0.1 < len(set(split.train) & set(wider.test)) / len(split.train) < 0.19


def test_the_shares_are_the_asked_ones_in_every_class() -> None:
    index = make_index([f"{number:05}.jpg" for number in range(20_000)], [number % 4 for number in range(20_000)])
    split = split_of(index)
    for label in range(4):
        for part, share in ((split.test, TEST_SHARE), (split.validation, VALIDATION_SHARE)):
            # Five standard deviations of a binomial share.
            assert abs((index.labels[part] == label).mean() - 0.25) < 0.05
            assert abs((index.labels[part] == label).sum() / 5000 - share) < 5 * np.sqrt(share * (1 - share) / 5000)
    assert split.description == (
        f"{len(split.train):,} for training, {len(split.validation):,} for validation, {len(split.test):,} for test; "
        "test and validation held out by a hash of the file name, 20 % and 10 % of each class"
    )


def test_membership_never_changes_between_releases() -> None:
    index = make_index([f"cats/cat.{number}.jpg" for number in range(20)], [0] * 20)
    split = split_of(index)
    assert named(index, split.test) == {name for name in index.paths if oracle(name) == "test"}
    assert split.test.tolist() == [5, 10, 15]
    assert split.validation.tolist() == [4, 12, 18]


def test_given_splits_are_kept_and_only_what_is_missing_is_held_out() -> None:
    n = 300
    paths, labels = [f"{number}" for number in range(n)], [number % 3 for number in range(n)]
    given_test = [2 if number % 10 == 0 else 0 for number in range(n)]
    index = make_index(paths, labels, given_test)
    split = split_of(index)
    assert split.test.tolist() == list(range(0, n, 10))
    assert 10 <= len(split.validation) <= 50
    assert "test as given; validation held out of the training images by a hash" in split.description

    given_validation = [1 if number % 10 == 0 else 0 for number in range(n)]
    index = make_index(paths, labels, given_validation)
    split = split_of(index)
    assert split.validation.tolist() == list(range(0, n, 10))
    assert {oracle(name) for name in named(index, split.test)} == {"test"}
    assert "validation as given; test held out of the training images by a hash" in split.description

    all_given = [(0, 1, 2)[(number // 3) % 3] for number in range(n)]
    split = split_of(make_index(paths, labels, all_given))
    for part, members in ((0, split.train), (1, split.validation), (2, split.test)):
        assert members.tolist() == [number for number in range(n) if all_given[number] == part]
    assert split.description == "102 for training, 99 for validation, 99 for test; test and validation as given"


def test_blank_splits_never_join_a_given_test_set() -> None:
    index = make_index([f"{n}" for n in range(200)], [n % 2 for n in range(200)], [2] * 20 + [-1] * 180)
    split = split_of(index)
    assert split.test.tolist() == list(range(20))
    assert len(split.validation) > 5
    assert len(split.train) + len(split.validation) == 180


def test_held_out_group_takes_its_blank_images_along_and_gives_up_no_training_image() -> None:
    groups = ["held"] * 4 + ["mixed"] * 4 + [f"g{n // 2}" for n in range(40)]
    given_split = [2, 2, -1, -1] + [2, 0, 0, -1] + [-1] * 40
    index = make_index([f"{n}" for n in range(48)], [0, 1] * 24, given_split, groups)
    split = split_of(index)
    assert split.test.tolist() == [0, 1, 2, 3, 4, 7]
    assert {5, 6} <= set(split.train)
    (finding,) = [finding for finding in split.findings if finding.code == "groups-across-splits"]
    assert finding.evidence == ("mixed",)


def test_groups_are_named_in_the_description() -> None:
    index = make_index(
        [f"{n}" for n in range(60)], [n % 2 for n in range(60)], groups=[f"p{n // 4}" for n in range(60)]
    )
    assert "by a hash of the group, so that no group is torn apart" in split_of(index).description


def test_group_that_is_most_of_a_class_stays_in_training() -> None:
    for number in range(40):  # the hash would hold it out for some of these names
        name = f"patient{number}"
        groups = [name] * 30 + [f"other{n}" for n in range(10)] + [f"more{n}" for n in range(30)]
        index = make_index([f"{n}" for n in range(70)], [0] * 40 + [1] * 30, groups=groups)
        split = split_of(index)
        assert set(range(30)) <= set(split.train)
        assert (index.labels[split.test] == 0).any()
        (finding,) = split.findings
        assert finding.code == "dominant-groups"
        assert finding.evidence == (f"{name}: 30 of 40 images of class0",)


def test_group_of_two_classes_is_moved_for_one_without_robbing_the_other() -> None:
    # Every group holds one image of each class, so a move for one class is a move for the other.
    for offset in range(50):
        groups = [f"{offset}-{n // 2}" for n in range(8)]
        index = make_index([f"{n}" for n in range(8)], [0, 1] * 4, groups=groups)
        split = split_of(index)
        assert all(set(index.labels[part]) == {0, 1} for part in (split.train, split.validation, split.test))


def test_smallest_class_that_can_be_divided_has_an_image_in_every_split() -> None:
    for offset in range(100):
        index = make_index([f"{offset}/{n}" for n in range(3)] + [f"x{n}" for n in range(50)], [0] * 3 + [1] * 50)
        split = split_of(index)
        assert all((index.labels[part] == 0).sum() == 1 for part in (split.train, split.validation, split.test))


def test_tiny_classes_stop_with_names_counts_and_remedy() -> None:
    index = make_index([f"{n}" for n in range(33)], [0] * 30 + [1] * 2 + [2])
    with pytest.raises(DataError) as caught:
        split_of(index)
    message = str(caught.value)
    assert "class1 (2 images), class2 (1 image)" in message
    assert "class0" not in message
    assert "at least 3" in message
    assert "--allow-small" in message
    assert "\n" not in message
    # Fewer parts to fill need fewer images.
    assert len(split_of(make_index(["a", "b", "c", "d"], [0, 0, 1, 1]), validation_fraction=0).test) == 2


def test_tiny_groups_are_counted_as_groups() -> None:
    groups = ["one"] * 10 + [f"g{n}" for n in range(20)]
    index = make_index([f"{n}" for n in range(30)], [0] * 10 + [1] * 20, groups=groups)
    with pytest.raises(DataError, match=r"class0 \(1 group\)"):
        split_of(index)


def test_allowed_tiny_classes_train_and_are_named() -> None:
    index = make_index([f"{n}" for n in range(33)], [0] * 30 + [1] * 2 + [2])
    split = split_of(index, allow_small=True)
    assert {30, 31, 32} <= set(split.train)
    assert codes(split) == ["small-classes"]
    assert split.findings[0].evidence == ("class1: 2 for training", "class2: 1 for training")


def test_class_of_unreadable_images_only_is_too_small() -> None:
    index = make_index([f"{n}" for n in range(40)], [0] * 30 + [1] * 10)
    usable = np.arange(40) < 30
    with pytest.raises(DataError, match=r"class1 \(0 images\)"):
        make_split(index, usable, DataConfig())


def test_class_missing_from_given_parts_is_said() -> None:
    labels = [0, 1, 2] * 20 + [0, 1, 3] * 5
    index = make_index([f"{n}" for n in range(75)], labels, [0] * 60 + [2] * 15)
    split = split_of(index)
    said = {finding.code: finding.evidence for finding in split.findings}
    assert said == {
        "class-without-training": ("class3: 0 for training",),
        "class-without-test": (f"class2: {int((index.labels[split.train] == 2).sum())} for training",),
    }


def test_unlabelled_images_are_in_no_split() -> None:
    index = make_index([f"{n}" for n in range(41)], [0, 1] * 20 + [-1])
    split = split_of(index)
    assert 40 not in np.concatenate([split.train, split.validation, split.test])
    assert codes(split) == ["unlabelled-images"]
    assert split.findings[0].evidence == ("40",)


@pytest.mark.parametrize(
    ("labels", "given_split", "message"),
    [([-1, -1], [-1, -1], "nothing to train"), ([0, 1], [2, 2], "no image is left for training")],
)
def test_nothing_to_train_is_said(labels: list[int], given_split: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_of(make_index(["a", "b"], labels, given_split, classes=2))


def test_shares_that_leave_nothing_for_training_are_refused() -> None:
    index = make_index([f"{n}" for n in range(20)], [0, 1] * 10)
    with pytest.raises(ConfigError, match=r"0\.5 and data\.validation_fraction 0\.5 leave nothing"):
        split_of(index, test_fraction=0.5, validation_fraction=0.5)


def test_nothing_is_held_out_where_no_share_is_asked() -> None:
    index = make_index(["a", "b"], [0, 1])
    split = split_of(index, test_fraction=0, validation_fraction=0)
    assert split.train.tolist() == [0, 1]
    assert split.description == "2 for training, 0 for validation, 0 for test"


def test_names_of_undecodable_bytes_are_split_too() -> None:
    index = make_index([f"caf\udce9{n}" for n in range(30)], [0, 1] * 15)
    assert len(split_of(index).test) > 0


def test_many_images_take_seconds() -> None:
    n = 200_000
    index = make_index([f"train/{number:07}" for number in range(n)], (np.arange(n) % 1000).tolist())
    start = time.perf_counter()
    split = split_of(index, fraction=0.5)
    assert time.perf_counter() - start < 4
    assert len(split.test) + len(split.validation) > 50_000


def test_class_folders_split_end_to_end(shapes_folder: Path) -> None:
    index = read_index(DataConfig(source=str(shapes_folder)))
    split = make_split(index, everything(index), DataConfig())
    assert {oracle(name) for name in named(index, split.test)} == {"test"}
    assert len(split.train) + len(split.validation) + len(split.test) == 80


def drawn(index: ImageIndex, wanted: int, seed: int = 0) -> Split:
    return make_split(index, everything(index), DataConfig(train_images=wanted, allow_small=True), seed)


@given(labelled, st.integers(0, 2**32 - 1), st.data())
def test_fewer_drawn_images_are_among_more_and_no_other_split_changes(
    images: list[tuple[str, int]], seed: int, data: st.DataObject
) -> None:
    index = index_of(images)
    whole = split_of(index, allow_small=True)
    more = data.draw(st.integers(1, len(whole.train)))
    fewer = data.draw(st.integers(1, more))
    small, large = drawn(index, fewer, seed), drawn(index, more, seed)
    assert (len(small.train), len(large.train)) == (fewer, more)
    assert set(small.train) <= set(large.train) <= set(whole.train)
    assert small.validation.tolist() == whole.validation.tolist()
    assert small.test.tolist() == whole.test.tolist()
    assert drawn(index, more, seed).train.tolist() == large.train.tolist()


@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.data())
def test_drawn_images_keep_the_classes_in_proportion(sizes: list[int], data: st.DataObject) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    index = make_index([str(number) for number in range(len(labels))], labels, [0] * len(labels))
    wanted = data.draw(st.integers(1, len(labels)))
    config = DataConfig(train_images=wanted, allow_small=True, validation_fraction=0, test_fraction=0)
    split = make_split(index, everything(index), config, seed=5)
    counts = np.bincount(index.labels[split.train], minlength=len(sizes))
    if wanted <= len(sizes):
        assert counts.max() == 1  # the largest classes first
        assert min(np.array(sizes)[counts == 1]) >= max(np.array(sizes)[counts == 0], default=0)
        return
    assert counts.min() >= 1
    # Sainte-Lague with one seat each: no seat could go elsewhere at a better quotient.
    quotient = np.array(sizes) / (2 * counts + 1)
    given_last = np.where(counts > 1, np.array(sizes) / (2 * counts - 1), np.inf)
    open_to_more = counts < sizes
    assert not open_to_more.any() or quotient[open_to_more].max() <= given_last.min() + 1e-12


def test_another_seed_draws_other_images_and_a_fraction_does_not() -> None:
    index = make_index([str(number) for number in range(1000)], [number % 10 for number in range(1000)])
    trained = [set(drawn(index, 200, seed).train) for seed in range(4)]
    for number, one in enumerate(trained):
        for other in trained[:number]:
            assert len(one & other) < 100  # two draws of 200 from some 700 share about 57
    halves = [make_split(index, everything(index), DataConfig(fraction=0.5), seed).train.tolist() for seed in (0, 1)]
    assert halves[0] == halves[1]
    both = make_split(index, everything(index), DataConfig(fraction=0.5, train_images=50), 3)
    assert set(both.train) <= set(halves[0])


def test_too_many_drawn_images_are_one_line() -> None:
    index = make_index([str(number) for number in range(100)], [number % 2 for number in range(100)])
    train = len(split_of(index).train)
    assert len(drawn(index, train).train) == train
    with pytest.raises(DataError, match=rf"asks for {train + 1} training images, and there are {train}\.") as caught:
        drawn(index, train + 1)
    assert "\n" not in str(caught.value)


def test_drawn_images_are_described_and_what_they_lack_is_said() -> None:
    labels = [number % 10 for number in range(400)]
    index = make_index([str(number) for number in range(400)], labels)
    split = drawn(index, 20, seed=7)
    assert f"training uses 20 of {len(split_of(index).train)} images, classes in proportion, drawn by seed 7" in (
        split.description
    )
    assert codes(split) == ["validation-outweighs-training"]
    assert codes(drawn(index, 200)) == []
    assert {"class-without-training", "validation-outweighs-training"} == set(codes(drawn(index, 6)))


@pytest.mark.data
def test_given_test_folder_of_real_photos_is_the_test_set(shared_data: Callable[[str], Path]) -> None:
    index = read_index(DataConfig(source=str(shared_data("cats_dogs"))))
    split = make_split(index, everything(index), DataConfig())
    assert {name.split("/")[0] for name in named(index, split.test)} == {"test"}
    assert len(split.test) == 1000
    assert {name.split("/")[0] for name in named(index, split.train) | named(index, split.validation)} == {"train"}
    assert split.findings == ()

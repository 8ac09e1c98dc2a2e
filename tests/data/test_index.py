from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.data.index import ImageIndex, counted, listed, natural_key, natural_sorted, shown, split_named


def test_natural_order_is_that_of_people() -> None:
    names = ["img10", "img2", "IMG1", "b", "a10", "a9", "10", "9", "007", "7", "é"]
    assert natural_sorted(names) == ["007", "7", "9", "10", "a9", "a10", "b", "IMG1", "img2", "img10", "é"]


@given(st.lists(st.integers(min_value=0, max_value=10**30), max_size=30))
def test_natural_order_of_numbers_is_numeric(numbers: list[int]) -> None:
    assert natural_sorted(str(number) for number in numbers) == [str(number) for number in sorted(numbers)]


@given(st.lists(st.text(max_size=12), unique=True, max_size=12), st.randoms())
def test_natural_order_does_not_depend_on_where_it_starts(names: list[str], random: object) -> None:
    assert natural_sorted(names) == natural_sorted(reversed(names))
    assert len({natural_key(name) for name in names}) == len(names)


def test_numbers_too_long_for_int_are_sorted() -> None:
    long = "9" * 5000
    assert natural_sorted([long, "10", long + "0"]) == ["10", long, long + "0"]


@pytest.mark.parametrize(
    ("text", "split"),
    [("train", "train"), ("Valid", "validation"), ("VAL", "validation"), ("validation", "validation"),
     (" test ", "test"), ("training", "train"), ("trainer", None), ("", None)],
)  # fmt: skip
def test_split_names(text: str, split: str | None) -> None:
    assert split_named(text) == split


def test_shown_names_are_one_printable_line() -> None:
    assert shown("a\nb\x1b[31m\udcff é.png") == "a\\nb\\x1b[31m\\udcff é.png"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert listed(["a", "b"], 2) == "a, b"
    assert (counted(1, "class"), counted(2, "class"), counted(1200, "image")) == (
        "1 class",
        "2 classes",
        "1,200 images",
    )


def test_source_is_a_file_or_pixels() -> None:
    files = ImageIndex(
        "folder", Path("root"), ("a",), ("a/1.png", "/elsewhere/2.png"), np.zeros(2, np.int64), np.zeros(2, np.int8),
        None, None, "",
    )  # fmt: skip
    assert files.source(0) == Path("root/a/1.png")
    assert files.source(1) == Path("/elsewhere/2.png")
    pixels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    arrays = ImageIndex(
        "npz", Path("x.npz"), ("a",), ("train/0", "train/1"), np.zeros(2, np.int64), np.zeros(2, np.int8),
        None, pixels, "",
    )  # fmt: skip
    assert np.array_equal(np.asarray(arrays.source(1)), pixels[1])

"""Figures that are kept: found again, made anew where they are damaged, never in the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tintype.data.kept import Figures, kept_figures


class Maker:
    """Counts how often the figures are made."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, NDArray[np.generic]]:
        self.calls += 1
        return {"numbers": np.arange(5000, dtype=np.float32), "none": np.zeros((0, 3), np.int64)}


def same(one: Figures, other: Figures) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_figures_are_made_once_for_the_same_images_and_the_same_question() -> None:
    make = Maker()
    first = kept_figures("images", "looks 1", make)
    assert same(first, kept_figures("images", "looks 1", make))
    assert make.calls == 1
    kept_figures("images", "looks 2", make)
    kept_figures("others", "looks 1", make)
    assert make.calls == 3


def test_figures_of_other_rows_or_other_labels_are_others() -> None:
    make = Maker()
    rows, labels = np.arange(4), np.array([0, 1, 0, 1])
    questions = ([rows, labels], [rows[:3], labels], [rows, labels[::-1]], [rows.astype(np.int32), labels], [rows])
    for asked in questions * 2:
        kept_figures("images", "shortcuts", make, asked)
    assert make.calls == len(questions)


def test_a_flipped_byte_or_a_cut_file_is_noticed(private_cache: Path) -> None:
    make = Maker()
    first = kept_figures("images", "looks 1", make)
    (file,) = (private_cache / "figures").iterdir()
    whole = file.read_bytes()
    for broken in (whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:], whole[:5000], b""):
        file.write_bytes(broken)
        before = make.calls
        assert same(first, kept_figures("images", "looks 1", make))
        assert make.calls == before + 1
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_made_costs_nothing_but_time(private_cache: Path) -> None:
    (private_cache / "figures").write_text("a file stands in the way")
    make = Maker()
    assert same(kept_figures("images", "looks 1", make), make())

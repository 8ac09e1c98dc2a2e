from __future__ import annotations

import os
import tempfile
import zlib
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tintype.data import rowfile
from tintype.data.rowfile import RowWriter, is_intact, map_rows


def write(path: Path, rows: NDArray[np.uint16], order: list[int], block_bytes: int) -> NDArray[np.uint32]:
    """Write the rows, blocks in the order of their numbers in ``order``; returns the checksums."""
    with closing(RowWriter(path, len(rows), rows[0].nbytes, block_bytes)) as writer:
        for number in order:
            start = number * writer.block
            writer.put(start, rows[start : start + writer.block])
        writer.sync()
        return writer.checksums


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_written_in_any_order_is_read_and_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    count, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 5))
    block_bytes = data.draw(st.integers(1, 80))
    rows = np.random.default_rng(count).integers(0, 2**16, (count, width, 2)).astype(np.uint16)
    row_bytes = width * 4
    per_block = max(1, block_bytes // row_bytes)
    numbers = data.draw(st.permutations(range(-(-count // per_block))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        checksums = write(path, rows, numbers, block_bytes)
        content = path.read_bytes()
        assert content == rows.tobytes()
        cuts = range(0, len(content), per_block * row_bytes)
        assert checksums.tolist() == [zlib.crc32(content[cut : cut + per_block * row_bytes]) for cut in cuts]
        mapped = map_rows(path, rows.shape, np.uint16)
        assert np.array_equal(mapped, rows)
        assert not mapped.flags.writeable
        assert is_intact(mapped, checksums, block_bytes)
        place = data.draw(st.integers(0, len(content) - 1))
        damaged = bytearray(content)
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(damaged)
        assert not is_intact(map_rows(path, rows.shape, np.uint16), checksums, block_bytes)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_that_come_in_pieces_of_any_length_and_order_are_the_same_file(data: st.DataObject) -> None:
    count, per_block = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    rows = np.random.default_rng(count).integers(0, 2**16, (count, 3)).astype(np.uint16)
    cuts = sorted({0, count, *data.draw(st.lists(st.integers(0, count), max_size=12))})
    with tempfile.TemporaryDirectory() as folder:
        expected = write(Path(folder) / "whole", rows, list(range(-(-count // per_block))), 6 * per_block)
        with closing(RowWriter(Path(folder) / "pieces", count, 6, 6 * per_block)) as writer:
            for start, stop in data.draw(st.permutations(list(pairwise(cuts)))):
                writer.add(start, rows[start:stop])
            writer.sync()
            assert writer.checksums.tolist() == expected.tolist()
        assert (Path(folder) / "pieces").read_bytes() == rows.tobytes()


def test_a_file_that_lacks_rows_is_not_finished(tmp_path: Path) -> None:
    with closing(RowWriter(tmp_path / "rows", 10, 2, 8)) as writer:
        writer.add(0, np.zeros((5, 1), np.uint16))
        with pytest.raises(AssertionError, match=r"blocks \[1\] lack rows"):
            writer.sync()


def test_a_non_contiguous_block_is_written_row_by_row(tmp_path: Path) -> None:
    rows = np.arange(24, dtype=np.uint16).reshape(4, 6).T
    checksums = write(tmp_path / "rows", rows, [0], 1000)
    assert np.array_equal(map_rows(tmp_path / "rows", (6, 4), np.uint16), rows)
    assert is_intact(map_rows(tmp_path / "rows", (6, 4), np.uint16), checksums, 1000)


def test_checksums_of_another_number_of_blocks_are_not_its_own(tmp_path: Path) -> None:
    rows = np.zeros((10, 2), np.uint16)
    checksums = write(tmp_path / "rows", rows, [0, 1, 2], 16)
    mapped = map_rows(tmp_path / "rows", (10, 2), np.uint16)
    assert is_intact(mapped, checksums, 16)
    assert not is_intact(mapped, checksums[:2], 16)


def test_a_short_file_is_not_mapped(tmp_path: Path) -> None:
    write(tmp_path / "rows", np.zeros((10, 2), np.uint16), [0], 1000)
    os.truncate(tmp_path / "rows", 39)
    with pytest.raises(ValueError, match="mmap length is greater"):
        map_rows(tmp_path / "rows", (10, 2), np.uint16)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("here already")
    with pytest.raises(FileExistsError):
        RowWriter(tmp_path / "rows", 1, 1)
    assert (tmp_path / "rows").read_text() == "here already"


def test_of_a_large_file_as_much_as_told_is_looked_at(tmp_path: Path) -> None:
    rows = np.ones((50, 2), np.uint16)
    checksums = write(tmp_path / "rows", rows, list(range(50)), 1)
    content = bytearray(rows.tobytes())
    content[0] ^= 1
    (tmp_path / "rows").write_bytes(content)
    mapped = map_rows(tmp_path / "rows", rows.shape, np.uint16)
    verdicts = [is_intact(mapped, checksums, 1, verified_bytes=20 * 4) for _ in range(200)]
    # 20 of 50 blocks are looked at, others each time: 80 expected, and 45 to 115 in all but one of two million tests.
    assert 45 < verdicts.count(False) < 115


@pytest.mark.parametrize("limit", [39, 40])
def test_only_what_is_not_verified_whole_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(rowfile, "VERIFIED_BYTES", limit)
    write(tmp_path / "rows", np.zeros((10, 2), np.uint16), [0], 1000)
    assert len(synced) == (limit < 40)

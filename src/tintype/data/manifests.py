"""Manifests: a table with a row per image, ``path,label[,split][,group]``, as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from tintype.data.index import (
    NO_SPLIT,
    SPLIT_IDS,
    UNLABELLED,
    ImageIndex,
    counted,
    listed,
    natural_sorted,
    shown,
    split_named,
)
from tintype.errors import DataError, MissingDependencyError

COLUMNS = ("path", "label", "split", "group")
MANIFEST_NAMES = tuple(f"{stem}.{suffix}" for stem in ("manifest", "labels") for suffix in ("csv", "parquet"))
_LONGEST_FIELD = 2**20


@dataclass(frozen=True)
class _Row:
    path: str
    label: str
    split: str
    group: str


def read_manifest(file: Path) -> ImageIndex:
    """Index the images that a table lists; paths are relative to the table's folder, or absolute.

    An empty label leaves an image unlabelled, an empty split leaves it to tintype, and an image without a group is
    a group of its own. A row that repeats another is dropped.

    Raises:
        DataError: Columns are missing, a row is malformed or contradicts another, or images are missing.
        MissingDependencyError: A Parquet table without pyarrow.
    """
    table = _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_csv(file)
    rows, repeated = _unique(file, table)
    if not rows:
        raise DataError(f"{shown(file)} lists no images.")
    _check_files(file, rows)
    classes = natural_sorted({row.label for row in rows if row.label})
    ids = {name: number for number, name in enumerate(classes)} | {"": UNLABELLED}
    labels = np.array([ids[row.label] for row in rows], dtype=np.int64)
    unlabelled = int((labels == UNLABELLED).sum())
    notes = [f"manifest {shown(file.name)}: {counted(len(classes), 'class')}, {counted(len(rows), 'image')}"]
    if unlabelled:
        notes.append(f"{counted(unlabelled, 'image')} without a label")
    if repeated:
        notes.append(f"{counted(repeated, 'repeated row')} dropped")
    return ImageIndex(
        kind="manifest",
        root=file.parent,
        classes=tuple(classes),
        paths=tuple(row.path for row in rows),
        labels=labels,
        given_split=_splits(file, rows),
        groups=tuple(row.group or row.path for row in rows) if any(row.group for row in rows) else None,
        arrays=None,
        description="; ".join(notes),
    )


def _read_csv(file: Path) -> list[_Row]:
    try:
        # Names in the table may hold any bytes, as names on disk may.
        text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"cannot read the manifest {shown(file)}: {error.strerror}.") from None
    header_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=header_line.count)
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        header = next(reader, [])
        places = _places(file, header)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{shown(file)} line {reader.line_num} has {counted(len(cells), 'field')} where the header has "
                    f"{len(header)}. Quote a name that holds {delimiter!r}."
                )
            rows.append(_row(cells, places))
    except csv.Error as error:
        raise DataError(f"{shown(file)} line {reader.line_num} is not CSV: {error}.") from None
    return rows


def _read_parquet(file: Path) -> list[_Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingDependencyError(
            "Parquet manifests need pyarrow. Install it with: pip install 'tintype[parquet]'"
        ) from None
    try:
        table = parquet.read_table(file)
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read the manifest {shown(file)}: {reason[:200]}.") from None
    places = _places(file, table.column_names)
    columns = {name: table.column(place).to_pylist() for name, place in places.items()}
    return [
        _row([_text(value) for value in values], {name: place for place, name in enumerate(columns)})
        for values in zip(*columns.values(), strict=True)
    ]


def _text(value: object) -> str:
    """A Parquet cell as a CSV would hold it: 1.0 is the label 1, null and NaN are none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _places(file: Path, header: Sequence[str]) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    for name in COLUMNS:
        if names.count(name) > 1:
            raise DataError(f"{shown(file)} has the column {name} twice.")
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        raise DataError(
            f"{shown(file)} has no column {' and no column '.join(missing)}. It has: {listed(header, 8) or 'none'}. "
            "A manifest has the columns path,label and may have split,group."
        )
    return {name: names.index(name) for name in COLUMNS if name in names}


def _row(cells: Sequence[str], places: dict[str, int]) -> _Row:
    values = {name: cells[place] for name, place in places.items()}
    path = values["path"]
    return _Row(
        # Spelled the same way, so that ./a.png and a.png are found to be one image.
        path=PurePosixPath(path).as_posix() if path.strip() else "",
        label=values["label"].strip(),
        split=values.get("split", "").strip(),
        group=values.get("group", "").strip(),
    )


def _unique(file: Path, table: Iterable[_Row]) -> tuple[list[_Row], int]:
    """Drop repeated rows; refuse rows without a path and rows that say different things of one image."""
    first: dict[str, _Row] = {}
    repeated, pathless = 0, 0
    contradictory: dict[str, None] = {}
    for row in table:
        if not row.path:
            pathless += 1
        elif (known := first.setdefault(row.path, row)) is not row:
            repeated += 1
            if known != row:
                contradictory[row.path] = None
    if pathless:
        raise DataError(f"{shown(file)} has {counted(pathless, 'row')} without a path.")
    if contradictory:
        names = listed(list(contradictory), 3)
        raise DataError(
            f"{shown(file)} lists {counted(len(contradictory), 'image')} more than once with different labels, splits "
            f"or groups: {names}. Keep one row each."
        )
    return list(first.values()), repeated


def _check_files(file: Path, rows: Sequence[_Row]) -> None:
    folder = str(file.parent)
    missing = [row.path for row in rows if not os.path.exists(os.path.join(folder, row.path))]  # noqa: PTH110, PTH118
    if missing:
        raise DataError(
            f"{len(missing):,} of the {len(rows):,} images in {shown(file)} do not exist: {listed(missing, 3)}. Paths "
            f"are relative to {shown(folder)}."
        )


def _splits(file: Path, rows: Sequence[_Row]) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    meaning = {name: split_named(name) for name in {row.split for row in rows} if name}
    unknown = natural_sorted(name for name, split in meaning.items() if split is None)
    if unknown:
        raise DataError(
            f"{shown(file)} has the split {listed(unknown, 3)}. A split is train, validation, test or empty."
        )
    ids = {name: SPLIT_IDS[split] for name, split in meaning.items() if split is not None}
    return np.array([ids.get(row.split, NO_SPLIT) for row in rows], dtype=np.int8)

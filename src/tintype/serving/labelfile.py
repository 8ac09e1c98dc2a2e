"""A CSV of labels that grows row by row, and is gone on with after a stop at any moment.

Every row is handed to the system as soon as its label is known, so a process that is killed loses what it had not
labelled yet, and at most half a row is left behind, which the next one cuts off. Several processes write a file each,
beside one another, so they need no word from each other and no shared disk.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import glob
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

from tintype.data.index import shown
from tintype.data.nameset import NameSet
from tintype.errors import RunError
from tintype.serving.labels import Label

_LONGEST_PATHS = 65_536
"""Bytes that the paths and the reason in a row may take, each letter escaped."""


class LabelFile:
    """The rows of one process.

    Args:
        path: The CSV; it is made where it is absent, and gone on with where it is not.
        classes: Class names, in the order of the probabilities.
        model: What tells this model from others; it stands in each row.
        rank: Number of this process where several label together; it writes ``NAME.rankR.csv``. None: it is alone,
            and takes the rows of such files over into its own.

    Attributes:
        path: The file that this process writes.
        known: The images whose rows are there, in this file or one beside it.
        taken: How many rows were taken over from files beside it.

    Raises:
        RunError: The file is something else, of another model, damaged, or written by another process.
    """

    def __init__(self, path: Path, classes: Sequence[str], model: str, rank: int | None = None) -> None:
        self.known = NameSet()
        self.taken = 0
        self.path = path if rank is None else _of_rank(path, str(rank))
        self._classes, self._model = tuple(classes), model
        self._header = [*header(classes), "model"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            _lock(self._file, self.path)
            self._mend()
            for other in _beside(path):
                if other != self.path:
                    self._read_beside(other, is_taken=rank is None)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, label: Label) -> None:
        """Write a label's row, so that it stays whatever becomes of this process."""
        self._write([*row(label, self._classes), self._model])

    def close(self) -> None:
        """Put the rows on the disk itself."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, fields: Sequence[str]) -> None:
        self._file.write(_line(fields))
        self._file.flush()

    def _mend(self) -> None:
        """Note which images are there, and cut off a row that was not finished."""
        end = 0
        for after, fields in _whole_rows(self._file, self.path):
            self._check(fields, self.path, is_header=end == 0)
            if end:
                self.known.add(fields[0])
            end = after
        self._file.seek(end)
        if end == 0:
            if not _line(self._header).startswith(self._file.read()):
                raise RunError(f"{self.path} is no table of labels. Take another name for the output.")
            self._file.seek(0)
        self._file.truncate()
        if end == 0:
            self._write(self._header)

    def _read_beside(self, other: Path, *, is_taken: bool) -> None:
        with other.open("rb") as file:
            is_header = True
            for _, fields in _whole_rows(file, other):
                self._check(fields, other, is_header=is_header)
                if not is_header and self.known.add(fields[0]) and is_taken:
                    self._write(fields)
                    self.taken += 1
                is_header = False

    def _check(self, fields: list[str], path: Path, *, is_header: bool) -> None:
        if is_header:
            if fields != self._header:
                raise RunError(
                    f"{path} is no table of this model's labels: it has other columns. Take another name for the "
                    "output."
                )
        elif len(fields) != len(self._header):
            raise RunError(
                f"{path} is damaged: the row of {shown(fields[0])} has {len(fields)} columns instead of "
                f"{len(self._header)}. Mend or remove that row."
            )
        elif fields[-1] != self._model:
            raise RunError(
                f"{path} has labels of another model ({shown(fields[-1])}; this one is {self._model}). Take another "
                "name for the output."
            )


def header(classes: Sequence[str]) -> list[str]:
    """Names of the columns that :func:`row` fills."""
    columns = (writable(f"probability/{name}") for name in classes)
    return ["path", "label", "probability", "sure", *columns, "explanation", "error"]


def row(label: Label, classes: Sequence[str]) -> list[str]:
    """A label as text: seven digits of each probability, nothing where the image could not be read."""
    columns = [f"{label.probabilities[name]:.7g}" if not label.error else "" for name in classes]
    probability = "" if label.error else f"{label.probability:.7g}"
    sure = "true" if label.sure else "false"
    path, explanation = writable(label.path), writable(label.explanation)
    return [path, writable(label.label), probability, sure, *columns, explanation, writable(label.error)]


def writable(text: str) -> str:
    """Text that any stream can write: bytes of a file name that are no UTF-8 are shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _of_rank(path: Path, rank: str) -> Path:
    """``labels.rank1.csv`` for ``labels.csv``."""
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


def _beside(path: Path) -> list[Path]:
    """The file itself and those of ranks, as far as they are there."""
    pattern = _of_rank(Path(glob.escape(path.name)), "*").name
    ranks = [other for other in path.parent.glob(pattern) if other.suffixes[-2][5:].isdecimal()]
    return [other for other in (path, *sorted(ranks)) if other.is_file()]


def _line(fields: Sequence[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(fields)  # its \r\n makes it quote a lone \r or \n in a name
    return buffer.getvalue().encode()


def _whole_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that end, each with the place behind it; a name may have line ends in it, which stand between quotes."""
    line, end, width = b"", 0, 0
    for part in file:
        line += part
        width = width or len(line)  # of the header, which has the name of every class
        if len(line) > _LONGEST_PATHS + 2 * width:  # what follows is no half row and must not be cut off
            raise RunError(f"{path} is damaged: a quotation mark is not closed behind byte {end:,}. Mend it.")
        if line.endswith(b"\n") and line.count(b'"') % 2 == 0:
            end += len(line)
            try:
                fields = next(csv.reader([line.decode("utf-8-sig")]), [])
            except (UnicodeDecodeError, csv.Error) as error:
                raise RunError(f"{path} cannot be read: {error}. Take another name for the output.") from None
            if fields:  # an editor may have left an empty line
                yield end, fields
            line = b""


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep others from writing the same file; where the file system knows no locks, nobody is kept."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise RunError(f"another process writes {path}. Wait for it, or take another name.") from None

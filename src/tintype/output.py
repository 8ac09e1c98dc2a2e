"""Labels as a table, JSON or CSV, written as they come."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from tintype.serving.predictor import Label

Style = Literal["table", "json", "csv"]
PATH_WIDTH = 48


def write_labels(labels: Iterable[Label], classes: Sequence[str], style: Style, stream: TextIO) -> int:
    """Write labels one by one, so that a million images need no more memory than one.

    Args:
        labels: What the model says.
        classes: Class names, in the order of the probabilities.
        style: ``table`` for people, ``json`` for one object, ``csv`` with a column per class.
        stream: Where to.

    Returns:
        How many images could not be read.
    """
    writers = {"table": _write_table, "json": _write_json, "csv": _write_csv}
    counted = _Counter(labels)
    writers[style](counted, classes, stream)
    return counted.failed


class _Counter:
    """Passes labels on and counts the failures."""

    def __init__(self, labels: Iterable[Label]) -> None:
        self._labels = labels
        self.failed = 0

    def __iter__(self) -> Iterator[Label]:
        for label in self._labels:
            self.failed += bool(label.error)
            yield label


def _write_table(labels: Iterable[Label], classes: Sequence[str], stream: TextIO) -> None:
    width = max(5, *(len(name) for name in classes))
    for label in labels:
        path = label.path if len(label.path) <= PATH_WIDTH else "…" + label.path[1 - PATH_WIDTH :]
        if label.error:
            stream.write(f"{_safe(path):<{PATH_WIDTH}}  unreadable: {_safe(label.error)}\n")
            continue
        others = sorted(label.probabilities.items(), key=lambda item: -item[1])[1:3]
        rest = ", ".join(f"{name} {probability:.1%}" for name, probability in others)
        stream.write(f"{_safe(path):<{PATH_WIDTH}}  {label.label:<{width}}  {label.probability:>6.1%}  ({rest})\n")


def _write_json(labels: Iterable[Label], classes: Sequence[str], stream: TextIO) -> None:
    stream.write(f'{{"classes": {json.dumps(list(classes), ensure_ascii=False)}, "predictions": [')
    for number, label in enumerate(labels):
        stream.write(("" if number == 0 else ", ") + json.dumps(asdict(label)))
    stream.write("]}\n")


def _write_csv(labels: Iterable[Label], classes: Sequence[str], stream: TextIO) -> None:
    writer = csv.writer(stream)
    writer.writerow(["path", "label", "probability", *(f"probability/{name}" for name in classes), "error"])
    for label in labels:
        row = [f"{label.probabilities[name]:.7g}" if not label.error else "" for name in classes]
        shown = "" if label.error else f"{label.probability:.7g}"
        writer.writerow([_safe(label.path), label.label, shown, *row, label.error])


def _safe(text: str) -> str:
    """Text that any stream can write: bytes of a file name that are no UTF-8 are shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

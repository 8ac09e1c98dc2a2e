"""Labels as a table, JSON or CSV, written as they come."""

from __future__ import annotations

import csv
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Literal, TextIO

from tintype.serving.labelfile import header, row, writable
from tintype.serving.labels import Label

Style = Literal["table", "json", "csv"]
PATH_WIDTH = 48


class Tally:
    """Passes labels on and counts them.

    Attributes:
        images: How many there were.
        unsure: How many were read but not answered for sure.
        failed: How many could not be read.
    """

    def __init__(self, labels: Iterable[Label]) -> None:
        self._labels = labels
        self.images = self.unsure = self.failed = 0

    def __iter__(self) -> Iterator[Label]:
        for label in self._labels:
            self.images += 1
            self.failed += bool(label.error)
            self.unsure += not label.sure and not label.error
            yield label


def write_labels(
    labels: Iterable[Label], classes: Sequence[str], style: Style, stream: TextIO, *, top: int = 1
) -> Tally:
    """Write labels one by one, so that a million images need no more memory than one.

    Args:
        labels: What the model says.
        classes: Class names, in the order of the probabilities.
        style: ``table`` for people, ``json`` for one object, ``csv`` with a column per class.
        stream: Where to.
        top: How many classes the table and the JSON name for each image, the most probable first; at least 1.

    Returns:
        How many images there were, how many of them unsure or unreadable.
    """
    tally = Tally(labels)
    if style == "table":
        _write_table(tally, classes, stream, top)
    elif style == "json":
        _write_json(tally, classes, stream, top)
    else:
        _write_csv(tally, classes, stream)
    return tally


def _write_table(labels: Iterable[Label], classes: Sequence[str], stream: TextIO, top: int) -> None:
    width = max(5, *(len(name) for name in classes))
    for label in labels:
        path = label.path if len(label.path) <= PATH_WIDTH else "…" + label.path[1 - PATH_WIDTH :]
        if label.error:
            words = f"unreadable: {writable(label.error)}"
        elif label.sure:
            words = f"{label.label:<{width}}  {label.probability:>6.1%}"
        else:
            words = f"not sure ({label.label} {label.probability:.1%})"
        others = ", ".join(f"{name} {probability:.1%}" for name, probability in _most_probable(label, top)[1:])
        parts = [f"{writable(path):<{PATH_WIDTH}}", words, others and f"({others})", writable(label.explanation)]
        stream.write("  ".join(part for part in parts if part) + "\n")


def _write_json(labels: Iterable[Label], classes: Sequence[str], stream: TextIO, top: int) -> None:
    stream.write(f'{{"classes": {json.dumps(list(classes), ensure_ascii=False)}, "predictions": [')
    for number, label in enumerate(labels):
        ranked = [{"label": name, "probability": value} for name, value in _most_probable(label, top)]
        stream.write(("" if number == 0 else ", ") + json.dumps({**asdict(label), "top": ranked}))
    stream.write("]}\n")


def _write_csv(labels: Iterable[Label], classes: Sequence[str], stream: TextIO) -> None:
    writer = csv.writer(stream)
    writer.writerow(header(classes))
    writer.writerows(row(label, classes) for label in labels)


def _most_probable(label: Label, top: int) -> list[tuple[str, float]]:
    return heapq.nlargest(top, label.probabilities.items(), key=lambda item: item[1])

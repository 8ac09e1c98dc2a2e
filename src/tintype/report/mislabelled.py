"""The page of likely wrong labels: pictures with the given and the likely label, the most suspicious first."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tintype.evaluation.label_errors import LabelErrors, Suspect, trust
from tintype.report import text
from tintype.report.html import write_page
from tintype.rundir import RunDir, write_text

PAGE_NAME = "labels.html"
TABLE_NAME = "labels.csv"

MOST_PICTURES = 120
"""Pictures on the page; the table holds every label."""


@dataclass(frozen=True)
class SuspectPicture:
    """A picture and its label: data URL, size in pixels, what was found."""

    url: str
    width: int
    height: int
    suspect: Suspect


def write_labels_table(path: Path, errors: LabelErrors) -> None:
    """Write a CSV file: a row a likely wrong label, the most suspicious first."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)  # its \r\n makes it quote a lone \r or \n in a name
    writer.writerow(["path", "split", "given", "likely", "quality", "likely_probability"])
    for item in errors.suspects:
        figures = (f"{value:.6g}" for value in (item.quality, item.likely_probability))
        writer.writerow([item.path, item.split, item.given, item.likely, *figures])
    write_text(path, buffer.getvalue())


def write_labels_page(folder: Path, source: str, errors: LabelErrors, pictures: Sequence[SuspectPicture]) -> Path:
    """Write ``labels.html``.

    Args:
        folder: Where to.
        source: The data, as it was given.
        errors: What was found.
        pictures: Of the first suspects, in their order.

    Returns:
        The page's path.
    """
    context = {
        "name": folder.resolve().name,
        "source": source,
        "version": "",
        "sections": [("labels", "Labels"), ("pairs", "Pairs of classes")] if errors.suspects else [],
        "images": errors.images,
        "found": len(errors.suspects),
        "features": errors.features,
        "trust": trust(errors),
        "left_out": errors.left_out,
        "pictures": [_shown(picture) for picture in pictures],
        "not_shown": len(errors.suspects) - len(pictures),
        "pairs": _pairs(errors),
        "table": TABLE_NAME,
    }
    return write_page(RunDir(folder), PAGE_NAME, text.printable(context), PAGE_NAME)


def _pairs(errors: LabelErrors) -> list[tuple[str, str, str]]:
    """Given and likely class, and how many labels it is so for; the most frequent first."""
    counts: dict[tuple[str, str], int] = {}
    for item in errors.suspects:
        counts[item.given, item.likely] = counts.get((item.given, item.likely), 0) + 1
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    return [(given, likely, text.count(count)) for (given, likely), count in ordered]


def _shown(picture: SuspectPicture) -> dict[str, object]:
    item = picture.suspect
    return {
        "url": picture.url,
        "width": picture.width,
        "height": picture.height,
        "path": item.path,
        "split": item.split,
        "given": item.given,
        "likely": item.likely,
        "quality": text.percent(item.quality),
        "likely_probability": text.percent(item.likely_probability),
    }

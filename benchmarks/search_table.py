"""From the rows of searches to their tables in RESULTS.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from results import Row, format_section

from tintype.evaluation.stats import paired_difference, wilson

OURS = "tintype"
"""How the keys of tintype's own contenders begin."""


def format_search(
    heading: str, rows: Sequence[Row], names: Mapping[str, tuple[str, bool]], machine: Mapping[str, str]
) -> str:
    """The Markdown of one day's searches on one machine.

    Args:
        heading: Of the section.
        rows: A row a search.
        names: A contender's key to its name and whether it starts from pretrained weights, in the order of the tables.
        machine: What the machine is.
    """
    lines = [format_section(heading, rows, (), dict(machine))]
    for data, minutes in dict.fromkeys((row.details["data"], row.details["minutes"]) for row in rows):
        same = [row for row in rows if (row.details["data"], row.details["minutes"]) == (data, minutes)]
        for pretrained in (False, True):
            keys = [key for key, (_, is_pretrained) in names.items() if is_pretrained == pretrained]
            start = "pretrained MobileNetV2 at hand" if pretrained else "from scratch"
            lines += _table(f"### Best classifier of {data} in {minutes:g} minutes, {start}", same, keys, names)
    return "\n".join(lines)


def _table(title: str, rows: Sequence[Row], keys: Sequence[str], names: Mapping[str, tuple[str, bool]]) -> list[str]:
    found = {key: [row for row in rows if row.contender == key] for key in keys}
    if not any(found.values()):
        return []
    lines = [
        title,
        "",
        "| contender | test accuracy, 95 % | each seed | tintype ahead, points | searched (s) | in all (s) | trials "
        "| parameters | peak RSS (MiB) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    ours = next((own for key, own in found.items() if key.startswith(OURS)), [])
    for key, own in found.items():
        if own:
            cells = [names[key][0], *_cells(own, [] if key.startswith(OURS) else ours)]
            lines.append(f"| {' | '.join(cells)} |")
    failures = [
        f"- {names[row.contender][0]}, seed {row.repeat}, failed: {row.details['failed']}"
        for own in found.values()
        for row in own
        if "failed" in row.details
    ]
    return [*lines, "", *failures, *([""] if failures else [])]


def _cells(rows: Sequence[Row], ours: Sequence[Row]) -> list[str]:
    ended = [row for row in rows if "failed" not in row.details]
    each = ", ".join(
        "failed" if "failed" in row.details else f"{100 * (row.measures['accuracy'] or 0):.1f}" for row in rows
    )
    if len(ended) < len(rows) or not ended:
        # A mean over the seeds that went well would hide the others.
        return ["failed", each, "", "", "", "", "", ""]
    right = _right(ended)
    interval = wilson(round(float(right.sum()) / len(right)), right.shape[1])  # seeds are no new images
    return [
        f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f}, n = {interval.n:,})",
        each,
        _ahead(ours, right),
        _median(ended, "seconds_searched"),
        f"{statistics.median(row.wall_seconds for row in ended):,.0f}",
        _median(ended, "trials"),
        _median(ended, "parameters"),
        f"{statistics.median(row.peak_rss_mib for row in ended):,.0f}",
    ]


def _ahead(ours: Sequence[Row], theirs: NDArray[np.bool_]) -> str:
    """The difference on the same images, where every search of tintype's ended."""
    if not ours or any("failed" in row.details for row in ours):
        return ""
    difference, p = paired_difference(_right(ours), theirs)
    value, low, high = (100 * part for part in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f}), p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def _right(rows: Sequence[Row]) -> NDArray[np.bool_]:
    """Whether each search got each test image right, shape (seeds, images)."""
    return np.array([[mark == "1" for mark in row.details["right"]] for row in rows])


def _median(rows: Sequence[Row], key: str) -> str:
    return f"{statistics.median(row.measures[key] or 0 for row in rows):,.0f}"

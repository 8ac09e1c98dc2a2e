"""From the outcomes of a study's runs to its table: ``study.json`` for programs, ``study.csv`` for spreadsheets.

``study.csv`` has a row for each point: its label, a column for each axis under the setting's label, then ``seeds``
(finished runs), ``failed``, ``images``, ``accuracy`` with ``_low``, ``_high`` (95 % interval for other images and other
seeds) and ``_minimum``, ``_maximum``, ``_deviation`` (over the seeds), ``loss`` with ``_low`` and ``_high``, the
parameters and costs of :class:`tintype.report.studyfile.PointRow`, and ``difference`` to the reference with ``_low``,
``_high``, ``p``, ``adjusted_p`` and ``verdict``. What is not known is empty.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tintype.errors import DataError
from tintype.evaluation.compare import (
    Comparison,
    accuracy_over_seeds,
    compare_accuracy,
    loss_over_seeds,
    require_same_images,
)
from tintype.report.studyfile import STUDY_FORMAT, AxisRow, Difference, PointRow, RunRow, StudyTable
from tintype.rundir import write_text
from tintype.studies.outcome import Outcome
from tintype.studies.plan import Point, Study

FEW_SEEDS = 3
"""With fewer seeds than this, their spread is hardly known."""

_COSTS = ("seconds_per_epoch", "seconds_per_step", "images_per_second", "training_seconds", "peak_memory_mb")


def make_table(study: Study, runs: Sequence[RunRow], outcomes: Mapping[str, Outcome]) -> StudyTable:
    """Put the table together from what has finished so far.

    Args:
        study: What was asked for.
        runs: How every run stands.
        outcomes: Name of each finished run to what it contributed.
    """
    points = study.points()
    by_point = {point.label: _outcomes_of(point, runs, outcomes) for point in points}
    rows = [_point_row(point, runs, by_point[point.label]) for point in points]
    reference = points[0].label
    comparisons, remarks = _compare(reference, {label: found for label, found in by_point.items() if found})
    rows = [replace(row, difference=comparisons.get(row.label)) for row in rows]
    measured = [row for row in rows if row.accuracy is not None]
    best = max(measured, key=lambda row: row.accuracy.value if row.accuracy else 0.0).label if measured else ""
    first = next(iter(outcomes.values()), None)
    return StudyTable(
        format=STUDY_FORMAT,
        name=study.name,
        kind=study.kind,
        quick=study.quick,
        split=first.split if first else "",
        images=len(first.answers.images) if first else 0,
        reference=reference,
        best=best,
        axes=tuple(AxisRow(axis.setting, axis.label, tuple(name for name, _ in axis.values)) for axis in study.axes),
        seeds=study.seeds,
        points=tuple(rows),
        runs=tuple(runs),
        remarks=(*remarks, *_remarks(study, rows, best, list(outcomes.values()))),
    )


def write_study_csv(path: Path, table: StudyTable) -> None:
    """Write ``study.csv`` atomically."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    costs = ("total_parameters", "trainable_parameters", "epochs", *_COSTS)
    writer.writerow(
        [
            "point", *(axis.label for axis in table.axes), "seeds", "failed", "images",
            "accuracy", "accuracy_low", "accuracy_high", "accuracy_minimum", "accuracy_maximum", "accuracy_deviation",
            "loss", "loss_low", "loss_high", *costs,
            "difference", "difference_low", "difference_high", "p", "adjusted_p", "verdict",
        ]
    )  # fmt: skip
    for row in table.points:
        accuracy, loss, difference = row.accuracy, row.loss, row.difference
        seeds = row.accuracy_by_seed
        cells: list[object] = [row.label, *(row.names[axis.setting] for axis in table.axes), len(row.seeds), row.failed]
        cells += [accuracy.n, accuracy.value, accuracy.low, accuracy.high] if accuracy else [""] * 4
        cells += [min(seeds), max(seeds), row.accuracy_deviation] if seeds else [""] * 3
        cells += [loss.value, loss.low, loss.high] if loss else [""] * 3
        cells += [getattr(row, name) for name in costs]
        if difference:
            cells += [difference.value, difference.low, difference.high]
            cells += [difference.p, difference.adjusted_p, difference.verdict]
        else:
            cells += [""] * 6
        writer.writerow(["" if cell is None else f"{cell:.7g}" if isinstance(cell, float) else cell for cell in cells])
    write_text(path, buffer.getvalue())


def _outcomes_of(point: Point, runs: Sequence[RunRow], outcomes: Mapping[str, Outcome]) -> dict[int, Outcome]:
    """Seed to outcome of a point's finished runs."""
    return {run.seed: outcomes[run.name] for run in runs if run.point == point.label and run.name in outcomes}


def _point_row(point: Point, runs: Sequence[RunRow], found: Mapping[int, Outcome]) -> PointRow:
    failed = sum(run.point == point.label and run.state in ("failed", "diverged") for run in runs)
    row = PointRow(point.label, point.names, point.settings, tuple(found), failed)
    outcomes = list(found.values())
    if not outcomes:
        return row
    answers = [item.answers for item in outcomes]
    accuracies = tuple(item.accuracy for item in outcomes)
    costs: dict[str, Any] = {name: _median([getattr(item, name) for item in outcomes]) for name in ("epochs", *_COSTS)}
    return replace(
        row,
        accuracy=accuracy_over_seeds(answers),
        accuracy_by_seed=accuracies,
        accuracy_deviation=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        loss=loss_over_seeds(answers),
        loss_by_seed=tuple(item.loss for item in outcomes),
        total_parameters=outcomes[0].total_parameters,
        trainable_parameters=outcomes[0].trainable_parameters,
        **costs,
    )


def _compare(
    reference: str, found: Mapping[str, Mapping[int, Outcome]]
) -> tuple[dict[str, Difference], tuple[str, ...]]:
    """Differences to the reference, and a remark on each point that cannot be compared with it."""
    if reference not in found:
        missing = f"No run of the reference, {reference}, has finished, so nothing is compared with it."
        return {}, (missing,) if found else ()
    answers = {label: [item.answers for item in outcomes.values()] for label, outcomes in found.items()}
    remarks = []
    for label in list(answers):
        try:
            require_same_images({reference: answers[reference][0], label: answers[label][0]})
        except DataError as error:
            remarks.append(str(error))
            del answers[label]
    return {item.name: _difference(item) for item in compare_accuracy(reference, answers)}, tuple(remarks)


def _difference(item: Comparison) -> Difference:
    shown = item.difference
    return Difference(
        shown.value, shown.low, shown.high, shown.n, item.p, item.adjusted_p, item.verdict, item.covers_seeds
    )


def _remarks(study: Study, rows: Sequence[PointRow], best: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """What keeps the table from being taken for more than it is."""
    if not outcomes:
        return ()
    found = []
    if study.quick:
        found.append("This is the quick form of the study, made to see that all works; do not quote its figures.")
    if len(study.seeds) == 1:
        found.append(
            "Each point was trained once. How much accuracy changes from seed to seed is not known, so intervals and "
            "differences hold for these networks, not for their settings. Three seeds or more can say that."
        )
    elif len(study.seeds) < FEW_SEEDS:
        found.append(
            "Two seeds hardly tell how much accuracy changes from seed to seed: only large differences are told apart."
        )
    if len(rows) > 2 and best:
        found.append(
            f"The best of {len(rows)} was chosen on the images that it is quoted for, so its accuracy is a little too "
            "high; a new test set would show how much."
        )
    if len({item.machine for item in outcomes}) > 1:
        found.append("The runs were made on different machines, so their times cannot be compared.")
    if len({item.made_by for item in outcomes}) > 1:
        found.append("The runs were made by different versions of tintype; what changed between them may show here.")
    return tuple(found)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None

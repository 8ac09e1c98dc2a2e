"""From the outcomes of a study's runs to its table: ``study.json`` for programs, ``study.csv`` for spreadsheets.

``study.csv`` has a row for each point: its label, a column for each axis under the setting's label, then ``seeds``
(finished runs), ``failed``, ``images``, ``accuracy`` with ``_low``, ``_high`` (95 % interval for other images and other
seeds) and ``_minimum``, ``_maximum``, ``_deviation`` (over the seeds), ``loss`` with ``_low`` and ``_high``, the
parameters and costs of :class:`tintype.report.studyfile.PointRow`, ``difference`` to the reference with ``_low``,
``_high``, ``p``, ``adjusted_p`` and ``verdict``, then ``changes``, ``groups`` (numbers, from 1, of the groups of points
that cannot be told apart from each other; separated by blanks), ``train_images``, ``train_accuracy`` with ``_low`` and
``_high``, ``device`` and ``speed_up``. What is not known is empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tintype.errors import DataError
from tintype.evaluation.compare import SIGNIFICANT, Comparison, compare_accuracy, require_same_images
from tintype.evaluation.groups import indistinguishable_groups
from tintype.evaluation.power_law import fit_learning_curve
from tintype.records import to_plain
from tintype.report.studyfile import STUDY_FORMAT, AxisRow, Difference, RunRow, StudyTable
from tintype.rundir import write_text
from tintype.studies.outcome import Outcome
from tintype.studies.plan import Point, Study
from tintype.studies.points import COSTS, point_row, with_speed_up
from tintype.studies.remarks import remarks_on

LEAST_SIZES = 4
"""With fewer sizes of the data than this no learning curve is fitted: its law alone has three unknowns."""


def make_table(
    study: Study,
    runs: Sequence[RunRow],
    outcomes: Mapping[str, Outcome],
    *,
    range_test: dict[str, Any] | None = None,
    with_groups: bool = True,
) -> StudyTable:
    """Put the table together from what has finished so far.

    Args:
        study: What was asked for.
        runs: How every run stands.
        outcomes: Name of each finished run to what it contributed.
        range_test: The learning-rate range test, where the study began with one.
        with_groups: Compare every pair of points too, which takes a while where there are many.
    """
    points = study.points()
    by_point = {point.label: _outcomes_of(point, runs, outcomes) for point in points}
    rows = [point_row(point, study.changes_of(point), _failed(point, runs), by_point[point.label]) for point in points]
    reference = study.reference.label
    measured_points = {label: found for label, found in by_point.items() if found}
    comparisons, remarks = _compare(reference, measured_points)
    rows = [replace(row, difference=comparisons.get(row.label)) for row in rows]
    if study.kind == "devices":
        rows = [with_speed_up(row, next(item for item in rows if item.label == reference)) for row in rows]
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
        remarks=(*remarks, *remarks_on(study, rows, best, runs, outcomes)),
        groups=_groups(measured_points) if with_groups and study.kind != "data size" else (),
        range_test=range_test,
    )


def with_learning_curve(table: StudyTable) -> StudyTable:
    """The table of a study of the data's size with the law that its errors follow, where enough sizes have finished.

    Only where the size alone varies: two networks have two curves.
    """
    sizes = {row.train_images: row for row in table.finished if row.train_images}
    if table.kind != "data size" or len(table.axes) > 1 or len(sizes) < LEAST_SIZES:
        return table
    ordered = sorted(sizes)
    errors = [[1 - accuracy for accuracy in sizes[size].accuracy_by_seed] for size in ordered]
    return replace(table, law=to_plain(fit_learning_curve(ordered, errors, table.images)))


def write_study_csv(path: Path, table: StudyTable) -> None:
    """Write ``study.csv`` atomically."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    costs = ("total_parameters", "trainable_parameters", "epochs", *COSTS)
    writer.writerow(
        [
            "point", *(axis.label for axis in table.axes), "seeds", "failed", "images",
            "accuracy", "accuracy_low", "accuracy_high", "accuracy_minimum", "accuracy_maximum", "accuracy_deviation",
            "loss", "loss_low", "loss_high", *costs,
            "difference", "difference_low", "difference_high", "p", "adjusted_p", "verdict",
            "changes", "groups", "train_images", "train_accuracy", "train_accuracy_low", "train_accuracy_high",
            "device", "speed_up",
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
        groups = [str(number) for number, group in enumerate(table.groups, 1) if row.label in group]
        training = row.train_accuracy
        cells += [row.changes, " ".join(groups), row.train_images]
        cells += [training.value, training.low, training.high] if training else [""] * 3
        cells += [row.device, row.speed_up]
        writer.writerow(["" if cell is None else f"{cell:.7g}" if isinstance(cell, float) else cell for cell in cells])
    write_text(path, buffer.getvalue())


def _outcomes_of(point: Point, runs: Sequence[RunRow], outcomes: Mapping[str, Outcome]) -> dict[int, Outcome]:
    """Seed to outcome of a point's finished runs."""
    return {run.seed: outcomes[run.name] for run in runs if run.point == point.label and run.name in outcomes}


def _failed(point: Point, runs: Sequence[RunRow]) -> int:
    return sum(run.point == point.label and run.state in ("failed", "diverged") for run in runs)


def _groups(found: Mapping[str, Mapping[int, Outcome]]) -> tuple[tuple[str, ...], ...]:
    """Points that cannot be told apart, of those that were judged on the same images as most."""
    answers = {label: [item.answers for item in outcomes.values()] for label, outcomes in found.items()}
    images = [items[0].images for items in answers.values()]
    if not images:
        return ()
    usual = max(images, key=images.count)
    same = {
        label: np.stack([item.is_right for item in items])
        for label, items in answers.items()
        if items[0].images == usual
    }
    return indistinguishable_groups(same, SIGNIFICANT) if len(same) > 1 else ()


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

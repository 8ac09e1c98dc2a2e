"""Which figures a study's report shows: chosen by its kind, from its table and the histories of its runs."""

from __future__ import annotations

from pathlib import Path

from tintype.records import EpochRecord
from tintype.report.figures import Chart
from tintype.report.study_curves import (
    accuracy_against_images,
    accuracy_against_rate,
    error_against_images,
    range_test_chart,
)
from tintype.report.study_dots import grouped_points
from tintype.report.study_figures import (
    MOST_SERIES,
    Measured,
    accuracy_against,
    accuracy_against_cost,
    learning_curves,
)
from tintype.report.study_rows import best_and_reference
from tintype.report.studyfile import PointRow, RunRow, StudyTable
from tintype.rundir import RunDir

DEPTH = "model.depth"
_RATE = "fit.learning_rate"
_UNORDERED = ("models", "ablation", "devices")


def law_charts(table: StudyTable) -> list[Chart]:
    """Accuracy and error against the number of training images; none where that is not what varies."""
    if table.kind != "data size":
        return []
    series = _series(table, _size_axis(table))
    if len(table.finished) < 2 or any(point.images is None for points in series.values() for point in points):
        return []
    law = table.law if len(series) == 1 else None
    return [accuracy_against_images(series, law), error_against_images(series, law)]


def study_charts(table: StudyTable, folder: Path) -> list[Chart]:
    """The other figures of a study: what was reached, what it cost, how it was learnt."""
    series = _series(table, along := _axis_to_draw_along(table))
    charts: list[Chart] = []
    if table.range_test is not None and table.range_test["rates"]:
        charts.append(range_test_chart(table.range_test))
    if not series:
        return charts
    several = len(table.finished) > 1
    if along is not None and several:
        axis = next(item for item in table.axes if item.setting == along)
        if along == _RATE and all(_is_number(name) and float(name) > 0 for name in axis.values):
            charts.append(accuracy_against_rate(series, table.range_test))
        else:
            charts.append(
                accuracy_against(
                    "trained layers of the backbone" if along == DEPTH else axis.label, axis.values, series
                )
            )
    if len(table.finished) > 2 and along is None and table.groups:
        charts.append(
            grouped_points([item for points in series.values() for item in points], table.groups, table.reference)
        )
    if several and (cost := accuracy_against_cost(series)):
        charts.append(cost)
    shown = best_and_reference(table, MOST_SERIES)
    histories = {row.label: [_history(folder, run) for run in _finished_runs(table, row)] for row in shown}
    if curves := learning_curves(histories, len(table.finished) - len(shown)):
        charts.append(curves)
    return charts


def _axis_to_draw_along(table: StudyTable) -> str | None:
    """The depth, the learning rate, or in a grid the first axis of at least three numbers."""
    if table.kind == "depth":
        return DEPTH
    if table.kind in _UNORDERED or table.kind == "data size":
        return None
    numeric = [axis.setting for axis in table.axes if len(axis.values) > 2 and all(map(_is_number, axis.values))]
    return _RATE if _RATE in numeric else next(iter(numeric), None)


def _size_axis(table: StudyTable) -> str | None:
    return next((axis.setting for axis in table.axes if axis.setting in ("data.train_images", "data.fraction")), None)


def _others(row: PointRow, along: str | None) -> str:
    """What a point has on the other axes."""
    return ", ".join(name for setting, name in row.names.items() if along is not None and setting != along)


def _series(table: StudyTable, along: str | None) -> dict[str, list[Measured]]:
    """The points by what they have on the other axes; all in one where there is no axis to draw along."""
    found: dict[str, list[Measured]] = {}
    for row in table.finished:
        assert row.accuracy is not None
        place = row.names[along] if along is not None else ", ".join(row.names.values())
        item = Measured(
            row.label, place, row.accuracy, row.accuracy_by_seed, row.training_seconds,
            row.train_images, row.train_accuracy, row.train_accuracy_by_seed,
        )  # fmt: skip
        found.setdefault(_others(row, along), []).append(item)
    return found


def _history(folder: Path, run: RunRow) -> list[EpochRecord]:
    run_dir = RunDir(folder / "runs" / run.name)
    return run_dir.read_history() if (run_dir / "history.jsonl").is_file() else []


def _finished_runs(table: StudyTable, row: PointRow) -> list[RunRow]:
    return [run for run in table.runs if run.point == row.label and run.state == "finished"]


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True

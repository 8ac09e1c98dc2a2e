"""The tables of a study's report: a row for each point, its costs, and differences in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from tintype.records import Interval
from tintype.report import text
from tintype.report.results import Cell, scale_floor
from tintype.report.study_figures import seed_strip
from tintype.report.studyfile import Difference, PointRow, RunRow, RunState, StudyTable

_UNFINISHED: dict[RunState, str] = {
    "diverged": "diverged",
    "failed": "failed",
    "interrupted": "interrupted",
    "waiting": "not made yet",
}


@dataclass(frozen=True)
class PointView:
    """A row of the table of results.

    Attributes:
        names: The value on each axis.
        note: ``reference``, ``best`` or nothing.
        changes: What differs from the reference, in words.
        accuracy: With its interval and drawing.
        spread: Least and greatest accuracy over the seeds.
        training: Accuracy on training images, with its interval.
        loss: With its interval.
        difference: To the reference, with its interval.
        verdict: Whether it can be told from chance, with the p-value.
        sure: Whether it can.
        groups: Letters of the groups that it belongs to.
        parameters: Of the network.
        seconds: Of training.
        runs: Words and relative address of the report of each finished run.
        missing: What is not there: runs that failed, or that have not been made yet.
    """

    names: tuple[str, ...]
    note: str
    changes: str
    accuracy: Cell
    spread: str
    training: Cell
    loss: Cell
    difference: Cell
    verdict: str
    sure: bool
    groups: str
    parameters: str
    seconds: str
    runs: tuple[tuple[str, str], ...]
    missing: str


@dataclass(frozen=True)
class CostTable:
    """What each point costs: the words above the columns, and for each point its label and the figures as text."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def point_views(table: StudyTable) -> list[PointView]:
    """A row for each point, in the table's order."""
    floor = accuracy_floor(table)
    letters = group_letters(table)
    return [_point_view(row, table, floor, letters.get(row.label, "")) for row in table.points]


def group_letters(table: StudyTable) -> dict[str, str]:
    """Label of a point to the letters of its groups: points that share a letter cannot be told apart."""
    found: dict[str, str] = {}
    for number, group in enumerate(table.groups):
        for label in group:
            found[label] = found.get(label, "") + _letter(number)
    return found


def cost_table(table: StudyTable) -> CostTable | None:
    """Parameters, times and memory of the finished points; None before the first has finished.

    A study of devices begins with what it is about: the device, and how many times as fast as the reference it is.
    """
    if not table.finished:
        return None
    columns = _COSTS
    if table.kind == "devices":
        columns = (("Device", lambda row: row.device or text.ABSENT), ("Speed-up", _speed_up), *columns)
    return CostTable(
        tuple(words for words, _ in columns),
        tuple((row.label, tuple(shown(row) for _, shown in columns)) for row in table.finished),
    )


def difference_words(item: Difference, reference: str) -> str:
    """A comparison as a sentence without its end: what differs, by how much, and how surely."""
    p = p_value(item.adjusted_p)
    if item.verdict == "cannot be told apart":
        words = f"cannot be told apart from {reference}: {text.points(item.value)}"
        return f"{words} (95{text.NBSP}% interval {points_range(item)}, {p})"
    way = "above" if item.verdict == "better" else "below"
    least, most = (_without_unit(text.points(end, sign=False)) for end in sorted((item.low, item.high), key=abs))
    words = f"{text.points(item.value, sign=False)} {way} {reference}"
    return f"{words} (95{text.NBSP}% interval {least} to {most}, {p})"


def p_value(p: float) -> str:
    """``p = 0.013``, ``p < 0.001``; never rounded across 0.05."""
    if p < 0.001:
        return f"p{text.NBSP}<{text.NBSP}0.001"
    shown = f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"
    if (float(shown) >= 0.05) != (p >= 0.05):
        shown = f"{p:.5f}"
    return f"p{text.NBSP}={text.NBSP}{shown}"


def points_range(item: Difference) -> str:
    """The interval of a difference: ``−0.4 to +1.2``, in points."""
    return f"{_without_unit(text.points(item.low))} to {_without_unit(text.points(item.high))}"


def accuracy_floor(table: StudyTable) -> float:
    """Where the lines begin on which accuracies are drawn."""
    return scale_floor([min(row.accuracy.low, *row.accuracy_by_seed) for row in table.finished if row.accuracy])


def best_and_reference(table: StudyTable, most: int) -> list[PointRow]:
    """The reference and the most accurate points, in the table's order; all where there are no more than ``most``."""
    ranked = sorted(table.finished, key=lambda row: (row.label != table.reference, -value_of(row.accuracy)))
    kept = {row.label for row in ranked[:most]}
    return [row for row in table.finished if row.label in kept]


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names with commas, the rest counted."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def seed_range(row: PointRow) -> str:
    """Least and greatest accuracy over the seeds of a finished point: ``97.1 to 97.9 %``."""
    assert row.accuracy is not None
    n, (low, high) = row.accuracy.n, (min(row.accuracy_by_seed), max(row.accuracy_by_seed))
    return f"{text.percent(low, n, unit=low == high)} to {text.percent(high, n)}"


def value_of(interval: Interval | None) -> float:
    """Its value; 0 for none."""
    return interval.value if interval is not None else 0.0


def _point_view(row: PointRow, table: StudyTable, floor: float, letters: str) -> PointView:
    runs = [run for run in table.runs if run.point == row.label]
    accuracy, loss = row.accuracy, row.loss
    cell, spread = Cell(text.ABSENT), text.ABSENT
    if accuracy is not None:
        cell = _share_cell(accuracy, row.accuracy_by_seed, floor)
        if len(row.accuracy_by_seed) > 1:
            spread = seed_range(row)
    difference, verdict, sure = Cell(text.ABSENT), "", False
    if row.difference is not None:
        difference = Cell(text.points(row.difference.value), points_range(row.difference))
        verdict = f"{row.difference.verdict}, {p_value(row.difference.adjusted_p)}"
        sure = row.difference.verdict != "cannot be told apart"
    note = "reference" if row.label == table.reference else ""
    if row.label == table.best and len(table.finished) > 1:
        note = f"{note}, best" if note else "best"
    finished = [run for run in runs if run.state == "finished"]
    training = row.train_accuracy
    return PointView(
        names=tuple(row.names[axis.setting] for axis in table.axes),
        note=note,
        changes=row.changes,
        accuracy=cell,
        spread=spread,
        training=Cell(text.percent(training.value, training.n), text.interval_range("accuracy", training))
        if training
        else Cell(text.ABSENT),
        loss=Cell(text.number(loss.value), text.interval_range("loss", loss)) if loss else Cell(text.ABSENT),
        difference=difference,
        verdict=verdict,
        sure=sure,
        groups=letters,
        parameters=_count(row.total_parameters),
        seconds=_seconds(row.training_seconds),
        runs=tuple((str(run.seed), f"runs/{quote(run.name)}/report.html") for run in finished),
        missing=_missing(runs),
    )


def _share_cell(accuracy: Interval, by_seed: Sequence[float], floor: float) -> Cell:
    drawing = seed_strip(accuracy, by_seed, floor, "small")
    value, interval = text.percent(accuracy.value, accuracy.n), text.interval_range("accuracy", accuracy)
    return Cell(value, interval, text.count(accuracy.n), drawing)


def _missing(runs: Sequence[RunRow]) -> str:
    states = Counter(run.state for run in runs)
    return ", ".join(f"{states[state]} {words}" for state, words in _UNFINISHED.items() if states[state])


def _letter(number: int) -> str:
    """The letters from a to z, then a2 to z2, and so on."""
    again, place = divmod(number, 26)
    return chr(ord("a") + place) + (str(again + 1) if again else "")


def _step(row: PointRow) -> str:
    step = row.seconds_per_step
    return f"{step * 1000:,.1f}{text.NBSP}ms" if step is not None else text.ABSENT


def _speed_up(row: PointRow) -> str:
    return f"{row.speed_up:.2f}{text.NBSP}×" if row.speed_up is not None else text.ABSENT


def _count(number: float | None) -> str:
    return text.count(round(number)) if number is not None else text.ABSENT


def _seconds(value: float | None) -> str:
    if value is None:
        return text.ABSENT
    return f"{value:.2f}{text.NBSP}s" if value < 9.95 else text.duration(value)


def _without_unit(words: str) -> str:
    return words.removesuffix(f"{text.NBSP}points")


_COSTS: tuple[tuple[str, Callable[[PointRow], str]], ...] = (
    ("Parameters", lambda row: _count(row.total_parameters)),
    ("of them train", lambda row: _count(row.trainable_parameters)),
    ("Epochs", lambda row: f"{row.epochs:g}" if row.epochs else text.ABSENT),
    ("An epoch", lambda row: _seconds(row.seconds_per_epoch)),
    ("A step", _step),
    ("Images a second", lambda row: _count(row.images_per_second)),
    ("Training", lambda row: _seconds(row.training_seconds)),
    ("Peak memory", lambda row: text.megabytes(row.peak_memory_mb) if row.peak_memory_mb is not None else text.ABSENT),
)

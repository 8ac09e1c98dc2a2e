"""The leaderboard of a search: candidates, the best first, with what differs between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tintype.records import Interval
from tintype.report import text
from tintype.report.figures import wilson
from tintype.report.results import Cell, scale_floor
from tintype.report.study_figures import seed_strip
from tintype.report.tunefile import TrialRow, TuneTable

_FIRST = 12
_MOST_ROWS = 100
_MOST_LAYERS = 9  # layers that are named in a row
_QUIET_LAYERS = ("bn", "relu", "pool", "avgpool", "dropout", "gelu", "silu", "elu", "standardize")

BASELINES = {"default": "the default of tintype train", "logistic": "a logistic head"}
"""Role of a baseline to its words."""


@dataclass(frozen=True)
class BoardRow:
    """A candidate.

    Attributes:
        place: From 1; empty for one that was stopped early.
        number: Of its trial.
        note: ``chosen``, ``repeated``, what a baseline is, or why it has no place.
        style: ``chosen``, ``baseline`` or nothing.
        accuracy: On the validation images; the mean over its seeds.
        seconds: Of all its trainings.
        epochs: Passes over the training images.
        image_size: Side in pixels.
        parameters: Of the network.
        settings: Name and value of what it was varied in.
        layers: The whole text of its layers where those were varied, else empty.
    """

    place: str
    number: str
    note: str
    style: str
    accuracy: Cell
    seconds: str
    epochs: str
    image_size: str
    parameters: str
    settings: tuple[tuple[str, str], ...]
    layers: str


@dataclass(frozen=True)
class Board:
    """The leaderboard.

    Attributes:
        first: Rows that are always shown: the best, and the baselines.
        rest: Rows that are folded away.
        left_out: How many more there are in tune.json.
        scale: The range of the drawings in words.
        has_seeds: Whether a candidate was trained with several seeds.
        has_sizes: Whether the candidates have images of several sizes.
    """

    first: tuple[BoardRow, ...]
    rest: tuple[BoardRow, ...]
    left_out: int
    scale: str
    has_seeds: bool
    has_sizes: bool


@dataclass(frozen=True)
class Standing:
    """A candidate with all its trainings.

    Attributes:
        trial: Its first training.
        accuracies: One for each seed.
        accuracy: Their mean, with the interval of one such figure: more seeds are not more images.
        seconds: Of all its trainings.
    """

    trial: TrialRow
    accuracies: tuple[float, ...]
    accuracy: Interval
    seconds: float


def standings(table: TuneTable) -> list[Standing]:
    """The candidates that have an accuracy: those with several seeds, other finished ones, then those stopped early.

    Within each kind the best is first.
    """
    found = []
    for trial in table.trials:
        if trial.role in ("search", "default", "logistic") and trial.accuracy is not None:
            repeats = table.repeats_of(trial.number)
            accuracies = tuple(row.accuracy.value for row in (trial, *repeats) if row.accuracy)
            mean = sum(accuracies) / len(accuracies)
            low, high = wilson(mean, trial.accuracy.n) if repeats else (trial.accuracy.low, trial.accuracy.high)
            seconds = trial.seconds + sum(row.seconds for row in repeats)
            found.append(Standing(trial, accuracies, Interval(mean, low, high, trial.accuracy.n), seconds))
    return sorted(found, key=_rank)


def _rank(item: Standing) -> tuple[bool, int, bool, float]:
    """Accuracies after different stages cannot be compared, nor one seed's, which may be its luck, with a mean."""
    is_stopped = item.trial.state != "complete"
    return is_stopped, -item.trial.stage if is_stopped else 0, len(item.accuracies) < 2, -item.accuracy.value


def board(table: TuneTable) -> Board | None:
    """The leaderboard; None before a candidate has been trained."""
    found = standings(table)
    if not found:
        return None
    floor = scale_floor([min(item.accuracy.low, *item.accuracies) for item in found[:_FIRST]])
    varied = _varied(table)
    rows = [_row(item, place, table, varied, floor) for place, item in enumerate(found, start=1)]
    is_first = [place < _FIRST or bool(row.style) for place, row in enumerate(rows)]
    rest = [row for row, first in zip(rows, is_first, strict=True) if not first]
    return Board(
        tuple(row for row, first in zip(rows, is_first, strict=True) if first), tuple(rest[:_MOST_ROWS]),
        max(len(rest) - _MOST_ROWS, 0), f"{floor * 100:.0f} to 100{text.NBSP}%",
        any(len(item.accuracies) > 1 for item in found),
        len({row.image_size for row in rows}) > 1,
    )  # fmt: skip


def named_settings(settings: Mapping[str, Any], varied: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What a candidate has of what was varied: short names and values; the layers' text stands by itself."""
    return tuple((varied[name], setting_value(name, value)) for name, value in settings.items() if name in varied)


def setting_value(name: str, value: Any) -> str:
    """A setting's value as people write it; layers as the sequence of those that compute."""
    if isinstance(value, list | tuple):
        return ", ".join(setting_value(name, item) for item in value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return layer_sequence(value) if name == "model.layers" else str(value)


def layer_sequence(layers: str) -> str:
    """A text of layers in short: ``conv 32, conv 64, residual 128, gap``; equal ones in a row are counted."""
    lines = [line.split("#")[0].split() for line in layers.replace(";", "\n").splitlines()]
    names = [" ".join(words[:2]) for words in lines if words and words[0] not in _QUIET_LAYERS]
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    shown = [f"{name} ×{times}" if times > 1 else name for name, times in runs]
    more = len(shown) - _MOST_LAYERS
    return ", ".join(shown[:_MOST_LAYERS]) + (f" and {more} more" if more > 0 else "")


def short_names(settings: Sequence[str]) -> dict[str, str]:
    """Dotted name to the name for people: its last part, or all of it where two settings share that."""
    last = {name: name.split(".")[-1] for name in settings}
    often = Counter(last.values())
    return {
        name: (words if often[words] == 1 else name.replace(".", " ")).replace("_", " ") for name, words in last.items()
    }


def _varied(table: TuneTable) -> dict[str, str]:
    """Settings that have more than one value in the search, with their short names."""
    searched = [row.settings for row in table.trials if row.role == "search"]
    names = dict.fromkeys(name for settings in searched for name in settings)
    differ = [name for name in names if len({repr(settings[name]) for settings in searched if name in settings}) > 1]
    return short_names(differ or list(names))


def _row(item: Standing, place: int, table: TuneTable, varied: Mapping[str, str], floor: float) -> BoardRow:
    trial, accuracy = item.trial, item.accuracy
    note, style = [], ""
    if trial.number == table.winner:
        note, style = ["chosen"], "chosen"
    if trial.role in BASELINES:
        note, style = [*note, BASELINES[trial.role]], style or "baseline"
    elif trial.state != "complete":
        note.append(f"{'stopped after' if trial.state == 'pruned' else f'{trial.state},'} stage {trial.stage}")
    if len(item.accuracies) > 1:
        least, most = min(item.accuracies), max(item.accuracies)
        span = f"{text.percent(least, accuracy.n, unit=False)} to {text.percent(most, accuracy.n)}"
        note.append(f"{len(item.accuracies)} seeds: {span}")
    return BoardRow(
        place=str(place) if trial.state == "complete" else "",
        number=str(trial.number),
        note=", ".join(note),
        style=style,
        accuracy=Cell(
            text.percent(accuracy.value, accuracy.n), text.interval_range("accuracy", accuracy),
            text.count(accuracy.n), seed_strip(accuracy, item.accuracies, floor, "small"),
        ),
        seconds=text.duration(item.seconds),
        epochs=f"{trial.epochs:.3g}" if trial.epochs is not None else text.ABSENT,
        image_size=str(trial.image_size) if trial.image_size is not None else text.ABSENT,
        parameters=text.count(trial.parameters) if trial.parameters is not None else text.ABSENT,
        settings=named_settings(trial.settings, varied),
        layers=str(trial.settings.get("model.layers") or ""),
    )  # fmt: skip

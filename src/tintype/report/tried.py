"""What was tried before the head was chosen: penalties of a logistic regression, or a grid of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tintype.records import EpochRecord
from tintype.report import text
from tintype.report.figures import Chart, Frame, Line, draw_frame, draw_line
from tintype.report.reading import of_this_version
from tintype.report.study_figures import MOST_SERIES, learning_curves
from tintype.report.svg import element, join, linear_axis, log_axis, path

_MOST_ROWS = 40


@dataclass(frozen=True)
class Tried:
    """The section's content.

    Attributes:
        lead: What was tried, how it was chosen, and what came out.
        chart: It as a picture; None where there is nothing to draw.
        columns: Headings of the table.
        rows: Its cells, the best first.
        left_out: How many rows are not shown.
    """

    lead: str
    chart: Chart | None
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int


def tried_view(penalties: Mapping[str, Any], heads: Mapping[str, Any]) -> Tried | None:
    """The section on what was tried; None where nothing was.

    Args:
        penalties: Content of ``penalties.json``, or nothing.
        heads: Content of ``heads.json``, or nothing.

    Raises:
        RunError: A file is from another version.
    """
    with of_this_version("penalties.json" if penalties else "heads.json"):
        if penalties:
            return _penalties(penalties)
        return _heads(heads) if heads else None


def _penalties(content: Mapping[str, Any]) -> Tried:
    trials: Sequence[Mapping[str, Any]] = content["trials"]
    folds, chosen = content["folds"], content["chosen"]
    held_out = "held_out" if folds else "validation"
    how = f"in {folds}-fold cross-validation of the training images" if folds else "on the validation images"
    lead = (
        f"The output layer is a logistic regression on what the frozen layers say. Of {len(trials)} penalties the one "
        f"with the lowest loss {how} was taken: {chosen:.2g}."
    )
    words = "held out" if folds else "validation"
    rows = [
        (
            f"{trial['penalty']:.2g}",
            text.number(trial["train_loss"]),
            text.percent(trial["train_accuracy"]),
            text.number(trial[f"{held_out}_loss"]) if trial[f"{held_out}_loss"] is not None else "–",
            text.percent(trial[f"{held_out}_accuracy"]) if trial[f"{held_out}_accuracy"] is not None else "–",
        )
        for trial in sorted(trials, key=lambda trial: trial["penalty"] != chosen)
    ]
    columns = ("Penalty", "Training loss", "Accuracy", f"Loss, {words}", "Accuracy")
    return Tried(lead, _penalty_chart(trials, chosen, held_out, words), columns, tuple(rows), 0)


def _penalty_chart(trials: Sequence[Mapping[str, Any]], chosen: float, held_out: str, words: str) -> Chart:
    ordered = sorted(trials, key=lambda trial: trial["penalty"])
    xs = [trial["penalty"] for trial in ordered]
    lines = [Line("train", xs, [trial["train_loss"] for trial in ordered])]
    known = [trial for trial in ordered if trial[f"{held_out}_loss"] is not None]
    if known:
        lines.append(
            Line("validation", [trial["penalty"] for trial in known], [trial[f"{held_out}_loss"] for trial in known])
        )
    values = [y for line in lines for y in line.ys]
    frame = Frame(log_axis("penalty", xs), linear_axis("loss", values, floor=0.0))
    top, bottom = frame.y(frame.y_axis.high), frame.y(frame.y_axis.low)
    mark = element("path", d=path([frame.x(chosen)] * 2, [top, bottom]), class_="kept")
    svg = draw_frame(
        frame,
        join([mark, *(draw_line(frame, line) for line in lines)]),
        f"Loss against the penalty; {chosen:.2g} was taken.",
        x_title="penalty",
    )
    legend = (("train", "training"), ("validation", words)) if known else ()
    caption = "Too strong a penalty learns too little, too weak a one learns by heart. The dashed line was taken."
    return Chart("Loss against penalty", svg, caption, legend)


def _heads(content: Mapping[str, Any]) -> Tried:
    heads: Sequence[Mapping[str, Any]] = content["heads"]
    best = heads[content["best"]]["setting"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for head in heads:
        groups.setdefault(_name(head["setting"]), []).append(head)
    scored = sorted(groups.items(), key=lambda item: _mean_loss(item[1]))
    seeds = len(next(iter(groups.values())))
    lead = (
        f"{len(heads)} heads were trained together on what the frozen layers say: {len(groups)} settings"
        + (f", each with {seeds} seeds" if seeds > 1 else "")
        + f". The setting with the lowest mean validation loss was taken: {_name(best)}."
    )
    histories = {
        name: [[_record(row) for row in head["history"]] for head in group] for name, group in scored[:MOST_SERIES]
    }
    chart = learning_curves(histories, max(0, len(scored) - MOST_SERIES))
    columns = ("Head", "Validation loss", "Validation accuracy", "Over the seeds", "Best epoch", "Remark")
    rows = tuple(_head_row(name, group) for name, group in scored)
    return Tried(lead, chart, columns, rows[:_MOST_ROWS], max(0, len(rows) - _MOST_ROWS))


def _name(setting: Mapping[str, Any]) -> str:
    words = [f"learning rate {setting['learning_rate']:g}"]
    words += [
        f"{name.replace('_', ' ')} {setting[name]:g}" for name in ("weight_decay", "width", "dropout") if setting[name]
    ]
    return ", ".join(words)


def _mean_loss(group: Sequence[Mapping[str, Any]]) -> float:
    """Mean over the seeds of the loss at the best epoch; infinite where a seed failed."""
    if any(head["failed"] or not head["best_epoch"] for head in group):
        return float("inf")
    return sum(_loss(_best_row(head)) for head in group) / len(group)


def _loss(row: Mapping[str, Any]) -> float:
    loss = row["train_loss"] if row["validation_loss"] is None else row["validation_loss"]
    return float(loss)


def _best_row(head: Mapping[str, Any]) -> Mapping[str, Any]:
    row: Mapping[str, Any] = head["history"][head["best_epoch"] - 1]
    return row


def _head_row(name: str, group: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    failed = [head for head in group if head["failed"]]
    if failed:
        return name, "–", "–", "–", "–", text.printable(failed[0]["failed"])
    rows = [_best_row(head) for head in group]
    accuracies = [row["validation_accuracy"] for row in rows if row["validation_accuracy"] is not None]
    mean = text.percent(sum(accuracies) / len(accuracies)) if accuracies else "–"
    spread = f"{text.percent(min(accuracies), unit=False)} to {text.percent(max(accuracies))}" if accuracies else "–"
    epochs = sorted({head["best_epoch"] for head in group})
    shown = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    return name, text.number(_mean_loss(group)), mean, spread, shown, ""


def _record(row: Mapping[str, Any]) -> EpochRecord:
    return EpochRecord(**row, learning_rate=0.0, seconds=0.0, images_per_second=0.0)

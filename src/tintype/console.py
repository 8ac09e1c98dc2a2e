"""What people see on the terminal: progress with the time left, tables, findings. All of it goes to stderr.

Results for other programs go to stdout, and only there.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from tintype.records import DataSummary, EpochRecord, Evaluation, Finding, ModelSummary
from tintype.watch import Watch

if TYPE_CHECKING:
    from tintype.report.studyfile import PointRow, StudyTable  # reports take half a second to import
    from tintype.report.tunefile import TuneTable

SIGNS = {"critical": "[bold red]✗[/]", "warning": "[yellow]![/]", "info": "[blue]i[/]"}
SHOWN_TRIALS = 8
PLAIN_INTERVAL = 10.0
"""Seconds between two progress lines where there is no terminal."""

LEAST_RATE = 2.0
"""A second. What is slower is told by the time left: 0/s of a percentage says nothing, nor 1/s of seconds."""

error_console = Console(stderr=True, highlight=False)


class Display:
    """Shows progress bars on a terminal and plain lines elsewhere.

    Args:
        quiet: Show nothing (``--json`` keeps stderr for errors).

    Attributes:
        interrupted: Whether somebody has pressed Ctrl-C.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = error_console
        self._quiet = quiet
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self._console, transient=True, expand=True,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._began = 0.0, 0
        self._told = time.monotonic()
        self._doing = ""
        self._stop = False
        self.interrupted = False
        self._table_started = False

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Show what a verb does while it runs; Ctrl-C asks it to stop, a second one stops it at once."""
        shown = self._console.is_terminal and not self._quiet
        if shown:
            self._bars.start()
        try:
            yield Watch(self.on_progress, self.on_message, self.on_epoch, lambda: self._stop)
        finally:
            if shown:  # stopping what never started would print an empty line
                self._bars.stop()

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Turn the first Ctrl-C (or SIGTERM) into a request to stop after the step."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def request(number: int, _frame: FrameType | None) -> None:
            self.interrupted |= number == signal.SIGINT
            if self._stop or not self._in_training:
                raise KeyboardInterrupt
            self._stop = True
            self.on_message("stopping after this step; press Ctrl-C again to stop at once")

        for number in before:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def _in_training(self) -> bool:
        return self._doing.startswith("epoch ")

    def on_message(self, line: str) -> None:
        """Show one line."""
        if not self._quiet:
            self._console.print(escape(line), soft_wrap=True)

    def on_progress(self, what: str, done: int, total: int) -> None:
        """Move the bar of what is being done; without a terminal, a line now and then."""
        self._doing = what  # also where nothing is shown: a stop depends on it
        if self._quiet or total == 0:
            return
        now = time.monotonic()
        if what not in self._tasks:
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._tasks = {what: self._bars.add_task(escape(what), total=total, completed=done, rate="")}
            self._began = now, done  # what is gone on with does not begin at nothing
            self._told = now
        elapsed, here = now - self._began[0], done - self._began[1]
        is_telling = elapsed > 0.5 and here >= LEAST_RATE * elapsed
        rate = f"{here / elapsed:,.0f}/s" if is_telling else ""
        self._bars.update(self._tasks[what], completed=done, total=total, rate=rate)
        if not self._console.is_terminal and now - self._told > PLAIN_INTERVAL and done < total:
            self._told = now
            left = f"{_duration(elapsed / here * (total - done))} left" if here > 0 else ""
            parts = [part for part in (f"{escape(what)}: {done:,} of {total:,}", rate, left) if part]
            self._console.print(", ".join(parts), soft_wrap=True)

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        """Show an epoch's figures as one aligned line."""
        if self._quiet:
            return
        if not self._table_started:
            self._table_started = True
            self._console.print(
                f"{'epoch':>9}  {'train loss':>10} {'accuracy':>8}  {'val. loss':>9} {'accuracy':>8}"
                f"  {'images/s':>8}  {'seconds':>7}"
            )
        validation = f"{'':>9} {'':>8}"
        if record.validation_loss is not None and record.validation_accuracy is not None:
            validation = f"{record.validation_loss:>9.4f} {record.validation_accuracy:>8.4f}"
        self._console.print(
            f"{record.epoch:>4}/{epochs:<4}  {record.train_loss:>10.4f} {record.train_accuracy:>8.4f}  {validation}"
            f"  {record.images_per_second:>8,.0f}  {record.seconds:>7.1f}"
        )


def show_findings(findings: Sequence[Finding], console: Console = error_console) -> None:
    """Print findings, each with evidence and remedy."""
    for finding in findings:
        console.print(f"{SIGNS[finding.severity]} {escape(finding.title)}", soft_wrap=True)
        for line in finding.evidence[:5]:
            console.print(f"    {escape(line)}", style="dim", soft_wrap=True)
        if len(finding.evidence) > 5:
            console.print(f"    ... and {len(finding.evidence) - 5} more", style="dim")
        if finding.remedy:
            console.print(f"    → {escape(finding.remedy)}", soft_wrap=True)


def show_check(summary: DataSummary, findings: tuple[Finding, ...]) -> None:
    """Print counts per class and split, then the findings."""
    console = stdout_console()
    splits = list(summary.counts)
    rows = [
        [name, *(f"{summary.counts[split][number]:,}" for split in splits)]
        for number, name in enumerate(summary.classes)
    ]
    rows.append(["all", *(f"{sum(summary.counts[split]):,}" for split in splits)])
    print_table([("class", "left"), *((split, "right") for split in splits)], rows, console)
    sizes = ", ".join(f"{size} ({count:,})" for size, count in list(summary.sizes.items())[:4])
    modes = ", ".join(f"{mode} ({count:,})" for mode, count in summary.modes.items())
    console.print(f"sizes: {sizes}\nmodes: {modes}", soft_wrap=True)
    for path, reason in summary.bad.items():
        console.print(f"unreadable: {escape(path)}: {escape(reason)}", soft_wrap=True)
    show_findings(findings, console)
    if not findings:
        console.print("no findings")


def show_summary(summary: ModelSummary) -> None:
    """Print a layer table and its totals."""
    console = stdout_console()
    columns = [("layer", "left"), ("kind", "left"), ("output shape", "left"), ("parameters", "right")]
    rows = [
        [row.name, row.kind, " x ".join(map(str, row.output_shape)), f"{row.parameters:,}"] for row in summary.layers
    ]
    print_table(columns, rows, console)
    console.print(
        f"total {summary.total_parameters:,}   trainable {summary.trainable_parameters:,}"
        f"   non-trainable {summary.non_trainable_parameters:,}"
    )


def show_study(table: StudyTable) -> None:
    """Print a study's table: accuracy with its interval, the difference to the reference, and the cost."""
    from tintype.report.studyfile import failures

    console = stdout_console()
    columns = [
        ("", "left"), (f"{table.split} accuracy", "right"), ("95 % interval", "right"), ("loss", "right"),
        (f"against {table.reference}", "left"), ("parameters", "right"), ("s/epoch", "right"), ("ms/step", "right"),
        ("training", "right"),
    ]  # fmt: skip
    print_table(columns, [_study_row(point) for point in table.points], console)
    for line in failures(table):
        console.print(escape(line), soft_wrap=True)
    for remark in table.remarks:
        console.print(escape(remark), style="dim", soft_wrap=True)


def show_tuning(table: TuneTable) -> None:
    """The best candidates of a search, the chosen one marked."""
    roles = ("search", "default", "logistic")
    done = [row for row in table.trials if row.role in roles and row.state == "complete" and row.accuracy is not None]
    shown = sorted(done, key=lambda row: -row.accuracy.value if row.accuracy else 0.0)[:SHOWN_TRIALS]
    rows = [
        [
            f"{row.number}{' *' if row.number == table.winner else ''}",
            row.role,
            str(row.accuracy),
            f"{row.seconds:.1f} s",
            f"{row.parameters or 0:,}",
        ]
        for row in shown
    ]
    names = ("trial", "role", "validation accuracy", "time", "parameters")
    columns = [(name, "right" if name in ("time", "parameters") else "left") for name in names]
    print_table(columns, rows, error_console)


def _study_row(point: PointRow) -> list[str]:
    if point.accuracy is None:
        return [point.label, "–", "", "", "no run finished", "", "", "", ""]
    accuracy, difference = point.accuracy, point.difference
    beside = ""
    if difference is not None:
        beside = f"{difference.value:+.2%} ({difference.low:+.2%} to {difference.high:+.2%}), {difference.verdict}"
    return [
        point.label,
        f"{accuracy.value:.2%}",
        f"{accuracy.low:.2%} to {accuracy.high:.2%}",
        "" if point.loss is None else f"{point.loss.value:.4f}",
        beside,
        "" if point.total_parameters is None else f"{point.total_parameters:,}",
        "" if point.seconds_per_epoch is None else f"{point.seconds_per_epoch:.1f}",
        "" if point.seconds_per_step is None else f"{1000 * point.seconds_per_step:,.1f}",
        "" if point.training_seconds is None else f"{point.training_seconds:,.1f} s",
    ]


def print_table(columns: list[tuple[str, str]], rows: list[list[str]], console: Console) -> None:
    """Print an aligned table.

    Args:
        columns: (heading, ``left`` or ``right``).
        rows: Cells as text.
        console: Where to.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, side in columns:
        table.add_column(escape(heading), justify="right" if side == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def stdout_console() -> Console:
    """The console for results; as wide as needed where stdout is no terminal."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 200)


def headline(evaluation: Evaluation) -> str:
    """The result as a sentence that can be quoted."""
    accuracy = evaluation.accuracy
    return (
        f"{accuracy.value:.2%} of {accuracy.n:,} {evaluation.split} images right "
        f"(95 % interval {accuracy.low:.2%} to {accuracy.high:.2%})"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

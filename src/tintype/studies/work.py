"""The work of a study: every run once, resumable at any moment, with the table up to date after each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tintype.config import RunConfig
from tintype.errors import NonFiniteError, RunError, RunInterrupted, TintypeError
from tintype.records import to_plain
from tintype.report import text
from tintype.report.study import write_study_report
from tintype.report.studyfile import STUDY_FILE, RunRow, RunState, StudyTable, read_study_table, write_study_table
from tintype.rundir import RunDir, only_one_process, write_text
from tintype.studies.folder import StudyFolder
from tintype.studies.jobs import Ended, Task, run_side_by_side
from tintype.studies.one import make_run
from tintype.studies.order import relative_costs, seconds_by_cost
from tintype.studies.outcome import Outcome, read_outcome
from tintype.studies.plan import Request, Study, slug
from tintype.studies.range_test import run_range_test
from tintype.studies.table import make_table, with_learning_curve, write_study_csv
from tintype.watch import Watch

RANGE_TEST = "range_test"

MakeRun = Callable[[RunConfig, Path, Watch], None]
"""Makes a run of these settings in this directory, or goes on with it."""


@dataclass(frozen=True)
class StudyResult:
    """A study that ended.

    Attributes:
        path: The study's directory.
        table: Its rows, as they stand in ``study.json``.
    """

    path: Path
    table: StudyTable

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.path / "report.html"


def do_study(
    study: Study, output: Path | None, watch: Watch, *, jobs: int = 1, make: MakeRun = make_run,
    begin: Callable[[StudyFolder], None] = lambda _: None,
) -> StudyResult:  # fmt: skip
    """Do every run of a study that is not done yet, and write its table and report.

    Args:
        study: What to do.
        output: The study's directory; None for ``runs/NAME``.
        watch: Progress, messages and stopping.
        jobs: Runs at a time.
        make: Makes one run, where they are made one after another.
        begin: What is done before the first run, in the study's directory.

    Raises:
        RunError: The directory holds something else, or runs with other settings; or no run at all succeeded.
        RunInterrupted: ``watch.should_stop`` said so, or Ctrl-C was pressed; the same command goes on.
    """
    path = output if output is not None else Path("runs") / slug(f"{study.name} quick" if study.quick else study.name)
    folder, requests = StudyFolder(path), study.requests()
    assigned = folder.assign(requests)
    folder.refuse_strangers(requests, assigned)
    with only_one_process(folder.path):
        work = _Work(study, folder, requests, assigned, watch, jobs, make)
        work.recall()
        try:
            begin(folder)
            work.do_all()
        except (RunInterrupted, KeyboardInterrupt):
            work.close("interrupted")
            done = f"{len(work.outcomes)} of {text.plural(len(work.tasks), 'run')} finished"
            raise RunInterrupted(f"stopped with {done}. The same command goes on with {path}.") from None
        table = work.close()
    if work.tasks and not work.outcomes:
        reason = next(run.reason for run in table.runs if run.reason)
        raise RunError(f"none of {text.plural(len(work.tasks), 'run')} succeeded; the first failed: {reason}")
    return StudyResult(path, table)


@dataclass
class _Work:
    """The state of a study that is being done.

    Attributes:
        assigned: Name of each request to the name of the run that answers it.
        outcomes: Name of each finished run to what it contributed.
        failures: Name of each failed run to how and why.
        current: Names of the runs under way.
        jobs_of: Name of each run to how many were made at a time with it.
        tasks: Name of each run to the first request that it answers, in the order of work.
    """

    study: Study
    folder: StudyFolder
    requests: tuple[Request, ...]
    assigned: Mapping[str, str]
    watch: Watch
    jobs: int = 1
    make: MakeRun = make_run
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    failures: dict[str, tuple[RunState, str]] = field(default_factory=dict)
    current: set[str] = field(default_factory=set)
    jobs_of: dict[str, int] = field(default_factory=dict)
    range_test: dict[str, Any] | None = None
    tasks: dict[str, Request] = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = {}
        for request in self.requests:
            self.tasks.setdefault(self.assigned[request.name], request)

    def recall(self) -> None:
        """Take up what earlier calls have done."""
        before = read_study_table(self.folder.path).runs if (self.folder.path / STUDY_FILE).is_file() else ()
        reasons = {run.name: run.reason for run in before if run.state == "diverged"}
        self.jobs_of = {run.name: run.jobs for run in before}
        for name, request in self.tasks.items():
            if self.folder.run(name).is_complete:
                self.outcomes[name] = read_outcome(self.folder.run(name))
            elif name in reasons and self.folder.was_asked_for(name, request.config):
                self.failures[name] = ("diverged", reasons[name])
        write_text(self.folder.path / "study.toml", self.study.to_toml())
        if self.outcomes:
            found = f"{len(self.outcomes)} of {text.plural(len(self.tasks), 'run')}"
            self.watch.on_message(f"{found} finished already in {self.folder.path}")

    def do_all(self) -> None:
        """Do what is left."""
        self._save()
        if self.study.kind == "learning rate" and self.study.range_test:
            self._test_range()
        left = [name for name in self.tasks if not self._is_done(name)]
        if self.jobs > 1 and len(left) > 1:
            tasks = [Task(name, self.tasks[name].config) for name in left]
            run_side_by_side(tasks, self.folder, min(self.jobs, len(left)), self.watch, self._begin, self._end)
            return
        self.jobs = 1
        for name in left:
            if self.watch.should_stop():
                raise RunInterrupted("stopped.")
            self._begin(name)
            self._end(self._make(name))

    def close(self, state: RunState = "waiting") -> StudyTable:
        """Write the table and the report as things stand.

        Args:
            state: Of the runs that were under way.
        """
        table = self._save(state, is_last=True)
        write_study_report(self.folder.path)
        return table

    def _is_done(self, name: str) -> bool:
        has_report = (self.folder.run(name) / "report.html").exists()
        return name in self.failures or (name in self.outcomes and has_report)

    def _begin(self, name: str) -> None:
        """Say which run begins, and how long the rest will take."""
        number = list(self.tasks).index(name) + 1
        left = self._seconds_left()
        time_left = "" if left is None else f", about {text.duration(left)} left for all".replace(text.NBSP, " ")
        self.watch.on_message(f"run {number} of {len(self.tasks)}: {self._words(name)}{time_left}")
        self.current.add(name)
        self.jobs_of[name] = max(self.jobs, self.jobs_of.get(name, 1))

    def _make(self, name: str) -> Ended:
        """A run in this process."""
        request = self.tasks[name]
        try:
            self.make(request.config, self.folder.prepare(name, request.config), self.watch)
        except RunInterrupted:
            raise
        except TintypeError as error:
            return Ended(name, "diverged" if isinstance(error, NonFiniteError) else "failed", str(error))
        return Ended(name, "finished")

    def _end(self, ended: Ended) -> None:
        """Take in how a run ended."""
        name, what = ended.name, self._words(ended.name)
        if ended.state == "finished":
            outcome = self.outcomes[name] = read_outcome(self.folder.run(name))
            images = len(outcome.answers.images)
            right = text.percent(outcome.accuracy, images).replace(text.NBSP, " ")
            self.watch.on_message(f"{what}: {right} of {images:,} {outcome.split} images right")
        else:
            self.failures[name] = (ended.state, ended.reason)
            self.watch.on_message(f"{what} failed: {ended.reason}")
        self.current.discard(name)
        self._save()

    def _words(self, name: str) -> str:
        return f"{self.tasks[name].point}, seed {self.tasks[name].seed}"

    def _test_range(self) -> None:
        """Try which learning rates are worth a run, unless that has been done for these settings."""
        config = self.study.config_of(self.study.reference, self.study.seeds[0])
        kept = RunDir(self.folder.path)
        if (kept / f"{RANGE_TEST}.json").is_file() and self.folder.was_asked_for(RANGE_TEST, config):
            self.range_test = kept.read_json(f"{RANGE_TEST}.json")
            return
        self.watch.on_message("range test: a short training with a rising learning rate")
        try:
            found = run_range_test(config, self.watch)
        except RunInterrupted:
            raise
        except TintypeError as error:  # the runs themselves may do well, or fail for the same reason
            self.watch.on_message(f"the range test failed: {error}")
            return
        self.range_test = to_plain(found)
        kept.write_json(f"{RANGE_TEST}.json", self.range_test)
        write_text(self.folder.request_file(RANGE_TEST), config.to_toml())

    def _save(self, state: RunState = "waiting", *, is_last: bool = False) -> StudyTable:
        rows = [self._row(request, state) for request in self.requests]
        table = make_table(self.study, rows, self.outcomes, range_test=self.range_test, with_groups=is_last)
        if is_last:
            table = with_learning_curve(table)
        write_study_table(self.folder.path, table)
        write_study_csv(self.folder.path / "study.csv", table)
        return table

    def _row(self, request: Request, current: RunState) -> RunRow:
        name = self.assigned[request.name]
        row = RunRow(name, request.point, request.seed, "waiting", jobs=self.jobs_of.get(name, 1))
        if name in self.outcomes:
            done = self.outcomes[name]
            return replace(row, state="finished", accuracy=done.accuracy, loss=done.loss, seconds=done.seconds)
        if name in self.failures:
            state, reason = self.failures[name]
            return replace(row, state=state, reason=reason)
        return replace(row, state=current) if name in self.current else row

    def _seconds_left(self) -> float | None:
        """From the finished runs: those of the same point where there are any, else of others by what they cost."""
        known = {name: item.seconds for name, item in self.outcomes.items() if item.seconds is not None}
        if not known:
            return None
        costs = relative_costs({name: request.config for name, request in self.tasks.items()})
        by_point: dict[str, list[float]] = {}
        for name, seconds in known.items():
            by_point.setdefault(self.tasks[name].point, []).append(seconds)
        guess = seconds_by_cost([costs[name] for name in known], list(known.values()))
        left = 0.0
        for name, request in self.tasks.items():
            if name not in self.outcomes and name not in self.failures:
                like = by_point.get(request.point)
                left += sum(like) / len(like) if like else guess(costs[name])
        return left / min(self.jobs, len(self.tasks))

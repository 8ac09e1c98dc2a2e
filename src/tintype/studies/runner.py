"""Doing a study: every run once, resumable at any moment, with the table up to date after each of them.

The study's directory::

    study.toml       what was asked for; `tintype study` repeats it
    study.json       the table, for programs        study.csv   the same for spreadsheets
    report.html      the table with figures, one self-contained file
    requests/        the settings that each run was asked for, before anything was chosen
    runs/            a run directory for each point and seed
"""

from __future__ import annotations

import ctypes
import gc
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from tintype.config import RunConfig, load_config
from tintype.errors import NonFiniteError, RunError, RunInterrupted, TintypeError
from tintype.report import text
from tintype.report.study import write_study_report
from tintype.report.studyfile import STUDY_FILE, RunRow, RunState, StudyTable, read_study_table, write_study_table
from tintype.run import resume_run, start_run
from tintype.rundir import RunDir, write_text
from tintype.studies.outcome import Outcome, read_outcome
from tintype.studies.plan import Request, Study, models_study, slug
from tintype.studies.table import make_table, write_study_csv
from tintype.watch import Watch


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


def run_study(study: Study, output: Path | None = None, watch: Watch = Watch()) -> StudyResult:
    """Do every run of a study that is not done yet, and write its table and report.

    A run that fails is recorded with its reason, and the study goes on. One whose loss was not finite has failed for
    good; other failures, such as missing weights, are tried again when the study is started again.

    Args:
        study: What to do.
        output: The study's directory; None for ``runs/NAME``. What stands there of the same study is gone on with.
        watch: Progress, messages and stopping.

    Raises:
        RunError: The directory holds something else, or runs with other settings; or no run at all succeeded.
        RunInterrupted: ``watch.should_stop`` said so, or Ctrl-C was pressed; the same command goes on.
    """
    folder = output if output is not None else Path("runs") / slug(f"{study.name} quick" if study.quick else study.name)
    requests = study.requests()
    _refuse_what_is_not_ours(folder, requests)
    with _only_one_process(folder):
        work = _Work(study, folder, requests, watch)
        work.recall()
        try:
            work.do_all()
        except (RunInterrupted, KeyboardInterrupt):
            work.close("interrupted")
            done = f"{len(work.outcomes)} of {text.plural(len(requests), 'run')} finished"
            raise RunInterrupted(f"stopped with {done}. The same command goes on with {folder}.") from None
        table = work.close()
    if not work.outcomes:
        reason = next(run.reason for run in table.runs if run.reason)
        raise RunError(f"none of {text.plural(len(requests), 'run')} succeeded; the first failed: {reason}")
    return StudyResult(folder, table)


def compare_settings(
    config: RunConfig, setting: str, values: Iterable[Any], output: Path | None = None, watch: Watch = Watch()
) -> StudyResult:
    """Train once with each value of a setting, such as ``model.backbone``, and put the results into one table.

    Args:
        config: Everything else.
        setting: Dotted name.
        values: At least two; the first is the reference.
        output: As for :func:`run_study`.
        watch: As for :func:`run_study`.

    Raises:
        TintypeError: As :func:`run_study`; and for fewer than two values, or one that the setting cannot have.
    """
    return run_study(models_study(config, setting, tuple(values)), output, watch)


@dataclass
class _Work:
    """The state of a study that is being done."""

    study: Study
    folder: Path
    requests: tuple[Request, ...]
    watch: Watch
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    failures: dict[str, tuple[RunState, str]] = field(default_factory=dict)
    current: str = ""

    def recall(self) -> None:
        """Take up what earlier calls have done."""
        before = read_study_table(self.folder).runs if (self.folder / STUDY_FILE).is_file() else ()
        reasons = {run.name: run.reason for run in before if run.state == "diverged"}
        for request in self.requests:
            if RunDir(self.folder / "runs" / request.name).is_complete:
                self.outcomes[request.name] = read_outcome(RunDir(self.folder / "runs" / request.name))
            elif request.name in reasons and self._is_asked_for_again(request):
                self.failures[request.name] = ("diverged", reasons[request.name])
        write_text(self.folder / "study.toml", self.study.to_toml())
        if self.outcomes:
            found = f"{len(self.outcomes)} of {text.plural(len(self.requests), 'run')}"
            self.watch.on_message(f"{found} finished already in {self.folder}")

    def do_all(self) -> None:
        """Do what is left."""
        total = len(self.requests)
        self._save()
        for number, request in enumerate(self.requests, 1):
            run_dir = RunDir(self.folder / "runs" / request.name)
            if request.name in self.failures or (request.name in self.outcomes and (run_dir / "report.html").exists()):
                continue
            if self.watch.should_stop():
                raise RunInterrupted("stopped.")
            left = self._seconds_left()
            time_left = "" if left is None else f", about {text.duration(left)} left for all".replace(text.NBSP, " ")
            what = f"{request.point}, seed {request.seed}"
            self.watch.on_message(f"run {number} of {total}: {what}{time_left}")
            self.current = request.name
            try:
                _do(request, self.folder, self.watch)
            except RunInterrupted:
                raise
            except TintypeError as error:
                state: RunState = "diverged" if isinstance(error, NonFiniteError) else "failed"
                self.failures[request.name] = (state, str(error))
                self.watch.on_message(f"{what} failed: {error}")
            else:
                outcome = self.outcomes[request.name] = read_outcome(run_dir)
                images = len(outcome.answers.images)
                right = text.percent(outcome.accuracy, images).replace(text.NBSP, " ")
                self.watch.on_message(f"{what}: {right} of {images:,} {outcome.split} images right")
            self.current = ""
            self._save()

    def close(self, state: RunState = "waiting") -> StudyTable:
        """Write the table and the report as things stand.

        Args:
            state: Of the run that was under way.
        """
        table = self._save(state)
        write_study_report(self.folder)
        return table

    def _save(self, state: RunState = "waiting") -> StudyTable:
        table = make_table(self.study, [self._row(request, state) for request in self.requests], self.outcomes)
        write_study_table(self.folder, table)
        write_study_csv(self.folder / "study.csv", table)
        return table

    def _row(self, request: Request, current: RunState) -> RunRow:
        name, point, seed = request.name, request.point, request.seed
        if name in self.outcomes:
            done = self.outcomes[name]
            return RunRow(name, point, seed, "finished", "", done.accuracy, done.loss, done.seconds)
        if name in self.failures:
            return RunRow(name, point, seed, *self.failures[name])
        return RunRow(name, point, seed, current if name == self.current else "waiting")

    def _seconds_left(self) -> float | None:
        """From the finished runs: those of the same point where there are any, else of all."""
        known = {name: item.seconds for name, item in self.outcomes.items() if item.seconds is not None}
        if not known:
            return None
        by_point: dict[str, list[float]] = {}
        for request in self.requests:
            if request.name in known:
                by_point.setdefault(request.point, []).append(known[request.name])
        left = 0.0
        for request in self.requests:
            if request.name not in self.outcomes and request.name not in self.failures:
                like = by_point.get(request.point, list(known.values()))
                left += sum(like) / len(like)
        return left

    def _is_asked_for_again(self, request: Request) -> bool:
        file = _request_file(self.folder, request)
        return file.is_file() and load_config(file) == request.config


def _do(request: Request, folder: Path, watch: Watch) -> None:
    """Start a run, or go on with it."""
    path = folder / "runs" / request.name
    # Hundreds of epochs would bury what the study has to say; every run has them in its own report.
    quiet = Watch(on_progress=watch.on_progress, should_stop=watch.should_stop)
    _forget_peak_memory()
    if (path / "config.toml").is_file():
        resume_run(path, quiet)
        return
    if path.exists():
        shutil.rmtree(path)  # killed before it had begun to train; _refuse_what_is_not_ours knows it is ours
    write_text(_request_file(folder, request), request.config.to_toml())
    start_run(request.config, path, quiet)


def _request_file(folder: Path, request: Request) -> Path:
    return folder / "requests" / f"{request.name}.toml"


def _refuse_what_is_not_ours(folder: Path, requests: Sequence[Request]) -> None:
    """Raise before any work where runs of other settings, or somebody's other files, stand in the way."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / "study.toml").is_file()):
        raise RunError(f"{folder} exists already and is not a study's directory. Choose another one with -o.")
    for request in requests:
        run, file = folder / "runs" / request.name, _request_file(folder, request)
        if not run.exists():
            continue
        if not file.is_file():
            raise RunError(f"{run} was not made by this study. Move it away, or choose another directory with -o.")
        asked_for = load_config(file)
        if asked_for != request.config:
            setting, then, now = _first_difference(asked_for, request.config)
            raise RunError(
                f"{run} was made with {setting} = {then}, and now it is {now}: one table would mix the two. "
                "Choose another directory with -o, or delete this one."
            )


def _first_difference(one: RunConfig, other: RunConfig) -> tuple[str, Any, Any]:
    then, now = (_dotted(config.model_dump()) for config in (one, other))
    setting = next(name for name in {**then, **now} if then.get(name) != now.get(name))
    return setting, then.get(setting), now.get(setting)


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@contextmanager
def _only_one_process(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}. Choose another directory with -o.") from None
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"another process is at work on {folder}. Wait for it, or choose another with -o.") from None
    try:
        yield
    finally:
        lock.release()


def _forget_peak_memory() -> None:
    """Let the system measure the peak memory of the next run, not of all before it.

    On Linux freed memory is handed back and the counter set back. Elsewhere a run shows the largest peak so far.
    """
    if platform.system() != "Linux":
        return
    gc.collect()
    with suppress(OSError, AttributeError):  # a libc without malloc_trim, a system that protects the counter
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

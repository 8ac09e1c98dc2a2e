"""The verb: search for the best model in a time budget, and leave it with its evidence."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from tintype.config import PrecisionName, RunConfig
from tintype.errors import ConfigError, RunError, RunInterrupted
from tintype.preparing import Listed, Prepared, build, list_images
from tintype.ranks.torchrun import rank_of_process
from tintype.records import to_plain
from tintype.report.tunefile import TUNE_FILE, TuneState, TuneTable, read_tune_table
from tintype.run import Run, load_run
from tintype.rundir import numbered, only_one_process, require_new, write_text
from tintype.runtime import Runtime, start_runtime
from tintype.tuning.budget import MOST_CLOSING, REDUCTION, Clock, Schedule, Stage, make_schedule, parse_duration
from tintype.tuning.choose import choose_space, given_settings
from tintype.tuning.closing import measure_closing
from tintype.tuning.finish import Ended, finish, hand_over, repeat_finalists
from tintype.tuning.folder import SEARCH, TuneFolder
from tintype.tuning.ownspace import SpaceFile, load_space
from tintype.tuning.pace import Pace
from tintype.tuning.search import CLOSED, ENDED, Search
from tintype.tuning.space import Space
from tintype.tuning.storage import Ledger, Queued, open_study
from tintype.tuning.table import make_table, write_table
from tintype.tuning.trainer import Trainer
from tintype.tuning.transferspace import TransferSpace
from tintype.watch import Watch

REPORT_SECONDS = 10.0
"""At least this long between two reports of a search under way."""

REPORT_SHARE = 0.02
"""Most of the time that these reports take."""

TIMED_SECONDS = 10.0
"""A training of so long is what the default is timed for."""

STAGES = "stages"
"""Attribute of a study: the stages, which all workers go by."""

SPACE_FILE = "space.toml"


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        config: Settings of all candidates.
        budget: Seconds; None where trials are counted.
        trials: Candidates to draw; None where time counts.
        space: A TOML file of one's own space.
        storage: URL of the study; None for a file in the directory.
        study: Its name there.
    """

    config: RunConfig
    budget: float | None = None
    trials: int | None = None
    space: Path | None = None
    storage: str | None = None
    study: str | None = None


@dataclass(frozen=True)
class Tuned:
    """A search that ended.

    Attributes:
        path: Its directory.
        table: As it stands in ``tune.json``.
        run: The winner; None where this process has only helped.
    """

    path: Path
    table: TuneTable
    run: Run | None

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.path / "report.html"


def tune(request: Request, output: Path | None, watch: Watch = Watch(), started: float | None = None) -> Tuned:
    """Search for the best model.

    Args:
        request: What is asked for.
        output: The search's directory; None for ``runs/NAME-tune``.
        watch: Progress, messages and stopping.
        started: When the command began, by :func:`time.monotonic`.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
        RunInterrupted: It was stopped; what was tried is kept.
    """
    if rank_of_process() is not None:
        raise ConfigError(
            "a search has one process for each candidate: start `tintype tune` without torchrun, and several with "
            "--storage."
        )
    source = Path(request.config.data.source).expanduser().absolute()
    path = output or numbered(Path("runs") / f"{source.stem or 'search'}-tune", Path.exists)
    folder = TuneFolder(path)
    require_new(path, f"go on with `tintype tune --resume {path}`")
    config = request.config.replace({"data.source": str(source)})
    own = load_space(request.space) if request.space is not None else None
    request = _completed(request, config, own)
    with only_one_process(path):
        return _search(folder, request, own, Clock(started=started), watch, resume=False)


def resume_tune(
    path: Path, *, budget: float | None = None, trials: int | None = None, storage: str | None = None,
    watch: Watch = Watch(), started: float | None = None,
) -> Tuned:  # fmt: skip
    """Go on with a search that was stopped, or give one that ended more time.

    Args:
        path: Its directory.
        budget: Seconds more; None: what was left.
        trials: Trials in all; None: as before.
        storage: URL of the study, where that holds a password.
        watch: Progress, messages and stopping.
        started: When the command began, by :func:`time.monotonic`.

    Raises:
        RunError: There is no search, or it has ended and gets no more time.
    """
    folder = TuneFolder(path)
    folder.require_search()
    request, own = _read_request(folder)
    before = read_tune_table(path) if (path / TUNE_FILE).is_file() else None
    used = before.seconds if before is not None else 0.0
    if before is not None and before.state == "finished" and budget is None and trials is None:
        raise RunError(f"{path} has ended; its report is {path / 'report.html'}. Give it more time with --budget 10m.")
    request = replace(
        request,
        budget=used + budget if budget is not None else request.budget,
        trials=trials if trials is not None else request.trials,
        storage=storage or request.storage,
    )
    with only_one_process(path):
        return _search(folder, request, own, Clock(used, started), watch, resume=True)


def _completed(request: Request, config: RunConfig, own: SpaceFile | None) -> Request:
    """With what the space file says, which the command line may override."""
    budget = request.budget
    if own is not None:
        given = given_settings(config)
        base = {name: value for name, value in own.base.items() if name not in given}
        config = config.replace(base)
        if budget is None and request.trials is None and own.budget:
            budget = parse_duration(own.budget)
    if budget is None and request.trials is None:
        raise ConfigError("how long? Give a time, such as --budget 30m, or a number of trials, such as --trials 50.")
    if request.trials is not None and request.trials < 1:
        raise ConfigError(f"trials must be at least 1. Got {request.trials}.")
    return replace(request, config=config, budget=budget)


def _write_request(folder: TuneFolder, request: Request) -> None:
    content: dict[str, Any] = {
        "budget": request.budget,
        "trials": request.trials,
        "storage": request.storage if request.storage and "@" not in request.storage else None,
        "study": request.study,
        "base": request.config.model_dump(exclude_none=True, mode="json"),
    }
    if request.space is not None and request.space != folder.path / SPACE_FILE:
        write_text(folder.path / SPACE_FILE, request.space.read_text(encoding="utf-8"))
    plain = {name: value for name, value in content.items() if value is not None}
    write_text(folder.path / SEARCH, tomli_w.dumps(plain, multiline_strings=True))


def _read_request(folder: TuneFolder) -> tuple[Request, SpaceFile | None]:
    try:
        content = tomllib.loads((folder.path / SEARCH).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{folder.path / SEARCH} cannot be read: {error}.") from None
    space = folder.path / SPACE_FILE
    own = load_space(space) if space.is_file() else None
    config = RunConfig().replace(content.get("base", {}))
    return Request(
        config, content.get("budget"), content.get("trials"), space if own else None, content.get("storage"),
        content.get("study"),
    ), own  # fmt: skip


@dataclass
class _Attempt:
    """What one process knows while it searches."""

    folder: TuneFolder
    request: Request
    clock: Clock
    watch: Watch
    images: Listed
    runtime: Runtime
    data: Prepared
    space: Space
    ledger: Ledger
    is_chief: bool
    schedule: Schedule = field(init=False)
    search: Search = field(init=False)
    next_write: float = 0.0

    def __post_init__(self) -> None:
        trainer = Trainer(self.images, self.request.config, self.runtime, self._timed_watch())
        pace, precision = _default_pace(trainer)
        if not isinstance(self.space, TransferSpace):
            trainer.precision = precision  # to measure it anew would take longer than some candidates train
        full = pace.seconds(trainer.prepared({}).plan.config.fit.epochs or 1) if pace is not None else None
        closing, extra, dear = self._closing(trainer)
        self.schedule = self._agreed(make_schedule(self.request.budget, full, closing))
        self.search = Search(
            trainer, self.space, self.ledger, self.schedule, self.clock, self.folder, self.request.trials, self.renew,
            dear, extra,
        )  # fmt: skip

    def _closing(self, trainer: Trainer) -> tuple[float, float, dict[str, str]]:
        """Seconds to keep for judging a head, as many more for what trains in steps, and backbones that take too long.

        A head's features are at hand when it is judged; what trains in steps classifies all images anew.
        """
        budget, space = self.request.budget, self.space
        stepped, dear = measure_closing(trainer, {}).planned(budget), dict[str, str]()
        if not isinstance(space, TransferSpace):
            return stepped, 0.0, dear
        for backbone in () if space.heads_only else space.backbones:
            closing = measure_closing(trainer, space.whole(backbone))
            if budget is not None and closing.least > MOST_CLOSING * budget:
                dear[backbone] = f"judging it would take {closing.least:.0f} of {budget:.0f} s"
            else:
                stepped = max(stepped, closing.planned(budget))
        head = measure_closing(trainer, _logistic(space)).planned(budget)
        most = stepped if budget is None else min(stepped, MOST_CLOSING * budget)
        return head, max(0.0, most - head), dear

    def _agreed(self, mine: Schedule) -> Schedule:
        """The stages that the first worker has set; accuracies of other lengths could not be compared."""
        known = self.ledger.attributes.get(STAGES)
        while known is None and not self.is_chief:
            if self.watch.should_stop():
                raise RunInterrupted("stopped while waiting for the worker that began the search.")
            time.sleep(0.5)
            known = self.ledger.attributes.get(STAGES)
        if known is None:
            self.ledger.set_attribute(STAGES, [to_plain(stage) for stage in mine.stages])
            return mine
        return replace(mine, stages=tuple(Stage(**stage) for stage in known))

    def _timed_watch(self) -> Watch:
        """Progress by the clock instead of by the trial: what is left of the budget is what people want to know."""
        budget = self.request.budget

        def on_progress(what: str, done: int, total: int) -> None:
            if budget is None:
                self.watch.on_progress(what, done, total)
            else:
                self.watch.on_progress("seconds searched", round(self.clock.seconds), round(budget))

        return Watch(on_progress, self.watch.on_message, should_stop=self.watch.should_stop)

    def table(self, state: TuneState, ended: Ended | None) -> TuneTable:
        """The search as it stands."""
        config = self.data.plan.config
        known = {
            "name": self.request.study or self.folder.path.name,
            "data": self.request.config.data.source,
            "space": self.space.name,
            "reason": self.space.reason,
            "images": len(self.data.split.validation),
            "seed": config.seed,
            "budget": self.request.budget,
            "wanted": self.request.trials,
        }
        size = config.data.image_size
        assert size is not None
        return make_table(
            self.ledger, self.schedule, known, full_size=size, seconds=self.clock.seconds, state=state,
            folder=self.folder, ended=ended,
        )  # fmt: skip

    def write(self, state: TuneState, ended: Ended | None = None) -> TuneTable:
        """Table and report, for people to look at."""
        table = self.table(state, ended)
        write_table(self.folder, table, self.ledger, self.request.config)
        return table

    def renew(self) -> None:
        """The same now and then."""
        began = time.monotonic()
        if began >= self.next_write:
            self.write("running")
            now = time.monotonic()
            self.next_write = now + max(REPORT_SECONDS, (now - began) / REPORT_SHARE)


def _search(
    folder: TuneFolder, request: Request, own: SpaceFile | None, clock: Clock, watch: Watch, *, resume: bool
) -> Tuned:
    """From the request to the winner's run directory."""
    config = request.config
    runtime = start_runtime(config.device, config.threads, config.seed)
    images = list_images(config, watch)
    data = images.prepare(config, runtime, watch)
    if len(data.split.validation) == 0:
        raise ConfigError("there are no validation images to choose by: set data.validation_fraction above 0.")
    space = choose_space(data, config, own.space if own is not None else None)
    watch.on_message(f"space: {space.name}: {space.reason}")
    about = _about(request, data, space)
    name = request.study or f"{Path(config.data.source).stem or 'search'}-{data.cache.fingerprint[:12]}"
    with open_study(
        request.storage or folder.trials, name, about=about, seed=config.seed, reduction=REDUCTION,
        first=_first(space), resume=resume,
    ) as ledger:  # fmt: skip
        _write_request(folder, request)  # not before there is something to resume
        if resume:
            ledger.set_attribute(CLOSED, False)
            ledger.set_attribute(ENDED, None)
        attempt = None
        try:
            attempt = _Attempt(
                folder, request, clock, watch, images, runtime, data, space, ledger, ledger.created or resume
            )
            return _through(attempt)
        except (RunInterrupted, KeyboardInterrupt):
            ledger.release()
            is_there = attempt is not None and _leave_best(attempt)
            said = "the best model so far is in it" if is_there else "no model was finished yet"
            raise RunInterrupted(f"stopped; {said}. Go on with: tintype tune --resume {folder.path}") from None


def _through(attempt: _Attempt) -> Tuned:
    search, folder = attempt.search, attempt.folder
    search.run()
    if not attempt.is_chief:
        search.do_waiting(lambda: not attempt.ledger.attributes.get(ENDED))
        return Tuned(folder.path, attempt.write("finished"), None)
    repeat_finalists(search)
    ended = finish(search)
    if ended is None:
        attempt.write("finished")
        causes = [entry.cause for entry in search.entries() if entry.cause]
        raise RunError(f"no candidate could be trained; the first failed: {causes[0] if causes else 'time was up'}.")
    table = attempt.write("finished", ended)
    folder.forget_kept()
    return Tuned(folder.path, table, load_run(folder.best.path))


def _leave_best(attempt: _Attempt) -> bool:
    """What a stopped search leaves: the best model so far, the table and the report."""
    attempt.watch.on_message("stopping: writing the best model so far")
    found = attempt.is_chief and hand_over(attempt.search)
    attempt.write("interrupted")
    return found


def _default_pace(trainer: Trainer) -> tuple[Pace | None, PrecisionName]:
    """How fast the default of `tintype train` trains, None where it is fitted at once; and in which precision."""
    data = trainer.prepared({})
    built = build(data)
    config = built.plan.config
    pace = None if config.fit.optimizer == "lbfgs" else trainer.pace(built, data, TIMED_SECONDS, Watch())
    return pace, config.precision


def _first(space: Space) -> list[Queued]:
    """What is tried before anything is drawn: the baselines, and what the space begins with."""
    return [
        Queued({}, {"role": "default", "settings": {}}),
        Queued({}, {"role": "logistic", "settings": _logistic(space)}),
        *(Queued(parameters) for parameters in space.first()),
    ]


def _logistic(space: Space) -> dict[str, Any]:
    """Settings of a logistic regression: on a pretrained network's features, or on the pixels."""
    other = {"model.name": None, "model.head": None, "augment.policy": "none"}
    if isinstance(space, TransferSpace):
        backbone = space.backbones[0]
        return {
            **other,
            **space.first_size(backbone),
            "model.backbone": backbone,
            "model.freeze": "all",
            "fit.optimizer": "lbfgs",
            "fit.views": 1,
        }
    return {**other, "model.backbone": None, "model.weights": None, "model.layers": "flatten"}


def _about(request: Request, data: Prepared, space: Space) -> Mapping[str, Any]:
    """What all workers of a study must have in common."""
    base = request.config.model_dump(exclude_none=True, mode="json", exclude={"device", "threads", "memory_gb"})
    base["data"].pop("source", None)
    return {
        "images": data.cache.fingerprint,
        "space": space.name,
        "seed": request.config.seed,
        "settings": base,
    }

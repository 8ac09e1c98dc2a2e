"""A worker's side of a search: it asks for trials, reports stages, and tells results.

Optuna's ask and tell, with heartbeats for every trial in hand, and with an answer for the worker that comes back too
late. What a search is kept in, and how it is opened, is storage.py's.
"""

from __future__ import annotations

import copy
import math
import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from tintype.errors import RunError, RunInterrupted
from tintype.tuning import attempts
from tintype.tuning.database import Patience, Place, explained, quiet
from tintype.tuning.heartbeat import Heartbeats, Pulse
from tintype.tuning.sampling import sampler_of

Verdict = Literal["on", "prune", "taken"]
"""What follows a report: go on, stop (too little for its stage), or drop the trial, which another worker has now."""

ABOUT = "about"
"""User attribute of a study that says what it searches for."""

_WITHOUT_HEARTBEAT = sqlalchemy.text(
    "SELECT trials.trial_id FROM trials JOIN studies ON studies.study_id = trials.study_id "
    "LEFT JOIN trial_heartbeats ON trial_heartbeats.trial_id = trials.trial_id "
    "WHERE studies.study_name = :name AND trials.state = 'RUNNING' AND trial_heartbeats.trial_id IS NULL"
)


@dataclass(frozen=True)
class Queued:
    """A trial that is asked for by name.

    Attributes:
        parameters: Values of Optuna parameters; those that are missing are sampled.
        attributes: User attributes of the trial, JSON; a further attempt at it has them too.
    """

    parameters: Mapping[str, Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Ledger:
    """A search of which this process is a worker.

    Attributes:
        place: The storage for people, without a password.
        created: Whether this process made the search.
        worker: Host and process number; the user attribute ``worker`` of every trial it asks for.
    """

    def __init__(
        self,
        place: Place,
        database: optuna.storages.RDBStorage,
        patience: Patience | None,
        study: optuna.Study,
        *,
        created: bool,
        seed: int,
        pulse: Pulse,
        closing: ExitStack,
    ) -> None:
        self.place = place.shown
        self.created = created
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self._place = place
        self._database = database
        self._study = study
        self._seed = seed
        self._hand: dict[int, optuna.Trial] = {}
        self._patience = patience
        self._closing = closing
        self._beats = Heartbeats(database, pulse)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the trials in hand; an exception that nobody asked for counts as a loss of them."""
        if kind is None or issubclass(kind, (KeyboardInterrupt, RunInterrupted)):
            self.close()
        else:
            self.close(f"{kind.__name__}: {error}".splitlines()[0], lost=True)

    def explained(self) -> AbstractContextManager[None]:
        """Around code that suggests parameters: a database that is gone becomes one line, a RunError."""
        return explained(self._place)

    @property
    def attributes(self) -> dict[str, Any]:
        """What has been set for the whole search, by any worker."""
        with self.explained():
            return {name: value for name, value in self._study.user_attrs.items() if name != ABOUT}

    def set_attribute(self, name: str, value: Any) -> None:
        """Keep something for the whole search; JSON."""
        if name == ABOUT:
            raise ValueError(f"{name!r} is what the search is about, and stays")
        with self.explained():
            self._study.set_user_attr(name, value)

    def ask(
        self, count: int = 1, *, fixed: Mapping[str, Any] | None = None, waiting_only: bool = False
    ) -> list[optuna.Trial]:
        """Take trials in hand. They are this worker's until it tells, releases, or is silent for the grace.

        Args:
            count: How many.
            fixed: Parameters that the new ones shall have. Trials that wait come first and have their own.
            waiting_only: Whether to take only those that wait; they may be fewer, or none.

        Returns:
            The trials; their parameters are sampled when ``suggest_*`` is called.
        """
        asked: list[optuna.Trial] = []
        with self.explained():
            self.fail_stale()
            while len(asked) < count:
                trial = self._take(dict(fixed or {}), waiting_only)
                if trial is None:
                    break
                self._hand[trial.number] = trial
                self._beats.cover(trial._trial_id)
                trial.set_user_attr("worker", self.worker)
                asked.append(trial)
        return asked

    def _take(self, fixed: Mapping[str, Any], waiting_only: bool) -> optuna.Trial | None:
        study = copy.copy(self._study)  # each trial has its own sampler: the same database, the same cache
        with quiet():
            if waiting_only:
                number = self._pop()
                if number is None:
                    return None
                trial = optuna.Trial(study, number)
            else:
                trial = study.ask()
        study.sampler = sampler_of(self._seed, trial.number, fixed)
        return trial

    def _pop(self) -> int | None:
        """Take what waits, as Optuna's ask does before it makes a new trial: of two workers one gets True."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            with suppress(UpdateFinishedTrialError):
                if self._database.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):
                    return trial._trial_id
        return None

    def report(self, trial: optuna.Trial, accuracy: float, step: int, *, judge: bool = True) -> Verdict:
        """Report a stage's result.

        Args:
            trial: In hand.
            accuracy: Of the stage.
            step: Of the stage: reduction**k.
            judge: Whether the trial may be stopped; not at its last stage.
        """
        with self.explained():
            try:
                trial.report(accuracy, step)
                return "prune" if judge and trial.should_prune() else "on"
            except UpdateFinishedTrialError:
                return "taken"

    def note(self, trial: optuna.Trial, **attributes: Any) -> bool:
        """Keep something about a trial in hand; JSON. False: another worker has it now."""
        with self.explained():
            try:
                for name, value in attributes.items():
                    trial.set_user_attr(name, value)
            except UpdateFinishedTrialError:
                return False
            return True

    def tell(self, trial: optuna.Trial, value: float | None = None, *, pruned: bool = False, cause: str = "") -> bool:
        """End a trial in hand.

        Args:
            trial: In hand.
            value: Its result; one that is not finite fails it.
            pruned: It was stopped after a stage.
            cause: Why it failed; it is not tried again.

        Returns:
            Whether the result is kept; False where another worker has the trial now.
        """
        if not cause and not pruned and (value is None or not math.isfinite(value)):
            cause = f"its value is {value}"
        try:
            with self.explained():
                if cause:
                    attempts.fail(trial, cause)
                    return True
                wanted = TrialState.PRUNED if pruned else TrialState.COMPLETE
                told = trial.study.tell(trial, None if pruned else value, state=wanted, skip_if_finished=True)
                return told.state == wanted
        except UpdateFinishedTrialError:
            return False
        finally:
            self._drop(trial)

    def _drop(self, trial: optuna.Trial) -> None:
        self._hand.pop(trial.number, None)
        self._beats.drop(trial._trial_id)

    def enqueue(self, queued: Queued) -> None:
        """Let a trial wait for the next worker that asks."""
        with self.explained():
            attempts.enqueue(self._study, queued.parameters, queued.attributes)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials of these states (of any, without states) by number. They are no copies: change nothing in them."""
        with self.explained():
            return self._study.get_trials(deepcopy=False, states=states or None)

    def best(self) -> FrozenTrial | None:
        """The complete trial with the highest value, the earliest of equal ones, whatever its role."""
        complete = self.trials(TrialState.COMPLETE)
        return max(complete, key=lambda trial: trial.value or 0.0, default=None)

    def fail_stale(self) -> None:
        """Fail trials of killed workers, and let them wait to be tried again.

        ``ask`` does so first; call it while waiting for other workers.
        """
        with self.explained():
            self._beats.beat()  # for this process's own
            with self._database.engine.connect() as connection:
                unheard = connection.execute(_WITHOUT_HEARTBEAT, {"name": self._study.study_name}).scalars().all()
            for trial in unheard:  # killed before its first heartbeat: its grace begins now
                self._database.record_heartbeat(trial)
            if not self._beats.settling:
                with quiet():
                    optuna.storages.fail_stale_trials(self._study)

    def release(self, cause: str = "interrupted", *, lost: bool = False) -> None:
        """Give up the trials in hand: each fails with the cause, and waits to be tried again.

        Args:
            cause: Why.
            lost: Whether it counts as a loss of the worker, after which a trial is tried again only once.
        """
        with self.explained():
            for trial in list(self._hand.values()):
                self._drop(trial)
                with suppress(UpdateFinishedTrialError):
                    attempts.fail(trial, cause)
                    attempts.try_again(self._study, self._database.get_trial(trial._trial_id), lost=lost)

    def close(self, cause: str = "interrupted", *, lost: bool = False) -> None:
        """Release the trials in hand and leave the database.

        One that is gone is not waited for: other workers, or the next, find the trials by their ceased heartbeats.
        """
        if self._patience is not None:
            self._patience.stop.set()
        try:
            with suppress(SQLAlchemyError, StorageInternalError, RunError):
                self.release(cause, lost=lost)
        finally:
            self._beats.close()
            self._closing.close()

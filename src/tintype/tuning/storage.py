"""A search that survives its workers: Optuna's study in a database, with what several processes need.

``open_study`` makes a search or joins it; two that would search for different things are not joined. ``Ledger`` asks
for trials and is told their results. Guarantees, each with a test:

- A trial whose worker was killed is failed when its heartbeats have ceased for the grace, and tried again once. On an
  SQLite file that nobody else has open it is so at once.
- Trials in hand at Ctrl-C or at an exception are failed with the cause, and wait to be tried again.
- A worker that was silent for longer than the grace and comes back learns that its trial was taken; its result would
  be a second one.
- What is sampled for a trial depends on (seed, its number) and on what is known by then: workers that share a seed do
  not draw alike, and a resumed search does not draw again what it had drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from tintype.errors import ConfigError, RunError
from tintype.tuning import attempts
from tintype.tuning.asking import ABOUT, Ledger, Queued, Verdict
from tintype.tuning.attempts import attempt_of, cause_of
from tintype.tuning.database import FileTurn, Place, connect, explained, place_of, server_turn
from tintype.tuning.heartbeat import Pulse

__all__ = ["Ledger", "Pulse", "Queued", "Verdict", "attempt_of", "cause_of", "open_study"]


def open_study(
    storage: str | Path,
    name: str,
    *,
    about: Mapping[str, Any],
    seed: int,
    reduction: int = 3,
    first: Sequence[Queued] = (),
    resume: bool = False,
    pulse: Pulse = Pulse(),
) -> Ledger:
    """Make a search, or join the one of this name.

    Args:
        storage: An SQLite file's path, ``sqlite:///PATH``, or ``postgresql://USER@HOST/DATABASE``.
        name: Of the search, in the storage.
        about: What it searches for, by a word for people (``data``, ``space``, ``version``, ...); JSON. It is kept.
        seed: Of all sampling.
        reduction: Successive halving lets one in so many trials reach the next stage; stage k is step reduction**k.
        first: Tried before anything is sampled; enqueued by the process that makes the search, and by no other.
        resume: Whether the search must be there already.
        pulse: How a killed worker is told from a busy one. Processes that share a search should have the same.

    Returns:
        The search; close it, or use it in ``with``.

    Raises:
        ConfigError: The storage cannot be used, or its search of this name is about something else.
        RunError: There is no search to resume.
    """
    place = place_of(storage)
    if resume and place.file is not None and not place.file.exists():
        raise RunError(f"{place.shown} is missing, so there is no search to resume; start one without --resume")
    with ExitStack() as undo, explained(place, opening=True):
        with _turn(place, undo) as alone:
            database, patience = connect(place, pulse.interval, pulse.grace, attempts.on_lost)
            undo.callback(database.engine.dispose)
            study, created = _make_or_join(place, database, name, about, first, resume)
            if alone:
                _fail_orphans(study)
        study.pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)
        return Ledger(place, database, patience, study, created=created, seed=seed, pulse=pulse, closing=undo.pop_all())


@contextmanager
def _turn(place: Place, undo: ExitStack) -> Iterator[bool]:
    """One process at a time opens the storage; gives whether no other is known to use it."""
    if place.file is None:
        with server_turn(place):
            yield False
        return
    turn = FileTurn(place.file)
    undo.callback(turn.close)
    yield turn.alone
    turn.share()


def _make_or_join(
    place: Place,
    database: optuna.storages.RDBStorage,
    name: str,
    about: Mapping[str, Any],
    first: Sequence[Queued],
    resume: bool,
) -> tuple[optuna.Study, bool]:
    """The search, and whether this process has made it. ``about`` is written last: a search without it is half made."""
    cached = optuna.storages.get_storage(database)
    wanted = json.loads(json.dumps(dict(about)))
    try:
        study = optuna.load_study(study_name=name, storage=cached)
    except KeyError:
        if resume:
            raise RunError(f"{place.shown} has no search {name!r} to resume; start one without --resume") from None
    else:
        kept = study.user_attrs.get(ABOUT)
        if kept is not None:
            _same(place, name, kept, wanted)
            return study, False
        if not all(attempts.queued(trial) for trial in study.get_trials(deepcopy=False)):
            raise ConfigError(f"{place.shown} has a study {name!r} that tintype did not make; choose another storage")
        optuna.delete_study(study_name=name, storage=cached)
    study = optuna.create_study(study_name=name, storage=cached, direction="maximize")
    for queued in first:
        attempts.enqueue(study, queued.parameters, queued.attributes)
    study.set_user_attr(ABOUT, wanted)
    return study, True


def _same(place: Place, name: str, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for word in sorted({*kept, *wanted}):
        there, here = kept.get(word), wanted.get(word)
        if there != here:
            raise ConfigError(
                f"{place.shown} has a search {name!r} with {word} {_short(there)}, and this one has {_short(here)}; "
                "repeat its settings, or choose another storage or folder"
            )


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _fail_orphans(study: optuna.Study) -> None:
    """Nobody else has the file open, so nobody works on what is running."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        attempts.try_again(study, trial, lost=True)

"""Trials that a worker could not finish, and their next attempt.

A killed worker's trial is tried again once: what kills two workers would kill a third. An interrupted one is tried
again as often as it takes. ``optuna.storages.RetryHeartbeatStaleTrialCallback`` is not used: it hands on the rungs
that the first attempt had reached in successive halving, so the next would pass them without being judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

MOST_LOSSES = 1
"""A trial that has cost more workers than this is not tried again."""

_GIVEN = "given"  # names of the user attributes that every attempt has
_LOSSES = "losses"
_RETRY_OF = "retry_of"
_CAUSE = "cause"

UNEXPLAINED = "its process ended without a word"


def enqueue(study: optuna.Study, parameters: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Let a trial wait for the next worker that asks.

    Args:
        study: The search.
        parameters: Their values; those that are missing are sampled.
        attributes: User attributes, JSON, for this attempt and any further one.
    """
    study.enqueue_trial(dict(parameters), user_attrs={**attributes, _GIVEN: sorted(attributes)})


def try_again(study: optuna.Study, trial: FrozenTrial, *, lost: bool) -> None:
    """Let a trial that has ended without a result wait for its next attempt, with the parameters it had.

    Args:
        study: The search.
        trial: The attempt that has ended.
        lost: Whether it cost a worker; then it is tried again only so often.
    """
    losses = int(trial.user_attrs.get(_LOSSES, 0)) + lost
    if lost and losses > MOST_LOSSES:
        return
    given = trial.user_attrs.get(_GIVEN, [])
    attributes = {name: trial.user_attrs[name] for name in given}
    study.enqueue_trial(
        {**trial.system_attrs.get("fixed_params", {}), **trial.params},
        user_attrs={**attributes, _GIVEN: given, _RETRY_OF: trial.number, _LOSSES: losses},
    )


def on_lost(study: optuna.Study, trial: FrozenTrial) -> None:
    """What Optuna calls after it has failed a trial whose heartbeats had ceased."""
    try_again(study, trial, lost=True)


def fail(trial: optuna.Trial, cause: str) -> None:
    """End a trial without a result.

    Raises:
        optuna.exceptions.UpdateFinishedTrialError: Another process has ended it.
    """
    trial.set_user_attr(_CAUSE, cause)
    trial.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def cause_of(trial: FrozenTrial) -> str:
    """Why a trial failed; empty where it did not."""
    return str(trial.user_attrs.get(_CAUSE, UNEXPLAINED)) if trial.state == TrialState.FAIL else ""


def attempt_of(trial: FrozenTrial | optuna.Trial) -> int | None:
    """Number of the lost or interrupted trial of which this is the next attempt; None for a first attempt."""
    return trial.user_attrs.get(_RETRY_OF)


def queued(trial: FrozenTrial) -> bool:
    """Whether the trial waits, put there by ``enqueue`` or ``try_again``."""
    return trial.state == TrialState.WAITING and _GIVEN in trial.user_attrs

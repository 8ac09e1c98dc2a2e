"""What is known of each trial, kept in the study's storage so that workers on other machines know it too."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tintype.evaluation.stats import wilson
from tintype.records import Interval
from tintype.report.tunefile import TrialRole, TrialRow, TrialState
from tintype.tuning.score import Score
from tintype.tuning.storage import attempt_of, cause_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

RESULT = "result"
"""Attribute of a trial: what :func:`facts_of` gives."""

FAR_BEHIND = 2.0
"""Fine-tuning rarely makes up for twice the errors of the features with which it begins."""

COMPETING: tuple[TrialRole, ...] = ("search", "default", "logistic")
"""Those among which the winner is chosen; repeats count for what they repeat."""

_STATES: dict[str, TrialState] = {
    "COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting",
}  # fmt: skip


def facts_of(score: Score, stage: int, changes: Mapping[str, Any], ended: float) -> dict[str, Any]:
    """What became of a trial: kept as one attribute, so that no other worker reads a half of it.

    Args:
        score: Of its last training.
        stage: In which that was.
        changes: Settings by dotted name that train the same again.
        ended: Seconds of searching that had gone by.
    """
    return {
        "accuracy": score.accuracy,
        "loss": score.loss,
        "right": base64.b64encode(np.packbits(score.right).tobytes()).decode("ascii"),
        "images": len(score.right),
        "seconds": score.seconds,
        "parameters": score.parameters,
        "epochs": score.epochs,
        "image_size": score.image_size,
        "stage": stage,
        "changes": dict(changes),
        "ended": ended,
    }


@dataclass(frozen=True)
class Entry:
    """A trial as the storage has it.

    Attributes:
        number: Of the trial.
        role: Why it is there.
        state: What became of it.
        facts: Its user attributes, with those of :func:`facts_of`.
        cause: Why it failed; empty where it did not.
    """

    number: int
    role: TrialRole
    state: TrialState
    facts: Mapping[str, Any]
    cause: str

    @property
    def key(self) -> tuple[float, float]:
        """Sorts the best last: by accuracy, then by loss."""
        return self.facts["accuracy"], -self.facts["loss"]

    @property
    def competes(self) -> bool:
        """Whether it may be chosen."""
        return self.state == "complete" and self.role in COMPETING

    @property
    def is_seeded(self) -> bool:
        """Whether another seed would give another network."""
        return bool(self.facts.get("is_seeded", True))

    @property
    def right(self) -> NDArray[np.bool_]:
        """(V,) which validation images were right."""
        bits = np.frombuffer(base64.b64decode(self.facts["right"]), dtype=np.uint8)
        return np.unpackbits(bits, count=self.facts["images"]).astype(bool)

    @property
    def interval(self) -> Interval:
        """Wilson's, of the accuracy."""
        images = self.facts["images"]
        return wilson(round(self.facts["accuracy"] * images), images)

    def row(self) -> TrialRow:
        """It as a line of ``tune.json``."""
        facts = self.facts
        return TrialRow(
            number=self.number,
            role=self.role,
            state=self.state,
            stage=facts.get("stage", 0),
            accuracy=self.interval if "accuracy" in facts else None,
            loss=facts.get("loss"),
            seconds=facts.get("spent", 0.0),
            ended=facts.get("ended"),
            settings=dict(facts.get("settings", {})),
            parameters=facts.get("parameters"),
            epochs=facts.get("epochs"),
            image_size=facts.get("image_size"),
            seed=facts.get("changes", {}).get("seed", facts.get("seed", 0)),
            repeat_of=facts.get("repeat_of"),
            cause=self.cause,
            worker=facts.get("worker", ""),
        )


def entries_of(trials: Sequence[FrozenTrial]) -> list[Entry]:
    """The trials of a study; an attempt that was taken up again stands there once, as its last attempt."""
    again = {attempt_of(trial) for trial in trials}
    return [
        Entry(
            trial.number,
            trial.user_attrs.get("role", "search"),
            _STATES[trial.state.name],
            {**trial.user_attrs, **trial.user_attrs.get(RESULT, {})},
            cause_of(trial) or str(trial.user_attrs.get("cause", "")),
        )
        for trial in trials
        if trial.number not in again
    ]


def repeats_of(entries: Sequence[Entry], number: int) -> list[Entry]:
    """The finished trainings of a candidate with other seeds."""
    return [
        item
        for item in entries
        if item.role == "repeat" and item.facts.get("repeat_of") == number and item.state == "complete"
    ]


def mean_key(entries: Sequence[Entry], entry: Entry) -> tuple[float, float]:
    """As :attr:`Entry.key`, the mean over the seeds that a candidate was trained with."""
    keys = np.array([item.key for item in (entry, *repeats_of(entries, entry.number))])
    accuracy, minus_loss = keys.mean(axis=0).tolist()
    return accuracy, minus_loss


def finalists(entries: Sequence[Entry], count: int) -> list[Entry]:
    """The best candidates, the best first; none so far behind that another seed could not make it the winner."""
    best = sorted((item for item in entries if item.competes), key=lambda item: item.key, reverse=True)[:count]
    least = min((item.interval.low for item in best[:1]), default=0.0)
    return [item for item in best if item.interval.high >= least]


def far_behind(entries: Sequence[Entry]) -> dict[str, str]:
    """Backbones that are not worth fine-tuning, and why: heads on what others say do far better than those on theirs.

    Of those that have had a head, be it one that was given up after a first stage, and where more than
    :data:`FAR_BEHIND` times the errors leave no doubt.
    """
    best: dict[str, Entry] = {}
    for entry in entries:
        settings = entry.facts.get("settings", {})
        if entry.role in COMPETING and "accuracy" in entry.facts and settings.get("model.freeze") == "all":
            backbone = settings["model.backbone"]
            best[backbone] = max(best.get(backbone, entry), entry, key=lambda item: item.key)
    if not best:
        return {}
    first = max(best, key=lambda backbone: best[backbone].key)
    errors, most = {name: 1 - entry.facts["accuracy"] for name, entry in best.items()}, 1 - best[first].interval.low
    return {
        name: f"heads on it are wrong on {errors[name]:.1%}, those on {first} on {errors[first]:.1%}"
        for name, entry in best.items()
        if errors[name] > FAR_BEHIND * errors[first] and 1 - entry.interval.high > most
    }


def choose_winner(entries: Sequence[Entry]) -> Entry | None:
    """The best by its mean over seeds: among those that were repeated where there are any, else among all.

    A single lucky seed shall not win against a mean. What no seed changes needs no repeat.
    """
    candidates = [item for item in entries if item.competes]
    repeated = [item for item in candidates if repeats_of(entries, item.number)]
    if repeated:
        repeated += [item for item in candidates if not item.is_seeded]
    return max(repeated or candidates, key=lambda item: mean_key(entries, item), default=None)

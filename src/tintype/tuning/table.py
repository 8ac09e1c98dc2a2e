"""``tune.json`` and the report from what the storage holds, at any moment of a search."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tintype.config import RunConfig
from tintype.report.tune import write_tune_report
from tintype.report.tunefile import TUNE_FORMAT, WINNER_FILE, StageRow, TrialRow, TuneState, TuneTable, write_tune_table
from tintype.rundir import write_text
from tintype.tuning.book import Entry, choose_winner, entries_of
from tintype.tuning.budget import Schedule
from tintype.tuning.finish import FINAL, Ended, judge
from tintype.tuning.folder import BEST, TuneFolder
from tintype.tuning.storage import Ledger

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LEAST_TRIALS = 10
"""Fewer say nothing about which settings matter."""


def make_table(
    ledger: Ledger, schedule: Schedule, known: Mapping[str, Any], *, full_size: int, seconds: float, state: TuneState,
    folder: TuneFolder, ended: Ended | None = None,
) -> TuneTable:  # fmt: skip
    """The search as it stands.

    Args:
        ledger: What was tried.
        schedule: Its stages.
        known: What does not change, by the names in :class:`TuneTable`.
        full_size: Side of the images in pixels.
        seconds: That the search has taken.
        state: Of the search.
        folder: Where the winner's run is.
        ended: Its winner, once it is chosen.
    """
    trials = ledger.trials()
    entries = entries_of(trials)
    winner = ended.winner if ended is not None else choose_winner(entries)
    # What still waits when the winner is chosen was never begun.
    rows = [entry.row() for entry in entries if ended is None or entry.state != "waiting"]
    final = ledger.attributes.get(FINAL)
    if ended is not None and final:
        rows.append(_final_row(final, ended, len(trials)))
    return TuneTable(
        format=TUNE_FORMAT,
        **known,
        seconds=seconds,
        state=state,
        trials=tuple(rows),
        stages=_stages(schedule, entries, full_size),
        importance=importance(trials),
        selection=ended.selection if ended is not None else judge(entries, winner) if winner is not None else None,
        winner=winner.number if winner is not None else None,
        result=BEST if folder.best.is_complete else None,
        version=version("tintype"),
        notes=() if ended is None else _notes(ended),
    )


def write_table(folder: TuneFolder, table: TuneTable, ledger: Ledger, base: RunConfig) -> None:
    """Write ``tune.json``, ``winner.toml`` and the report."""
    if table.result is not None:
        write_text(folder.path / WINNER_FILE, (folder.best / "config.toml").read_text(encoding="utf-8"))
    elif table.winner is not None:
        changes = next(item for item in entries_of(ledger.trials()) if item.number == table.winner).facts["changes"]
        write_text(folder.path / WINNER_FILE, base.replace(changes).to_toml())
    write_tune_table(folder.path, table)
    write_tune_report(folder.path)


def _notes(ended: Ended) -> tuple[str, ...]:
    notes = (f"The model in {BEST}/: {ended.note}.",)
    if ended.winner.role == "search":
        return notes
    what = "what `tintype train` takes by itself" if ended.winner.role == "default" else "a logistic regression"
    return (f"The search found nothing better than {what}.", *notes)


def _final_row(final: Mapping[str, Any], ended: Ended, number: int) -> TrialRow:
    facts = {**final, "repeat_of": ended.winner.number, "settings": ended.winner.facts["settings"]}
    return Entry(number, "final", "complete", {**facts, "spent": final["seconds"]}, "").row()


def _stages(schedule: Schedule, entries: Sequence[Entry], full_size: int) -> tuple[StageRow, ...]:
    drawn = [entry for entry in entries if entry.role == "search"]
    return tuple(
        StageRow(
            seconds=stage.seconds,
            image_size=stage.image_size(full_size),
            reached=sum(entry.facts.get("stage", 0) >= stage.number for entry in drawn),
        )
        for stage in schedule.stages
    )


def importance(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Which settings the accuracy varies with: Optuna's PED-ANOVA, the largest first.

    Trials are compared by the accuracy of their first stage, the only one that all of them went through, and among the
    largest group that has the same parameters.
    """
    import optuna

    groups: dict[tuple[str, ...], list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        if not trial.params or trial.state.name not in ("COMPLETE", "PRUNED"):
            continue
        value = trial.intermediate_values.get(1, trial.value)
        if value is not None:
            alike = optuna.create_trial(params=trial.params, distributions=trial.distributions, value=value)
            groups[tuple(sorted(trial.params))].append(alike)
    group = max(groups.values(), key=len, default=[])
    if len(group) < LEAST_TRIALS or len({trial.value for trial in group}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(group)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return dict(optuna.importance.get_param_importances(study))

"""The end of a search: finalists with other seeds, the winner's last training, and the test images, once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tintype.errors import RunInterrupted
from tintype.evaluation.selection import Selection, judge_selection
from tintype.learning import Learnt, trained_inputs
from tintype.models.weights import load_weights
from tintype.preparing import Built, Prepared
from tintype.records import EpochRecord
from tintype.run import LearntBefore, make_run
from tintype.training.fit import Fitted
from tintype.tuning.book import Entry, choose_winner, facts_of, finalists, mean_key, repeats_of
from tintype.tuning.budget import FINALISTS
from tintype.tuning.closing import FEWEST_TRAINING_IMAGES, Closing, measure_closing
from tintype.tuning.score import Failed
from tintype.tuning.search import CLOSED, ENDED, LATE_SHARE, Search
from tintype.tuning.storage import Queued
from tintype.tuning.trainer import Trained
from tintype.watch import Watch

FINAL = "final"
"""Attribute of a study: what became of the winner's last training."""


@dataclass(frozen=True)
class Ended:
    """A search that has its winner.

    Attributes:
        winner: The candidate that was chosen.
        selection: What its validation accuracy is worth.
        final: Its last training, as facts of a trial; empty where its weights of before were better, or its training is
            repeated exactly.
        note: What was done for the final model, in one sentence.
    """

    winner: Entry
    selection: Selection | None
    final: Mapping[str, Any]
    note: str


def repeat_finalists(search: Search) -> None:
    """Train the best candidates again with another seed, with all workers, and wait for all that still train.

    One that is alone ahead needs no repeat to be chosen; its time is better spent on its last training.
    """
    search.ledger.set_attribute(CLOSED, True)
    schedule = search.schedule
    is_endless = schedule.ends == float("inf")
    # A candidate that took longer than the search has cost its finalists time, and not the winner's last training.
    later = max(schedule.final, search.extra if search.has_stepped else 0.0)
    search.until = schedule.ends if is_endless or search.heads_lead() else schedule.ends - later
    entries = search.entries()
    best = finalists(entries, FINALISTS)
    fitting = [entry for entry in best if entry.facts["seconds"] <= search.time_left()]
    seed = search.trainer.base.seed + 1
    # Without the leader's own repeat the others' would decide without it.
    for entry in fitting if len(fitting) > 1 and fitting[0] is best[0] else ():
        is_there = any(item.role == "repeat" and item.facts.get("repeat_of") == entry.number for item in entries)
        if entry.is_seeded and not is_there:
            asked = {"role": "repeat", "repeat_of": entry.number, "seed": seed, "settings": entry.facts["settings"]}
            search.ledger.enqueue(Queued({}, asked))
    last = search.schedule.stages[-1].seconds
    search.do_waiting(lambda: search.time_left() > last * search.trainer.slowness)


def judge(entries: list[Entry], winner: Entry) -> Selection | None:
    """The winner's curse, over all candidates that went through to the end; None with fewer than two."""
    trained = [(item, item.number) for item in entries if item.competes]
    if len(trained) < 2:
        return None
    trained += [(item, entry.number) for entry, _ in list(trained) for item in repeats_of(entries, entry.number)]
    images = winner.facts["images"]
    fitting = [(item.right, number) for item, number in trained if item.facts["images"] == images]
    return judge_selection(
        np.stack([right for right, _ in fitting]), [number for _, number in fitting], chosen=winner.number
    )


def finish(search: Search) -> Ended | None:
    """Choose the winner, train it for what is left of the time, test it once, and write its run directory.

    Args:
        search: That has ended, its finalists repeated.

    Returns:
        The winner; None where no candidate could be trained.
    """
    entries = search.entries()
    winner = choose_winner(entries)
    if winner is None:
        return None
    longest = _worth_training_longer(search, entries, winner)
    closing = measure_closing(search.trainer, (longest or winner).facts["changes"])
    trained = _train_longer(search, longest, closing) if longest is not None else None
    is_better = isinstance(trained, Trained) and _is_better(trained, entries, winner)
    if longest is not None and is_better:
        winner = longest
    selection = judge(entries, winner)
    kept = search.folder.kept(winner.number)
    final: dict[str, Any] = {}
    again: LearntBefore | None = None
    if isinstance(trained, Trained) and longest is winner and (kept is None or is_better):
        changes, again = trained.changes, _learnt_again(trained)
        final = facts_of(trained.score, len(search.schedule.stages), changes, search.clock.seconds)
        note = f"trained anew for {trained.score.epochs:.3g} epochs with the time that was left"
    else:
        changes = dict(winner.facts["changes"])
        if kept is not None:
            again = _kept_again(*kept)
        note = "the weights of its trial" if kept is not None else "its trial's training, made again"
        if isinstance(trained, Trained) and longest is not None:
            of = "" if longest is winner else f" of trial {longest.number}"
            note += f", since a longer training{of} was no better on the validation images"
    left = search.schedule.closes - search.clock.seconds
    write_best(search, changes, again, closing.training_images(left), with_test=True)
    search.ledger.set_attribute(FINAL, final)
    search.ledger.set_attribute(ENDED, winner.number)
    return Ended(winner, selection, final, note)


def _worth_training_longer(search: Search, entries: list[Entry], winner: Entry) -> Entry | None:
    """What gets the time that is left: the winner, or where its training would be the same again, what is near it.

    A head has learnt all that it can in seconds, where a network that trains on has only begun.
    """
    if _trains_in_steps(search, winner):
        return winner
    near = [
        item
        for item in entries
        if item.competes and _trains_in_steps(search, item) and item.interval.high >= winner.interval.low
    ]
    return max(near, key=lambda item: mean_key(entries, item), default=None)


def _train_longer(search: Search, winner: Entry, closing: Closing) -> Trained | Failed | None:
    """A candidate's last training; None where there is no time for more than it had."""
    schedule, trainer = search.schedule, search.trainer
    ends = schedule.closes - closing.planned(schedule.budget) * trainer.slowness

    def left() -> float:
        return ends - search.clock.seconds

    # What the finalists have left over is the winner's as well.
    seconds = min(left(), schedule.final + schedule.repeats) / trainer.lateness
    if seconds <= winner.facts["seconds"]:
        return None
    trainer.watch.on_message(f"trial {winner.number}: its last training, {seconds:.0f} s")
    return trainer.train(
        winner.facts["settings"], seconds, should_finish=lambda: left() <= 0,
        is_too_late=lambda: left() <= -LATE_SHARE * schedule.ends,
    )  # fmt: skip


def _trains_in_steps(search: Search, winner: Entry) -> bool:
    config = search.trainer.base.replace(winner.facts["changes"])
    return winner.is_seeded and config.heads is None


def _is_better(trained: Trained, entries: list[Entry], winner: Entry) -> bool:
    """Whether the last training is at least as good as the candidate was on average."""
    return (trained.score.accuracy, -trained.score.loss) >= mean_key(entries, winner)


def _learnt_again(trained: Trained) -> LearntBefore:
    """Puts what was learnt into a network that is built anew."""
    state, learnt = trained.built.network.state_dict(), trained.learnt

    def again(built: Built, _data: Prepared) -> Learnt:
        built.network.load_state_dict(state)
        built.network.eval()
        return replace(learnt, fitted=replace(learnt.fitted, network=built.trained))

    return again


def _kept_again(weights: Path, history: tuple[EpochRecord, ...], kept_epoch: int) -> LearntBefore:
    """Puts kept weights into a network that is built anew."""

    def again(built: Built, data: Prepared) -> Learnt:
        config = built.plan.config
        load_weights(built.network, weights)
        built.network.eval()
        inputs = trained_inputs(built.cut, data, config, built.runtime, Watch())
        fitted = Fitted(built.trained, history, kept_epoch, config.fit.micro_batch or 0, stopped_early=False)
        return Learnt(fitted, inputs)

    return again


def write_best(
    search: Search, changes: Mapping[str, Any], again: LearntBefore | None, training_images: int, *, with_test: bool
) -> None:
    """Write the run directory of the best model.

    Args:
        search: Of whose images.
        changes: The model's settings, by dotted name.
        again: Gives what was learnt before; None trains.
        training_images: Most of them that are classified.
        with_test: Classify the test images; otherwise the model is judged on the validation images.
    """
    data = search.trainer.prepared(changes, with_test=with_test)
    search.folder.clear_best()
    watch = Watch(on_progress=search.trainer.watch.on_progress)
    try:
        make_run(data, search.folder.best, watch, time.monotonic(), again, training_images)
    except (RunInterrupted, KeyboardInterrupt):
        search.folder.clear_best()
        raise


def hand_over(search: Search) -> bool:
    """Leave the best model so far where a search was stopped; the test images stay unread.

    Returns:
        False where there is none.
    """
    entries = search.entries()
    winner = choose_winner(entries)
    if winner is None:
        return False
    kept = search.folder.kept(winner.number)
    if kept is None and _trains_in_steps(search, winner):
        return False  # its weights are with another worker
    changes = {**winner.facts["changes"], "evidence.baselines": False, "evidence.attention": False}
    write_best(search, changes, _kept_again(*kept) if kept else None, FEWEST_TRAINING_IMAGES, with_test=False)
    return True

"""Who gets the last training, and what it takes to win by it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from tintype.config import RunConfig
from tintype.tuning import finish as module
from tintype.tuning.book import Entry
from tintype.tuning.budget import Schedule, make_schedule
from tintype.tuning.closing import Closing
from tintype.tuning.finish import Ended, finish, repeat_finalists
from tintype.tuning.score import Failed, Score
from tintype.tuning.storage import Queued
from tintype.tuning.trainer import Trained

IMAGES = 1000
HEAD = {"heads.learning_rate": (0.01,), "model.backbone": "resnet20", "model.freeze": "all"}


def right(accuracy: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.arange(IMAGES) < round(accuracy * IMAGES)


def entry(number: int, accuracy: float, changes: dict[str, Any]) -> Entry:
    bits = base64.b64encode(np.packbits(right(accuracy)).tobytes()).decode("ascii")
    facts = {
        "accuracy": accuracy, "loss": 1 - accuracy, "images": IMAGES, "right": bits, "changes": changes, "seconds": 9.0,
    }  # fmt: skip
    return Entry(number, "search", "complete", facts, "")


def ended(
    monkeypatch: pytest.MonkeyPatch, entries: list[Entry], outcome: float | None, *, is_kept: bool = True
) -> tuple[Ended, list[int], dict[str, Any]]:
    """What becomes of a search, whose last training reaches so much; who got it; and what was written."""
    longer: list[int] = []
    written: dict[str, Any] = {}

    def train_longer(_search: Any, winner: Entry, _closing: Closing) -> Trained | Failed:
        longer.append(winner.number)
        if outcome is None:
            return Failed("the time was up")
        score = Score(outcome, 1 - outcome, right(outcome), 50.0, 10, 4.0, 32)
        built: Any = SimpleNamespace(network=nn.Linear(1, 1), trained=None)
        return Trained(score, {"fit.epochs": 4}, None, built, SimpleNamespace())  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_train_longer", train_longer)
    monkeypatch.setattr(module, "measure_closing", lambda *_: Closing(0.1, 500, 3000))
    monkeypatch.setattr(module, "write_best", lambda _search, changes, *_, **__: written.update(changes))
    search: Any = SimpleNamespace(
        entries=lambda: entries,
        trainer=SimpleNamespace(base=RunConfig()),
        folder=SimpleNamespace(kept=lambda _: ("weights", (), 0) if is_kept else None),
        schedule=SimpleNamespace(stages=(1, 2, 3), closes=600.0),
        clock=SimpleNamespace(seconds=100.0),
        ledger=SimpleNamespace(set_attribute=lambda *_: None),
    )
    found = finish(search)
    assert found is not None
    return found, longer, written


HEADS_AND_NETWORK = [entry(0, 0.85, HEAD), entry(1, 0.845, {"fit.epochs": 1}), entry(2, 0.6, {"fit.epochs": 2})]


def test_a_network_near_the_head_that_leads_trains_on_and_wins_where_it_gets_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, longer, written = ended(monkeypatch, HEADS_AND_NETWORK, 0.89, is_kept=False)
    assert longer == [1]
    assert found.winner.number == 1
    assert found.final["accuracy"] == 0.89
    assert found.note == "trained anew for 4 epochs with the time that was left"
    assert written == {"fit.epochs": 4}


def test_it_does_not_win_where_it_gets_no_better(monkeypatch: pytest.MonkeyPatch) -> None:
    found, longer, written = ended(monkeypatch, HEADS_AND_NETWORK, 0.846, is_kept=False)
    assert longer == [1]
    assert found.winner.number == 0
    assert found.final == {}
    assert found.note.endswith("since a longer training of trial 1 was no better on the validation images")
    assert written == HEAD


def test_what_is_far_behind_a_head_gets_no_last_training(monkeypatch: pytest.MonkeyPatch) -> None:
    found, longer, written = ended(monkeypatch, [entry(0, 0.85, HEAD), entry(1, 0.7, {"fit.epochs": 1})], 0.99)
    assert longer == []
    assert found.winner.number == 0
    assert written == HEAD


@pytest.mark.parametrize(("outcome", "epochs"), [(0.9, 4), (0.7, 1), (None, 1)])
def test_a_winner_that_trains_in_steps_keeps_its_weights_where_more_was_no_better(
    monkeypatch: pytest.MonkeyPatch, outcome: float | None, epochs: int
) -> None:
    entries = [entry(0, 0.85, {"fit.epochs": 1}), entry(1, 0.8, HEAD)]
    found, longer, written = ended(monkeypatch, entries, outcome)
    assert (longer, found.winner.number) == ([0], 0)
    assert written == {"fit.epochs": epochs}


def repeated(
    schedule: Schedule, now: float, seconds: Sequence[float], *, heads_lead: bool, extra: float = 0.0
) -> tuple[list[int], float]:
    """Which of a few like candidates are trained again at such a time, and until when; each took so many seconds."""
    entries = [entry(number, 0.85 - number / 100, {"fit.epochs": 1}) for number in range(len(seconds))]
    asked: list[int] = []

    def enqueue(queued: Queued) -> None:
        asked.append(queued.attributes["repeat_of"])

    for item, spent in zip(entries, seconds, strict=True):
        item.facts.update(settings={}, seconds=spent)  # type: ignore[attr-defined]
    search: Any = SimpleNamespace(
        schedule=schedule, clock=SimpleNamespace(seconds=now), entries=lambda: entries, until=None,
        trainer=SimpleNamespace(base=RunConfig(), slowness=1.0), do_waiting=lambda _: None,
        ledger=SimpleNamespace(set_attribute=lambda *_: None, enqueue=enqueue), heads_lead=lambda: heads_lead,
        extra=extra, has_stepped=extra > 0,
    )  # fmt: skip
    search.time_left = lambda: search.until - now
    repeat_finalists(search)
    return asked, search.until


@pytest.mark.parametrize("heads_lead", [False, True])
@pytest.mark.parametrize("now", [200.0, 270.0])
def test_finalists_take_nothing_of_a_last_training_that_is_to_come(now: float, *, heads_lead: bool) -> None:
    schedule = make_schedule(600, 1e9, 10.0)
    asked, until = repeated(schedule, now, [9.0, 9.0], heads_lead=heads_lead)
    assert asked == [0, 1]
    assert until == pytest.approx(590.0 if heads_lead else schedule.search_ends + schedule.repeats)
    assert schedule.search_ends + schedule.repeats == pytest.approx(590.0 - schedule.final)


def test_only_what_fits_is_trained_again_and_nothing_where_the_leader_does_not() -> None:
    schedule = make_schedule(600, 1e9, 10.0)
    now = schedule.search_ends
    assert repeated(schedule, now, [9.0, 1e3, 9.0], heads_lead=False)[0] == [0, 2]
    assert repeated(schedule, now, [1e3, 9.0, 9.0], heads_lead=False)[0] == [], "it would lose for want of a repeat"
    assert repeated(schedule, now, [9.0, 1e3], heads_lead=False)[0] == []


def test_repeats_leave_the_time_in_which_a_fine_tuned_winner_is_judged() -> None:
    schedule = make_schedule(120, None, 4.0)
    assert schedule.final < 30.0
    _, until = repeated(schedule, 50.0, [5.0, 5.0], heads_lead=False, extra=30.0)
    assert until == pytest.approx(120.0 - 4.0 - 30.0)

"""Which time a search takes for what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tintype.tuning.book import Entry
from tintype.tuning.budget import Clock, make_schedule
from tintype.tuning.score import Failed, Score
from tintype.tuning.search import Search
from tintype.tuning.space import Candidate
from tintype.tuning.trainer import SLOW
from tintype.tuning.transferspace import TransferSpace
from tintype.watch import Watch


def score(accuracy: float) -> Score:
    return Score(accuracy, 1 - accuracy, np.arange(1000) < 1000 * accuracy, 1.0, 10, 1.0, 28)


def made(trained: list[Any] | None = None, **ledger: Any) -> Search:
    now = [0.0]
    trainer: Any = SimpleNamespace(prepared=None, watch=Watch(), slowness=1.0)
    trainer.full_size = lambda changes: None
    trainer.train = lambda changes, seconds, **_: trained.pop(0)(seconds) if trained else None
    told: Any = SimpleNamespace(trials=list, attributes={}, note=lambda *_, **__: True, **ledger)
    space = TransferSpace(("resnet20",), 400, (), "they have weights here")
    schedule = make_schedule(600, None, 20.0)
    folder: Any = SimpleNamespace()
    return Search(trainer, space, told, schedule, Clock(0.0, 0.0, lambda: now[0]), folder, None, lambda: None)


def test_the_time_of_a_last_training_is_for_the_search_where_heads_leave_all_else_behind() -> None:
    search = made()
    assert search.time_left() == search.schedule.ends  # nothing is there yet to be handed over
    search.extra = 3.0
    search._note_leader(score(0.8), trains_in_steps=True)
    assert search.time_left() == search.schedule.ends - 3.0  # whether heads lead is not known yet
    search._note_leader(score(0.81), trains_in_steps=False)
    assert search.time_left() == search.schedule.search_ends - 3.0
    search._note_leader(score(0.9), trains_in_steps=False)
    longer = search.schedule.ends - search.schedule.repeats - search.schedule.closing
    assert search.schedule.search_ends < longer < search.schedule.ends
    assert search.time_left() == pytest.approx(longer)
    search._note_leader(score(0.85), trains_in_steps=True)  # too little
    assert search.time_left() == pytest.approx(longer)
    search._note_leader(score(0.88), trains_in_steps=True)  # a longer training may put it ahead
    assert search.time_left() == search.schedule.search_ends - 3.0
    search.until = 42.0
    assert search.time_left() == 42.0


def test_what_is_too_slow_for_a_stage_is_not_built_again_for_one_that_is_too_short_as_well() -> None:
    asked: list[float] = []
    told: list[dict[str, Any]] = []
    needs = 0.0

    def too_slow(seconds: float) -> Failed:
        asked.append(seconds)
        return Failed("too slow: a step takes 2 s", is_slow=True, needs=needs)

    search = made([too_slow, too_slow, too_slow], tell=lambda trial, **what: told.append(what))
    search._note_leader(score(0.8), trains_in_steps=True)
    stages = search.schedule.stages
    trial: Any = SimpleNamespace(user_attrs={}, number=7)
    needs = SLOW * stages[1].seconds + 0.1
    search._through_stages(trial, {}, stages)
    assert asked == [stages[0].seconds, stages[2].seconds]
    assert told == [{"pruned": True}]


@pytest.mark.parametrize("kinds", [("", "one"), ("two", ""), ("", "")])
def test_heads_that_were_asked_for_come_before_what_takes_longer(kinds: tuple[str, str]) -> None:
    done: list[str] = []
    search = made(ask=lambda count=1, **_: [SimpleNamespace(user_attrs={}, number=0, params={})] * count)
    candidates = iter(
        [Candidate({"model.backbone": "resnet20", "fit.views": 1}, "one"), *(Candidate({}, kind) for kind in kinds)]
    )
    search.wanted = 3
    search._drawn_candidate = lambda trial: next(candidates)  # type: ignore[method-assign]
    search._score_heads = lambda batch: done.append(batch[0][1].features)  # type: ignore[method-assign]
    search.do = lambda trial: done.append("")  # type: ignore[method-assign]
    search._heads_turn()
    assert done == sorted({"one", *kinds} - {""}) + [""] * kinds.count("")


def test_a_backbone_is_fine_tuned_only_where_there_is_time_to_judge_it() -> None:
    said: list[str] = []
    search = made(tell=lambda *_, **__: said.append("pruned"))
    search.ledger.note = lambda trial, **what: said.append(what["cause"])  # type: ignore[assignment, method-assign]
    search._drawn_candidate = lambda trial: Candidate({"model.backbone": "resnet20"})  # type: ignore[method-assign]
    search._through_stages = lambda *_: said.append("trained")  # type: ignore[method-assign]
    search.extra = 40.0
    search._note_leader(score(0.8), trains_in_steps=False)
    search.clock = Clock(search.schedule.search_ends - 41.0, 0.0, lambda: 0.0)
    trial: Any = SimpleNamespace(user_attrs={}, number=7)
    assert search.time_left() > 41.0, "heads alone lead, and what is left is theirs"
    search.do(trial)
    assert said == ["no time left to train and to judge it", "pruned"]
    search.clock = Clock(search.schedule.search_ends - 41.0 - search.schedule.stages[0].seconds, 0.0, lambda: 0.0)
    assert search.time_left() == pytest.approx(41.0 + search.schedule.stages[0].seconds)
    search.do(trial)
    assert said.pop() == "trained"
    assert search.time_left() == pytest.approx(1.0 + search.schedule.stages[0].seconds), "it must be judged, too"
    search._note_leader(score(0.5), trains_in_steps=True)
    assert search.time_left() > 41.0, "it was left behind, and will not be judged"


@pytest.mark.parametrize(("is_dear", "what"), [(False, "fine-tuning"), (True, "head")])
def test_a_backbone_that_takes_too_long_to_be_judged_has_only_heads(what: str, *, is_dear: bool) -> None:
    asked: list[dict[str, Any]] = []

    def ask(count: int = 1, **wanted: Any) -> list[Any]:
        asked.append(wanted)
        return []

    told: list[dict[str, Any]] = []
    search = made(ask=ask, tell=lambda trial, **what: told.append(what))
    search.dear = {"resnet20": "judging it would take 90 of 60 s"} if is_dear else {}
    search._drawn_candidate = lambda trial: Candidate({"model.backbone": "resnet20"})  # type: ignore[method-assign]
    search._through_stages = lambda *_: told.append({"trained": True})  # type: ignore[method-assign]
    search.do(SimpleNamespace(user_attrs={}, number=7))  # type: ignore[arg-type]
    assert told == [{"pruned": True} if is_dear else {"trained": True}]
    search.idle_batches = 99
    with pytest.raises(IndexError):
        search.turn()
    assert asked == [{"fixed": {"what": what, "model.backbone": "resnet20"}}]


def test_a_backbone_that_is_far_behind_is_not_fine_tuned() -> None:
    noted: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []

    def ask(count: int = 1, **wanted: Any) -> list[Any]:
        told.append(wanted)
        return []

    search = made(ask=ask, tell=lambda trial, **what: told.append(what))
    search.ledger.note = lambda trial, **what: noted.append(what)  # type: ignore[assignment, method-assign]
    search.space = TransferSpace(("resnet20", "resnet32"), 400, (), "they have weights here")
    heads = [
        Entry(number, "search", "complete", {"accuracy": accuracy, "loss": 1.0, "images": 1000, "settings": {
            "model.freeze": "all", "model.backbone": backbone}}, "")
        for number, (backbone, accuracy) in enumerate([("resnet20", 0.5), ("resnet32", 0.9)])
    ]  # fmt: skip
    search.entries = lambda: heads  # type: ignore[method-assign]
    search._drawn_candidate = lambda trial: Candidate({"model.backbone": "resnet20"})  # type: ignore[method-assign]
    search._through_stages = lambda *_: pytest.fail("it was trained")  # type: ignore[method-assign]
    trial: Any = SimpleNamespace(user_attrs={}, number=7)
    search.do(trial)
    assert told.pop() == {"pruned": True}
    assert noted[-1]["cause"] == "heads on it are wrong on 50.0%, those on resnet32 on 10.0%"
    search.idle_batches = 99
    with pytest.raises(IndexError):
        search.turn()
    assert told == [{"fixed": {"what": "fine-tuning", "model.backbone": "resnet32"}}]

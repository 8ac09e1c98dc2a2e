"""What is known of a trial, and who wins."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.report.tunefile import TrialRole, TrialState
from tintype.tuning.book import Entry, choose_winner, facts_of, far_behind, finalists, mean_key
from tintype.tuning.score import Score


def entry(
    number: int, accuracy: float, role: TrialRole = "search", state: TrialState = "complete", **facts: Any
) -> Entry:
    content = {"accuracy": accuracy, "loss": 1 - accuracy, "images": 100, **facts}
    return Entry(number, role, state, content, "")


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_which_images_were_right_survives_the_storage(right: list[bool]) -> None:
    score = Score(0.5, 0.7, np.array(right), 1.0, 10, 1.0, 28)
    facts = json.loads(json.dumps(facts_of(score, 3, {"fit.epochs": 2}, 12.0)))
    found = Entry(0, "search", "complete", facts, "")
    assert found.right.tolist() == right
    row = found.row()
    assert row.accuracy is not None
    assert row.accuracy.n == len(right)
    assert (row.stage, row.epochs, row.ended) == (3, 1.0, 12.0)


def test_a_lucky_seed_does_not_win_against_a_mean() -> None:
    entries = [
        entry(0, 0.90, "default"),
        entry(1, 0.95),
        entry(2, 0.94),
        entry(3, 0.99, state="pruned"),
        entry(4, 0.85, "repeat", repeat_of=1),
        entry(5, 0.93, "repeat", repeat_of=2),
    ]
    winner = choose_winner(entries)
    assert winner is not None
    assert winner.number == 2
    assert mean_key(entries, winner)[0] == pytest.approx((0.94 + 0.93) / 2)


def test_what_no_seed_changes_competes_without_a_repeat() -> None:
    entries = [entry(0, 0.97, "logistic", is_seeded=False), entry(1, 0.98), entry(2, 0.90, "repeat", repeat_of=1)]
    winner = choose_winner(entries)
    assert winner is not None
    assert winner.number == 0


def test_of_equal_accuracies_the_lower_loss_is_better() -> None:
    entries = [entry(0, 0.9, loss=0.5), entry(1, 0.9, loss=0.2), entry(2, 0.8, loss=0.1)]
    assert [item.number for item in finalists(entries, 2)] == [1, 0]


def head(number: int, accuracy: float, backbone: str, images: int = 1000) -> Entry:
    settings = {"model.freeze": "all", "model.backbone": backbone}
    return entry(number, accuracy, images=images, settings=settings)


def test_a_backbone_whose_heads_make_more_than_twice_the_errors_is_not_worth_fine_tuning() -> None:
    others = [entry(8, 0.2, settings={"model.backbone": "c"}), entry(9, 0.1)]  # these are no heads
    entries = [head(0, 0.85, "a"), head(1, 0.4, "b"), head(2, 0.45, "b"), head(3, 0.75, "c"), *others]
    assert far_behind(entries) == {"b": "heads on it are wrong on 55.0%, those on a on 15.0%"}
    assert far_behind([*entries, head(4, 0.8, "b")]) == {}
    assert far_behind([replace(item, state="pruned") for item in entries]) == far_behind(entries), (
        "they learnt the same"
    )
    untrained = Entry(5, "search", "failed", {"settings": entries[0].facts["settings"]}, "out of memory")
    assert far_behind([*entries, untrained]) == far_behind(entries)
    assert far_behind([head(0, 0.9, "a", images=20), head(1, 0.7, "b", images=20)]) == {}, "20 images say little"
    assert far_behind(others) == {}


def test_what_is_far_behind_is_no_finalist() -> None:
    entries = [entry(0, 0.9, images=1000), entry(1, 0.5, images=1000), entry(2, 0.89, images=1000)]
    assert [item.number for item in finalists(entries, 3)] == [0, 2]
    few = [entry(0, 0.9, images=10), entry(1, 0.5, images=10)]  # of which 10 images say nothing
    assert [item.number for item in finalists(few, 3)] == [0, 1]


def test_nothing_finished_is_no_winner() -> None:
    assert choose_winner([entry(0, 0.9, state="pruned"), entry(1, 0.9, "repeat", repeat_of=0)]) is None

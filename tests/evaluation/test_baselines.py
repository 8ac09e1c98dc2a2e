"""What shortcuts say of a network: intervals, and the findings that follow from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from tintype.evaluation.baselines import Answered, Baselines, baseline_findings, baselines_of, judge_baselines
from tintype.evaluation.stats import mcnemar, wilson
from tintype.records import to_plain


def right(share: float, n: int, seed: int, like: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Exactly so many right answers; with ``like`` those of another first."""
    random = np.random.default_rng(seed).random(n)
    order = np.argsort(random if like is None else random - 2.0 * like)
    answers = np.zeros(n, np.bool_)
    answers[order[: round(share * n)]] = True
    return answers


def beside(network: float, shortcuts: dict[str, float], n: int, majority: float = 0.5) -> Baselines:
    of_network = right(network, n, 0)
    answers = [Answered("majority", "nothing, and answers the most frequent class", right(majority, n, 1))]
    answers += [
        Answered(name, f"the {name}", right(share, n, 2 + number, of_network))
        for number, (name, share) in enumerate(shortcuts.items())
    ]
    accuracy, above, rows = judge_baselines(of_network, answers)
    return Baselines("test", accuracy, above, rows, n, n, 2 * n, 2 * n, (), 0.1)


def test_figures_are_those_of_the_paired_answers() -> None:
    found = beside(0.9, {"colours": 0.7}, 200)
    assert found.network == wilson(180, 200)
    row = found.rows[1]
    assert row.accuracy == wilson(140, 200)
    assert row.advantage.value == pytest.approx(0.2)
    assert row.p == pytest.approx(mcnemar(40, 0))  # the shortcut's right answers are among the network's
    assert found.best is row
    assert found.rows[0].above_majority is None


def codes(found: Baselines) -> list[tuple[str, str]]:
    return [(item.code, item.severity) for item in baseline_findings(found)]


def test_a_network_far_above_every_shortcut_is_no_finding() -> None:
    assert codes(beside(0.99, {"colours": 0.62, "blurred": 0.6, "border": 0.55}, 1000)) == []
    assert codes(beside(0.99, {"colours": 0.3, "blurred": 0.92, "border": 0.5}, 1000, majority=0.11)) == []


def test_a_network_that_cannot_be_told_from_colours_is_a_warning_that_names_them() -> None:
    found = beside(0.91, {"colours": 0.9, "border": 0.6}, 400)
    assert codes(found) == [("hardly-better-than-shortcut", "warning")]
    (finding,) = baseline_findings(found)
    assert "cannot be told from" in finding.title
    assert "the colours" in finding.title
    assert "400 test images" in finding.title
    assert "+1.0 points" in finding.title


def test_a_border_that_gives_the_class_away_is_critical() -> None:
    found = beside(0.96, {"colours": 0.6, "border": 0.96}, 400)
    assert codes(found) == [("hardly-better-than-shortcut", "critical")]
    assert "mask the borders" in baseline_findings(found)[0].remedy
    also = beside(0.96, {"blurred": 0.97, "border": 0.96}, 400)
    assert codes(also) == [("hardly-better-than-shortcut", "critical")]


def test_of_two_rivals_the_better_one_is_named() -> None:
    found = beside(0.94, {"border": 0.83, "blurred": 1.0}, 18)
    assert codes(found) == [("hardly-better-than-shortcut", "warning")]
    assert "the blurred alone (100.0 %)" in baseline_findings(found)[0].title


def test_a_sure_but_small_advantage_is_a_warning() -> None:
    found = beside(0.93, {"border": 0.915}, 4000)
    assert found.rows[1].advantage.low > 0
    assert codes(found) == [("hardly-better-than-shortcut", "warning")]
    assert "is hardly better than" in baseline_findings(found)[0].title


def test_a_network_that_is_the_majority_class_has_learnt_nothing() -> None:
    assert codes(beside(0.7, {"colours": 0.7}, 300, majority=0.7)) == [("no-better-than-majority", "critical")]
    assert codes(beside(0.62, {"colours": 0.5}, 60, majority=0.5)) == [("no-better-than-majority", "warning")]


def test_shortcuts_that_are_no_better_than_the_majority_say_nothing() -> None:
    # 51 % is not known to be more than 50 %, so that the colours are not known to be a shortcut at all.
    found = beside(0.62, {"colours": 0.51}, 400)
    assert codes(found) == []


def test_the_file_holds_all_of_it() -> None:
    found = beside(0.9, {"colours": 0.7, "border": 0.6}, 100)
    assert baselines_of(json.loads(json.dumps(to_plain(found)))) == found

"""The section on withheld answers: what its sentences claim, and that its markup is the report's own."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from tintype.evaluation.abstention import Abstention, choose_threshold, judge_threshold
from tintype.evaluation.stats import wilson
from tintype.records import Interval, Predictions, SplitName, to_plain
from tintype.report.abstention import AbstentionView, abstention_view
from tintype.report.html import _environment


def draw(split: SplitName, n: int, seed: int, shape: float = 3.0) -> Predictions:
    random = np.random.default_rng(seed)
    sure = 0.5 + 0.5 * random.beta(shape, 1, n)
    labels = (random.random(n) > sure).astype(np.int64)
    probabilities = np.stack([sure, 1 - sure], axis=1).astype(np.float32)
    return Predictions(split, ("a", "b"), tuple(map(str, range(n))), labels, probabilities)


def content_of(chosen: Abstention | None, test: Abstention | None) -> dict[str, Any]:
    """What a run directory holds, as it is read back."""
    content: dict[str, Any] = json.loads(json.dumps(to_plain({"chosen": chosen, "test": test})))
    return content


def view_of(chosen: Abstention | None, test: Abstention | None) -> AbstentionView:
    view = abstention_view(content_of(chosen, test))
    assert view is not None
    return view


def words(text: str) -> str:
    return text.replace("\u00a0", " ")


def with_figures(answered: int, wrong: int, n: int, wanted: float = 0.05, threshold: float = 0.8) -> Abstention:
    chosen = choose_threshold(draw("validation", 300, 1), wanted)
    coverage, error_rate = wilson(answered, n), wilson(wrong, answered)
    return Abstention(threshold, wanted, coverage, error_rate, n, chosen.curve)


def test_the_sentence_has_both_shares_with_their_intervals() -> None:
    chosen = choose_threshold(draw("validation", 400, 1), 0.05)
    test = judge_threshold(chosen, draw("test", 1000, 2))
    view = view_of(chosen, test)

    def shown(interval: Interval) -> str:
        return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f} %)"

    withheld = Interval(1 - test.coverage.value, 1 - test.coverage.high, 1 - test.coverage.low, 1000)
    assert words(view.lead) == (
        f"Withholding its answer on {shown(withheld)} of 1,000 test images, the model is wrong on "
        f"{shown(test.error_rate)} of the others."
    )
    facts = dict(view.facts)
    assert words(facts["Wrong, of all test images"]).startswith(f"{100 * test.curve[-1].error_rate:.1f} % (")
    assert facts["Threshold"] == f"{chosen.threshold:.3f}"
    assert view.chart.legend == (("validation", "test"), ("train", "validation"))
    assert 'class="kept"' in view.chart.svg


@pytest.mark.parametrize(
    ("wrong", "claim"),
    [(150, "more than the 5.0 % that was wanted"), (46, "leaves open whether"), (2, "the whole interval is below")],
)
def test_it_says_whether_the_wanted_rate_is_reached(wrong: int, claim: str) -> None:
    assert claim in words(view_of(None, with_figures(900, wrong, 1000)).remark)


def test_without_test_images_the_flattery_is_named() -> None:
    view = view_of(choose_threshold(draw("validation", 400, 1), 0.05), None)
    assert "validation images" in words(view.lead)
    assert "flatters" in view.remark
    assert view.chart.legend == ()


def test_without_a_threshold_the_reason_is_given_and_none_is_drawn() -> None:
    chosen = choose_threshold(draw("validation", 30, 1), 0.05)
    view = view_of(chosen, judge_threshold(chosen, draw("test", 100, 2)))
    assert "30 labelled validation images are too few" in view.remark
    assert "answers every image" in view.lead
    assert "none" in dict(view.facts)["Threshold"]
    assert 'class="kept"' not in view.chart.svg


def test_answering_everything_because_it_is_good_enough_is_no_failure() -> None:
    chosen = choose_threshold(draw("validation", 400, 1, shape=200.0), 0.05)
    assert (chosen.threshold, chosen.reason) == (0.0, "")
    view = view_of(chosen, judge_threshold(chosen, draw("test", 400, 2, shape=200.0)))
    assert view.remark.startswith("No answer is withheld")


def test_images_that_are_all_withheld_or_all_answered() -> None:
    assert "withholds its answer on all 100 test images" in words(view_of(None, with_figures(0, 0, 100)).lead)
    assert "on none of 100 test images" in words(view_of(None, with_figures(100, 3, 100)).lead)


@pytest.mark.parametrize("content", [{}, {"chosen": None, "test": None}])
def test_nothing_judged_is_no_section(content: dict[str, Any]) -> None:
    assert abstention_view(content) is None


def test_the_section_is_markup_without_styles_or_scripts() -> None:
    chosen = choose_threshold(draw("validation", 400, 1), 0.05)
    view = view_of(chosen, judge_threshold(chosen, draw("test", 1000, 2)))
    module: Any = _environment().get_template("abstention.html").module
    page = str(module.abstention_section(view))
    assert page.count('<section id="abstention">') == 1
    assert not re.search(r"style=|<script|&lt;svg", page)
    assert words(view.lead) in words(page)
    assert words(view.remark) in words(page)

"""Intervals hold the truth, tests keep quiet: small simulations by default, all sizes when asked for."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "interval_coverage.py"


@pytest.fixture(scope="module")
def simulation() -> Any:
    """The script that makes the tables of the documentation; it stands in no package."""
    spec = spec_from_file_location("interval_coverage", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["interval_coverage"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def slack(repeats: int) -> float:
    """Three standard errors of a share near 0.95 over so many test sets."""
    return 3 * float(np.sqrt(0.95 * 0.05 / repeats))


@pytest.mark.parametrize("n", [18, 36, 100, 360, 1_000, 10_000])
def test_wilson_covers_on_average(simulation: Any, n: int) -> None:
    mean, least = simulation.wilson_coverage(n, steps=401)
    assert 0.94 <= mean <= 0.97
    assert least > 0.83


def test_exact_coverage_is_what_a_simulation_gives(simulation: Any) -> None:
    mean, _ = simulation.wilson_coverage(36, 0.7, 0.9)
    random = np.random.default_rng(0)
    shares = random.uniform(0.7, 0.9, size=20_000)
    low, high = simulation.wilson_bounds(random.binomial(36, shares) / 36, 36)
    assert mean == pytest.approx(float(np.mean((low <= shares) & (shares <= high))), abs=0.007)


def test_intervals_of_metrics_cover(simulation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "TRUTH_IMAGES", 300_000)
    metrics = ["accuracy", "balanced_accuracy", "macro_f1", "loss", "auc"]
    true = simulation.truth(simulation.TWO, metrics)
    for n in (100, 1_000):
        found = simulation.coverage(simulation.TWO, n, metrics, simulation.closed_form, 200, true)
        assert all(0.93 - slack(200) <= share <= 0.97 + slack(200) for share in found.values()), (n, found)


@pytest.mark.parametrize(("name", "n"), [("FEW_MISTAKES", 360), ("TWO", 100)])
def test_the_calibration_error_of_an_underconfident_network_is_covered(
    simulation: Any, monkeypatch: pytest.MonkeyPatch, name: str, n: int
) -> None:
    monkeypatch.setattr(simulation, "TRUTH_IMAGES", 300_000)
    problem = getattr(simulation, name)
    true = simulation.truth(problem, ["ece"])
    assert true["ece"] > 0.07
    found = simulation.coverage(problem, n, ["ece"], simulation.calibration_alone, 200, true)
    assert found["ece"] >= 0.93 - slack(200)


def test_a_sharper_network_of_the_same_images_is_as_often_right(simulation: Any) -> None:
    problems = dict(simulation.CONFIDENCES)
    (plain,), (sharp,) = (
        simulation.draw(problems[f"92 % right, {name}"], 500, np.random.default_rng(0))
        for name in ("underconfident", "overconfident")
    )
    assert (plain.labels == sharp.labels).all()
    assert (plain.predicted == sharp.predicted).all()
    assert sharp.probabilities.max(axis=1).mean() > plain.probabilities.max(axis=1).mean() + 0.05


def test_made_up_scores_have_the_area_that_they_promise(simulation: Any) -> None:
    for name, scores in simulation.RANKINGS:
        predictions = simulation.ranked(scores, np.random.default_rng(0), 40_000, 20_000)
        assert (predictions.labels == 1).sum() == 40_000
        if "rounded" not in name and "misplaced" not in name:
            area = simulation.evaluate(predictions).metrics["auc"].value
            assert area == pytest.approx(float(name.split(", ")[-1]), abs=0.005), name


def test_rankings_with_a_long_tail_are_covered(simulation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of 100 positive images among 900 negative ones decide; then the same the other way round."""
    monkeypatch.setattr(simulation, "TRUTH_IMAGES", 400_000)
    scores = dict(simulation.RANKINGS)["exponential, 0.95"]
    for sizes in ((100, 900), (900, 100)):
        found = simulation.ranking_coverage(scores, *sizes, 300)
        assert found["auc"] >= 0.93 - slack(300), found
        assert found["average_precision"] >= 0.93 - slack(300), found


def test_drawn_intervals_cover(simulation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "TRUTH_IMAGES", 300_000)
    metrics = ("accuracy", "macro_f1", "loss", "auc")
    true = simulation.truth(simulation.TWO, metrics)
    again = simulation.drawn_again(metrics, stratified=False, resamples=500)
    found = simulation.coverage(simulation.TWO, 200, metrics, again, 200, true)
    assert all(0.92 - slack(200) <= share <= 0.97 + slack(200) for share in found.values()), found


def test_equal_networks_are_rarely_told_apart(simulation: Any) -> None:
    alarms, held = simulation.false_alarms(simulation.THREE, 100, ("macro_f1", "loss"), 200, swaps=200)
    assert all(share <= 0.05 + slack(200) for share in alarms.values()), alarms
    assert all(share >= 0.93 - slack(200) for share in held.values()), held


def test_holm_keeps_the_whole_family_quiet(simulation: Any) -> None:
    plain, adjusted = simulation.family_alarms(simulation.THREE, 360, 8, 400)
    assert adjusted <= 0.05 + slack(400)
    assert plain > 0.07  # why the adjustment is needed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["THREE", "TWO", "FEW_MISTAKES"])
@pytest.mark.parametrize("n", [18, 36, 100, 360, 1_000, 10_000])
def test_intervals_of_metrics_cover_at_every_size(simulation: Any, name: str, n: int) -> None:
    problem, repeats = getattr(simulation, name), 2_000 if n <= 1_000 else 500
    metrics = ["accuracy", "balanced_accuracy", "macro_f1", "loss"] + (["auc"] if len(problem.shares) == 2 else [])
    found = simulation.coverage(
        problem, n, metrics, simulation.closed_form, repeats, simulation.truth(problem, metrics)
    )
    for metric, share in found.items():
        # The area's interval is too wide near 1, never too narrow.
        most = 1.0 if metric == "auc" else 0.97
        assert 0.93 - slack(repeats) <= share <= most + slack(repeats), (metric, share)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(13))
def test_the_calibration_error_is_covered_at_every_size(simulation: Any, place: int) -> None:
    """Of honest, over- and underconfident networks; too often where there are too few images to tell them apart."""
    assert len(simulation.CONFIDENCES) == 13
    name, problem = simulation.CONFIDENCES[place]
    true = simulation.truth(problem, ["ece"])
    for n in simulation.SIZES:
        repeats = 1_000 if n <= 1_000 else 400
        share = simulation.coverage(problem, n, ["ece"], simulation.calibration_alone, repeats, true)["ece"]
        most = 1.0 if n <= 360 else 0.985
        assert 0.93 - slack(repeats) <= share <= most + slack(repeats), (name, n, share)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(11))
def test_rankings_are_covered_at_every_size(simulation: Any, place: int) -> None:
    assert len(simulation.RANKINGS) == 11
    name, scores = simulation.RANKINGS[place]
    for positives, negatives in simulation.RANKING_SIZES:
        found = simulation.ranking_coverage(scores, positives, negatives, 1_000)
        assert all(share >= 0.93 - slack(1_000) for share in found.values()), (name, positives, negatives, found)


@pytest.mark.slow
@pytest.mark.parametrize("n", [18, 36, 100, 360, 1_000])
def test_paired_tests_keep_their_level_at_every_size(simulation: Any, n: int) -> None:
    alarms, _ = simulation.false_alarms(simulation.THREE, n, ("balanced_accuracy", "macro_f1", "loss"), 1_000)
    assert all(share <= 0.05 + slack(1_000) for share in alarms.values()), alarms
    assert simulation.family_alarms(simulation.THREE, n, 5, 1_000)[1] <= 0.05 + slack(1_000)

"""The order of a study's runs, and the guess at their time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.config import RunConfig
from tintype.studies.order import levels, position, relative_costs, seconds_by_cost
from tintype.studies.plan import Axis, Study


def config(**settings: object) -> RunConfig:
    return RunConfig().replace({"data.source": "/data", **settings})


def labels_of_first_seed(study: Study) -> list[str]:
    return [request.point for request in study.requests() if request.seed == study.seeds[0]]


def test_the_ends_of_an_axis_come_before_its_middle() -> None:
    assert levels([1.0, 2.0, 3.0, 4.0, 5.0]) == (0, 2, 1, 2, 0)
    assert levels([100, 250, 1000, 10000, 60000]) == (0, 2, 1, 2, 0)
    assert levels([3.0, 1.0, 2.0]) == (0, 0, 1)
    assert levels([1.0, 2.0]) == (0, 0)
    assert levels([1.0, None, 3.0, 4.0]) == (0, 0, 0, 0)


@given(st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=40, unique=True))
def test_every_level_halves_the_gaps(values: list[float]) -> None:
    found = levels(values)
    ordered = [level for _, level in sorted(zip(values, found, strict=True))]
    assert ordered[0] == ordered[-1] == 0
    assert ordered.count(0) == 2
    for level in range(1, max(ordered) + 1):
        places = [number for number, item in enumerate(ordered) if item < level]
        gaps = [after - before for before, after in pairwise(places)]
        new = sum(item == level for item in ordered)
        assert new == sum(gap > 1 for gap in gaps)


def test_a_depth_of_all_is_beyond_every_number() -> None:
    assert position("all") == float("inf")
    assert position(3) == 3
    assert position(True) is None
    assert position("vgg16") is None


def test_a_sweep_begins_with_the_reference_and_the_ends_the_cheapest_first() -> None:
    sizes = tuple((str(size), size) for size in (1000, 100, 60000, 250, 10000))
    study = Study("s", "data size", config(), (Axis("data.train_images", "train_images", sizes),), (0, 1))
    labels = labels_of_first_seed(study)
    assert [label.split()[1] for label in labels] == ["1000", "100", "60000", "250", "10000"]
    seeds = [request.seed for request in study.requests()]
    assert seeds == [0] * 5 + [1] * 5
    told = Study("s", "data size", config(), study.axes, (0,), reference_name="train_images 10000")
    assert told.reference.settings == {"data.train_images": 10000}
    assert labels_of_first_seed(told)[:3] == ["train_images 10000", "train_images 100", "train_images 60000"]


def test_variants_of_known_cost_go_from_cheap_to_dear() -> None:
    variants = (("base", {"fit.epochs": 5}), ("long", {"fit.epochs": 50}), ("short", {"fit.epochs": 2}))
    study = Study("s", "ablation", config(), (Axis("variant", "variant", variants),), (0,))
    assert labels_of_first_seed(study) == ["base", "short", "long"]


def test_costs_follow_the_settings_that_all_runs_have() -> None:
    costs = relative_costs({"a": config(**{"fit.epochs": 2}), "b": config(**{"fit.epochs": 6, "data.fraction": 0.5})})
    assert costs["b"] / costs["a"] == pytest.approx(1.5)
    costs = relative_costs({"a": config(**{"fit.epochs": 2}), "b": config()})
    assert costs["a"] == costs["b"]
    steps = {"fit.steps_per_epoch": 10, "fit.batch_size": 4}
    costs = relative_costs(
        {"a": config(**steps, **{"data.train_images": 100}), "b": config(**steps, **{"data.train_images": 9000})}
    )
    assert costs["a"] == costs["b"]  # so many steps are taken, whatever there is
    costs = relative_costs({str(depth): config(**{"model.depth": depth}) for depth in (0, 5, "all")})
    assert costs["0"] < costs["5"] < costs["all"]


def test_the_time_of_dearer_runs_is_guessed_from_a_line() -> None:
    guess = seconds_by_cost([1, 10], [6, 15])
    assert guess(1) == pytest.approx(6)
    assert guess(100) == pytest.approx(105)
    assert guess(0) >= 5
    assert seconds_by_cost([2, 2], [4, 6])(99) == 5
    assert seconds_by_cost([1, 2], [9, 3])(100) == pytest.approx(6)  # dearer runs do not become free

"""What several ranks change in a recipe: nothing, unless the rate is to grow with them."""

from __future__ import annotations

from typing import Any

import pytest

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.planning import Plan, plan_ranks


def plan_of(**settings: Any) -> Plan:
    fit = {"batch_size": 64, "learning_rate": 0.01, "epochs": 40, "optimizer": "sgd"}
    config = RunConfig().replace({f"fit.{name}": value for name, value in fit.items()})
    return Plan(config.replace({name.replace("__", "."): value for name, value in settings.items()}), ())


def test_one_process_changes_nothing() -> None:
    plan = plan_of()
    assert plan_ranks(plan, 1, 1000) == plan


def test_a_batch_is_shared_and_the_rate_stays() -> None:
    planned = plan_ranks(plan_of(fit__batch_size=65), 2, 1000)
    assert planned.config == plan_of(fit__batch_size=65).config
    assert planned.choices[-1][:2] == ("ranks", "2")
    assert "65 images is shared, 32 or 33 each" in planned.choices[-1][2]


def test_the_linear_rule_multiplies_batch_and_rate_once() -> None:
    planned = plan_ranks(plan_of(parallel__scale_lr=True), 4, 1000)
    fit = planned.config.fit
    assert (fit.batch_size, fit.learning_rate, fit.warmup_epochs) == (256, 0.04, 5.0)
    again = plan_ranks(Plan(planned.config, ()), 4, 1000)
    assert again.config == planned.config, "what is written down repeats the run"


def test_a_short_training_warms_up_for_a_fifth_of_it_and_a_warm_up_that_was_set_stays() -> None:
    assert plan_ranks(plan_of(parallel__scale_lr=True, fit__epochs=10), 2, 1000).config.fit.warmup_epochs == 2.0
    settings = {"parallel__scale_lr": True, "fit__warmup_epochs": 3.0}
    assert plan_ranks(plan_of(**settings), 2, 1000).config.fit.warmup_epochs == 3.0


def test_a_rule_that_has_nothing_to_scale_is_said() -> None:
    planned = plan_ranks(plan_of(parallel__scale_lr=True), 1, 1000)
    assert planned.config == plan_of(parallel__scale_lr=True).config
    assert planned.choices[-1] == ("parallel.scale_lr", "not used", "there is a single process")


def test_fewer_images_than_ranks_are_refused() -> None:
    with pytest.raises(ConfigError, match="a step of 3 images cannot be shared by 4 ranks"):
        plan_ranks(plan_of(), 4, 3)


def test_an_output_layer_that_is_fitted_at_once_is_said() -> None:
    planned = plan_ranks(plan_of(fit__optimizer="lbfgs"), 2, 1000)
    assert planned.choices[-1][0] == "ranks"
    assert "output layer" in planned.choices[-1][2]

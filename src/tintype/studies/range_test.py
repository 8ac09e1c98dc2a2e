"""The learning-rate range test of a run's settings, on its own data and network."""

from __future__ import annotations

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.preparing import build, prepare_data
from tintype.training.features import run_frozen
from tintype.training.range_test import RangeTest, range_test
from tintype.watch import Watch


def run_range_test(config: RunConfig, watch: Watch = Watch()) -> RangeTest:
    """Prepare what a run with these settings would train, and try which learning rates it can be trained with.

    Args:
        config: As for a run; what is None is chosen from the data.
        watch: Progress, messages and stopping.

    Raises:
        DataError: The data cannot be used as it is.
        ConfigError: The settings do not fit the network, or train without a learning rate.
        RunInterrupted: ``watch.should_stop`` said so.
    """
    if config.heads is not None:
        raise ConfigError("a grid of heads has learning rates of its own. Take [heads] out for a range test.")
    data = prepare_data(config, watch)
    built = build(data)
    settings = built.plan.config
    inputs = (
        data.cache
        if built.cut is None
        else run_frozen(
            built.cut, data.cache, data.split, settings.fit, settings.augment, built.runtime, watch.on_progress
        )
    )
    found = range_test(
        built.trained, inputs, data.split, settings.fit, settings.augment, built.runtime,
        on_progress=watch.on_progress, should_stop=watch.should_stop,
    )  # fmt: skip
    watch.on_message(describe(found))
    return found


def describe(found: RangeTest) -> str:
    """One line for a person."""
    if found.proposed is None:
        return "range test: the loss fell at no learning rate"
    return (
        f"range test: the loss falls between learning rates {found.low:.2g} and {found.high:.2g}; "
        f"{found.proposed:.2g} is proposed"
    )

"""In which order the runs of a study tell most: what a reader would want to know first is trained first.

One seed of every point comes before the second seed of any. Among the points the reference comes first, then the
extremes of an ordered axis before what lies between them, then whatever costs least. What a run costs is guessed from
its settings alone, so that the order is the same on every machine and on every day.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tintype.config import RunConfig

_COSTS: tuple[tuple[Callable[[RunConfig], float | str | None], int], ...] = (
    (lambda config: config.fit.epochs, 1),
    (lambda config: config.fit.views, 1),
    (lambda config: config.data.image_size, 2),
    (lambda config: config.data.fraction, 1),
    (lambda config: None if config.fit.steps_per_epoch else config.data.train_images, 1),
    (lambda config: config.fit.steps_per_epoch, 1),
    (lambda config: config.fit.batch_size if config.fit.steps_per_epoch else None, 1),
)
"""Settings that a run's time is proportional to, and the power of each."""


def position(value: Any) -> float | None:
    """Where a value stands among others of its axis: a number by itself, ``all`` behind every number; else None."""
    if value == "all":
        return math.inf
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def levels(positions: Sequence[float | None]) -> tuple[int, ...]:
    """How early each value of an axis is worth a run: 0 for the extremes, 1 for the middle, 2 for the quarters, ...

    Args:
        positions: Of each value, as :func:`position` gives it. Where one has none, the axis has no order and all are 0.
    """
    known = [place for place in positions if place is not None]
    if len(known) < len(positions) or len(set(known)) < 3:
        return (0,) * len(positions)
    ranked = sorted(set(known))
    found = {ranked[0]: 0, ranked[-1]: 0}
    gaps, level = [(0, len(ranked) - 1)], 1
    while gaps:
        halves = []
        for low, high in gaps:
            if high - low > 1:
                middle = (low + high) // 2
                found[ranked[middle]] = level
                halves += [(low, middle), (middle, high)]
        gaps, level = halves, level + 1
    return tuple(found[place] for place in known)


def relative_costs(configs: Mapping[str, RunConfig]) -> dict[str, float]:
    """A guess at what each run costs beside the others, from the settings whose meaning for time is known.

    A setting that some runs leave to the planner says nothing, and is left out for all.

    Args:
        configs: Name of each run to its settings.
    """
    costs = dict.fromkeys(configs, 1.0)
    for read, power in _COSTS:
        values = {name: position(read(config)) for name, config in configs.items()}
        if all(value is not None and math.isfinite(value) for value in values.values()):
            costs = {name: costs[name] * (values[name] or 0.0) ** power for name in costs}
    depths = {name: config.model.depth for name, config in configs.items()}
    if None not in depths.values():
        ranked = sorted({position(depth) or 0.0 for depth in depths.values()})
        # More trained layers cost more, by how much depends on the network: at most a few times the head alone.
        costs = {
            name: costs[name] * (1 + ranked.index(position(depths[name]) or 0.0) / max(1, len(ranked) - 1))
            for name in costs
        }
    return costs


def seconds_by_cost(costs: Sequence[float], seconds: Sequence[float]) -> Callable[[float], float]:
    """What a run of another cost will take: a start that all share, and a part in proportion to the cost.

    Args:
        costs: Of runs that have finished, as :func:`relative_costs` gives them, at least one.
        seconds: What they took.

    Returns:
        A function from a cost to seconds; the mean where all costs were the same.
    """
    mean_cost, mean = statistics.mean(costs), statistics.mean(seconds)
    spread = sum((cost - mean_cost) ** 2 for cost in costs)
    if spread == 0:
        return lambda _: mean
    products = sum((cost - mean_cost) * (took - mean) for cost, took in zip(costs, seconds, strict=True))
    slope = max(0.0, products / spread)
    return lambda cost: max(min(seconds), mean + slope * (cost - mean_cost))

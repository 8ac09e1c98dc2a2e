"""What several ranks gain, and where each step's time goes, from the steps that were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from tintype.evaluation.scaling_model import INFINITE, Parts, Traffic, predict, profile_of
from tintype.evaluation.stats import UPPER_QUANTILE
from tintype.evaluation.step_times import PHASES, StepTimes
from tintype.records import Interval


@dataclass(frozen=True)
class Block:
    """Some steps one after another.

    Attributes:
        seconds: Of a step: the time that the loop counted for all of them, on rank 0, by their number.
        steps: Of each rank.
    """

    seconds: float
    steps: tuple[tuple[StepTimes, ...], ...]


@dataclass(frozen=True)
class Measured:
    """Ranks that train together, or each by itself.

    Attributes:
        ranks: How many share the images of a step; 1 where each is by itself.
        images: In a step.
        blocks: In the order in which they were measured.
    """

    ranks: int
    images: int
    blocks: tuple[Block, ...]

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Of a step, in each block."""
        return np.array([block.seconds for block in self.blocks])

    @property
    def first_rank(self) -> list[tuple[StepTimes, ...]]:
        """The steps of rank 0 in each block."""
        return [block.steps[0] for block in self.blocks]


@dataclass(frozen=True)
class ScalingPoint:
    """So many ranks in one of the two ways.

    Attributes:
        mode: ``strong``: the images of a step stay and are shared; ``weak``: each rank has as many.
        ranks: How many.
        images: In a step, of all ranks.
        seconds: Of a step, with a 95 % interval over the blocks; n is their number.
        images_per_second: Of all ranks together.
        speed_up: Images a second beside those of one rank.
        efficiency: Speed-up for each rank.
        parts: Where a step goes.
        unaccounted: Seconds of the measured step that no part has.
        ideal: Seconds of a step over a network of the measured bandwidth without latency.
        infinite: Seconds of a step over a network that costs nothing.
        predicted: What the model makes of one rank's figures; None for one rank, and where it does not apply.
    """

    mode: str
    ranks: int
    images: int
    seconds: Interval
    images_per_second: Interval
    speed_up: Interval
    efficiency: Interval
    parts: Parts
    unaccounted: float
    ideal: float
    infinite: float
    predicted: Parts | None = None

    @property
    def prediction_error(self) -> float | None:
        """Predicted seconds beside the measured ones, as a share of these."""
        return None if self.predicted is None else self.predicted.total / self.seconds.value - 1


@dataclass(frozen=True)
class Projection:
    """What the model says of so many machines.

    Attributes:
        mode: As of a :class:`ScalingPoint`.
        machines: How many.
        images: In a step.
        parts: Where a step goes.
        images_per_second: Of all together.
        speed_up: Beside one rank as it was measured.
        efficiency: Speed-up for each machine.
        ideal: Seconds of a step over a network without latency.
        infinite: Seconds of a step over a network that costs nothing.
    """

    mode: str
    machines: int
    images: int
    parts: Parts
    images_per_second: float
    speed_up: float
    efficiency: float
    ideal: float
    infinite: float


def measured_point(mode: str, together: Measured, alone: Measured, apart: Measured, traffic: Traffic) -> ScalingPoint:
    """What was measured of so many ranks.

    Args:
        mode: ``strong`` or ``weak``.
        together: The ranks at work on one step.
        alone: One rank with nobody beside it.
        apart: Every rank by itself at the same time, with as many images as each has in ``together``.
        traffic: What travels between the ranks; nothing is predicted where that cannot be told.
    """
    parts = parts_of(together, _computing(apart) + traffic.products)
    rate = ratio_interval(together.images * alone.seconds, alone.images * together.seconds)
    predicted = ideal = None
    if together.ranks > 1 and traffic.wire is not None:
        profile = profile_of(apart.first_rank)
        predicted = predict(profile, traffic, together.ranks)
        ideal = predict(profile, replace(traffic, link=traffic.link.without_latency), together.ranks)
    seconds = mean_over_blocks(together.seconds)
    infinite = seconds.value - parts.exposed - parts.work - parts.agreement
    saved = 0.0
    if predicted is not None and ideal is not None:
        saved = min(parts.exposed, max(0.0, predicted.exposed - ideal.exposed))
    return ScalingPoint(
        mode=mode,
        ranks=together.ranks,
        images=together.images,
        seconds=seconds,
        images_per_second=ratio_interval(np.full(len(together.blocks), float(together.images)), together.seconds),
        speed_up=rate,
        efficiency=_scaled(rate, 1 / together.ranks),
        parts=parts,
        unaccounted=seconds.value - parts.total,
        ideal=seconds.value - parts.agreement - saved,
        infinite=infinite,
        predicted=predicted,
    )


def project(mode: str, machines: int, apart: Measured, alone: Measured, traffic: Traffic) -> Projection:
    """What so many machines would do.

    Args:
        mode: ``strong`` or ``weak``.
        machines: How many.
        apart: One rank by itself with as many images as each machine has in a step.
        alone: One rank with all images.
        traffic: What travels between the machines; how many bytes is known.
    """
    profile = profile_of(apart.first_rank)
    parts = predict(profile, traffic, machines)
    images = apart.images * machines
    speed_up = images / parts.total * float(alone.seconds.mean()) / alone.images
    return Projection(
        mode=mode,
        machines=machines,
        images=images,
        parts=parts,
        images_per_second=images / parts.total,
        speed_up=speed_up,
        efficiency=speed_up / machines,
        ideal=predict(profile, replace(traffic, link=traffic.link.without_latency), machines).total,
        infinite=predict(profile, replace(traffic, link=INFINITE), machines).total,
    )


def parts_of(measured: Measured, computing: float) -> Parts:
    """Where a step's time goes, the mean over ranks and steps.

    Ranks leave a sum, or an agreement, together. The one that waited least there came last: what it waited was
    communication, what the others waited more was waiting for it. No two clocks are compared.

    Args:
        measured: What was measured.
        computing: Seconds of a backward pass with as many images and without communication.
    """
    per_step = [_parts_of_step(ranks) for block in measured.blocks for ranks in zip(*block.steps, strict=True)]
    means = {name: float(np.mean([parts[name] for parts in per_step])) for name in per_step[0]}
    backward = means.pop("computing")
    work = max(0.0, backward - computing) if measured.ranks > 1 else 0.0
    return Parts(**means, backward=backward - work, work=work)


def mean_over_blocks(values: NDArray[np.float64]) -> Interval:
    """The mean of positive values, with Student's 95 % interval on a log scale; n is the number of blocks."""
    return ratio_interval(values, np.ones_like(values))


def ratio_interval(over: NDArray[np.float64], under: NDArray[np.float64]) -> Interval:
    """The ratio of the means of two figures of the same blocks, with Student's 95 % interval on a log scale."""
    n, ratio = len(over), float(over.mean() / under.mean())
    if n < 2:
        return Interval(ratio, ratio, ratio, n)
    logs = np.log(over) - np.log(under)
    factor = math.exp(float(stdtrit(n - 1, UPPER_QUANTILE)) * float(logs.std(ddof=1)) / math.sqrt(n))
    return Interval(ratio, ratio / factor, ratio * factor, n)


def sharing(apart: Measured, alone: Measured) -> float:
    """How many times as long a rank computes while the others of its machine do as well, each by itself."""
    return float(apart.seconds.mean() / alone.seconds.mean())


def _parts_of_step(ranks: Sequence[StepTimes]) -> dict[str, float]:
    waits = np.array([step.wait for step in ranks])
    seconds = {phase: np.array([step.seconds.get(phase, 0.0) for step in ranks]) for phase in PHASES}
    agreement = seconds["agreement"]
    return {
        "input": float(seconds["input"].mean()),
        "forward": float(seconds["forward"].mean()),
        "computing": float((seconds["backward"] - waits).mean()),
        "exposed": float(waits.min()),
        "waiting": float((waits - waits.min()).mean() + (agreement - agreement.min()).mean()),
        "agreement": float(agreement.min()),
        "optimiser": float(seconds["optimiser"].mean()),
        "bookkeeping": float(seconds["bookkeeping"].mean()),
        "hidden": float(np.mean([step.hidden for step in ranks])),
    }


def _computing(apart: Measured) -> float:
    """Mean seconds of a backward pass until the last gradients were ready, over all ranks."""
    steps = [step for block in apart.blocks for rank in block.steps for step in rank]
    return float(np.mean([step.seconds["backward"] - step.wait for step in steps]))


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(interval.value * factor, interval.low * factor, interval.high * factor, interval.n)

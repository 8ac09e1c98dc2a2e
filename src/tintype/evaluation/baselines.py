"""What simple shortcuts reach on the images that a network was judged on, and what that says of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.evaluation.compare import SIGNIFICANT
from tintype.evaluation.stats import paired_difference, wilson
from tintype.records import Finding, Interval, SplitName

MAJORITY, BORDER = "majority", "border"

SURELY_ABOVE = 0.1
"""A shortcut that is surely so far above the majority class says that the images give the class away."""

LITTLE_BETTER = 0.25
"""A network that leaves more than 1 - this of a shortcut's mistakes hardly does better than it."""


@dataclass(frozen=True)
class Baseline:
    """A shortcut on the same images as the network.

    Attributes:
        name: Short identifier, such as ``colours``.
        description: What it sees of an image, in words.
        accuracy: Its share of right answers.
        advantage: By how much the network's accuracy is above it, paired; 95 % interval.
        p: Two-sided p-value of no difference (McNemar's exact test).
        above_majority: By how much it is above always answering the most frequent class, paired; None for that itself.
    """

    name: str
    description: str
    accuracy: Interval
    advantage: Interval
    p: float
    above_majority: Interval | None


@dataclass(frozen=True)
class Baselines:
    """Shortcuts beside a network; ``baselines.json``.

    Attributes:
        split: Which images they were judged on.
        network: The network's accuracy on the same images.
        network_above_majority: By how much it is above always answering the most frequent class, paired.
        rows: The shortcuts, the majority class first.
        judged: How many images of the split were judged.
        judged_of: How many there are.
        trained: How many training images the shortcuts were fitted on.
        trained_of: How many there are.
        left_out: Shortcuts that were not tried, each with the reason.
        seconds: What all of it took.
    """

    split: SplitName
    network: Interval
    network_above_majority: Interval
    rows: tuple[Baseline, ...]
    judged: int
    judged_of: int
    trained: int
    trained_of: int
    left_out: tuple[str, ...]
    seconds: float

    @property
    def best(self) -> Baseline:
        """The shortcut that is right most often; the simplest among equals."""
        return max(self.rows, key=lambda row: row.accuracy.value)


@dataclass(frozen=True)
class Answered:
    """A shortcut's answers: name, description and whether each image was right, shape (N,)."""

    name: str
    description: str
    is_right: NDArray[np.bool_]


def judge_baselines(
    network_is_right: NDArray[np.bool_], answers: Sequence[Answered]
) -> tuple[Interval, Interval, tuple[Baseline, ...]]:
    """Hold a network against shortcuts on the same images.

    Args:
        network_is_right: Whether the network is right on each image, shape (N,), not empty.
        answers: The shortcuts; the majority class first.

    Returns:
        The network's accuracy, by how much it is above the majority class, and the shortcuts.
    """
    assert answers[0].name == MAJORITY
    majority = answers[0].is_right
    rows = []
    for item in answers:
        advantage, p = _paired(network_is_right, item.is_right)
        above = None if item.name == MAJORITY else _paired(item.is_right, majority)[0]
        rows.append(Baseline(item.name, item.description, _accuracy(item.is_right), advantage, p, above))
    return _accuracy(network_is_right), _paired(network_is_right, majority)[0], tuple(rows)


def baselines_of(content: Mapping[str, Any]) -> Baselines:
    """Read the content of ``baselines.json``.

    Raises:
        KeyError, TypeError: It is from another version.
    """
    rows = tuple(
        Baseline(
            **{
                **row,
                "accuracy": Interval(**row["accuracy"]),
                "advantage": Interval(**row["advantage"]),
                "above_majority": None if row["above_majority"] is None else Interval(**row["above_majority"]),
            }
        )
        for row in content["rows"]
    )
    intervals = {name: Interval(**content[name]) for name in ("network", "network_above_majority")}
    return Baselines(**{**content, **intervals, "rows": rows, "left_out": tuple(content["left_out"])})


def baseline_findings(baselines: Baselines) -> list[Finding]:
    """Say where a network does no better than a shortcut, or hardly better.

    A network that reaches the majority class alone has learnt nothing; one that cannot be told from a shortcut may
    have learnt no more than that. It is critical where the border alone, on which the object does not stand, gives
    the class away.
    """
    if baselines.network_above_majority.low <= 0:
        return [_no_better_than_majority(baselines)]
    rivals = [row for row in baselines.rows if _is_rival(row)]
    if not rivals:
        return []
    # A border that gives the class away says most: colours or a blur may be what tells the classes apart in truth.
    return [_hardly_better(baselines, max(rivals, key=lambda row: (_gives_away(row), row.accuracy.value)))]


def _is_rival(row: Baseline) -> bool:
    """Whether a shortcut is surely above the majority class, and the network no better, or hardly better."""
    if row.above_majority is None or row.above_majority.low <= 0:
        return False
    return not _is_told_apart(row) or row.advantage.value < LITTLE_BETTER * (1 - row.accuracy.value)


def _gives_away(row: Baseline) -> bool:
    """Whether the border alone does about what the network does, far above chance."""
    above = row.above_majority
    return row.name == BORDER and above is not None and above.low >= SURELY_ABOVE and not _is_told_apart(row)


def _is_told_apart(row: Baseline) -> bool:
    return row.advantage.low > 0 and row.p < SIGNIFICANT


def _no_better_than_majority(baselines: Baselines) -> Finding:
    majority = baselines.rows[0]
    return Finding(
        "no-better-than-majority",
        "critical" if majority.advantage.value <= 0 else "warning",
        f"the network ({_percent(baselines.network)}) cannot be told from always answering the most frequent class "
        f"({_percent(majority.accuracy)}) on {_images(baselines)}: {_advantage(majority)}",
        _evidence(baselines),
        "It has learnt nothing that shows on these images, or they are too few to show it. Look at the training curve, "
        "train longer or with another learning rate, start from pretrained weights, or add test images.",
    )


def _hardly_better(baselines: Baselines, rival: Baseline) -> Finding:
    told_apart = _is_told_apart(rival)
    fact = "is hardly better than" if told_apart else "cannot be told from"
    doubt = (
        "The border of an image should not give its class away: the classes seem to come from different sources. Crop "
        "or mask the borders, and test on images of a source that was not trained on."
        if rival.name == BORDER
        else "If that is what tells the classes apart in truth, a simple rule would do. If it is not, the network may "
        "rest on it: look where it looks, give every source all classes, and test on images of another source."
    )
    few = "" if told_apart else " More test images would tell a small advantage from none."
    return Finding(
        "hardly-better-than-shortcut",
        "critical" if _gives_away(rival) else "warning",
        f"the network ({_percent(baselines.network)}) {fact} a shortcut that sees {rival.description} alone "
        f"({_percent(rival.accuracy)}) on {_images(baselines)}: {_advantage(rival)}",
        _evidence(baselines),
        doubt + few,
    )


def _evidence(baselines: Baselines) -> tuple[str, ...]:
    rows = (
        f"{row.description}: {_percent(row.accuracy)} [{100 * row.accuracy.low:.1f}, {100 * row.accuracy.high:.1f}], "
        f"{_advantage(row)}, p = {row.p:.2g}"
        for row in sorted(baselines.rows, key=lambda row: -row.accuracy.value)
    )
    return (*rows, f"fitted on {baselines.trained:,} of {baselines.trained_of:,} training images", *baselines.left_out)


def _advantage(row: Baseline) -> str:
    low, high = 100 * row.advantage.low, 100 * row.advantage.high
    return f"an advantage of {100 * row.advantage.value:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _images(baselines: Baselines) -> str:
    noun = "image" if baselines.judged == 1 else "images"
    some = "" if baselines.judged == baselines.judged_of else f" of {baselines.judged_of:,}"
    return f"{baselines.judged:,}{some} {baselines.split} {noun}"


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} %"


def _accuracy(is_right: NDArray[np.bool_]) -> Interval:
    return wilson(int(is_right.sum()), len(is_right))


def _paired(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[Interval, float]:
    return paired_difference(one[None], other[None])

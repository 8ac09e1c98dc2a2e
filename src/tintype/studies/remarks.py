"""What keeps a study's table from being taken for more than it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from tintype.evaluation.compare import SIGNIFICANT
from tintype.records import Interval
from tintype.report import text
from tintype.report.studyfile import PointRow, RunRow
from tintype.studies.outcome import Outcome
from tintype.studies.plan import Study

FEW_SEEDS = 3
"""With fewer seeds than this, their spread is hardly known."""

LEAST_TO_POOL = 4
"""Points of several seeds from which on one that scatters more than most can be told."""

RESTLESS = 5.0
"""A standard deviation this many times the median one is not pooled. By chance alone one of eight recipes with three
seeds has it in some 1 of 800 studies, with five seeds hardly ever (simulated, accuracies normal)."""

POWER = 0.8
"""A difference that this study could have told is told in this share of such studies."""


@dataclass(frozen=True)
class _Seen:
    """All that the remarks are made from."""

    study: Study
    rows: Sequence[PointRow]
    best: str
    runs: Sequence[RunRow]
    outcomes: Sequence[Outcome]


def remarks_on(
    study: Study, rows: Sequence[PointRow], best: str, runs: Sequence[RunRow], outcomes: Mapping[str, Outcome]
) -> tuple[str, ...]:
    """What a reader should know before believing the table; nothing before the first run has finished.

    Args:
        study: What was asked for.
        rows: The table's rows.
        best: Label of the most accurate point.
        runs: How every run stands.
        outcomes: Name of each finished run to what it contributed.
    """
    if not outcomes:
        return ()
    seen = _Seen(study, rows, best, runs, list(outcomes.values()))
    rules = (_short_form, _few_seeds, _noise, _chosen_best, _best_at_the_end, _own_labels, _shared_runs)
    return (*(line for rule in rules for line in rule(seen)), *_on_times(seen))


def pooled_deviation(rows: Sequence[PointRow]) -> tuple[float, int] | None:
    """Standard deviation of the accuracy over the seeds, pooled over the points, and its degrees of freedom."""
    several = [row.accuracy_by_seed for row in rows if len(row.accuracy_by_seed) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return None
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in several)
    return math.sqrt(squares / freedom), freedom


def scattering(rows: Sequence[PointRow]) -> list[PointRow]:
    """The points whose accuracy changes so much more from seed to seed than that of most that pooling would hide it."""
    deviations = [row.accuracy_deviation for row in rows if row.accuracy_deviation is not None]
    if len(deviations) < LEAST_TO_POOL:
        return []
    usual = statistics.median(deviations)
    return [row for row in rows if usual > 0 and (row.accuracy_deviation or 0.0) > RESTLESS * usual]


def smallest_difference(differences: Sequence[Interval]) -> float | None:
    """The difference in accuracy that comparisons as uncertain as these would tell in 4 of 5 studies.

    Their standard error is that of the two-way layout of images and seeds, as their intervals have it; the usual
    formula for a wanted power follows (J. Cohen, "Statistical power analysis for the behavioral sciences", 1988), at
    the level that Holm's adjustment starts from, which is the strictest.

    Args:
        differences: Of each point to the reference, with 95 % intervals.
    """
    if not differences:
        return None
    normal = NormalDist()
    error = statistics.median((item.high - item.low) / 2 for item in differences) / normal.inv_cdf(0.975)
    return error * (normal.inv_cdf(1 - SIGNIFICANT / (2 * len(differences))) + normal.inv_cdf(POWER))


def _short_form(seen: _Seen) -> list[str]:
    if not seen.study.quick:
        return []
    return ["This is the quick form of the study, made to see that all works; do not quote its figures."]


def _few_seeds(seen: _Seen) -> list[str]:
    seeds = len(seen.study.seeds)
    if seeds == 1:
        return [
            "Each point was trained once. How much accuracy changes from seed to seed is not known, so intervals and "
            "differences hold for these networks, not for their settings. Three seeds or more can say that."
        ]
    if seeds < FEW_SEEDS:
        return [
            "Two seeds hardly tell how much accuracy changes from seed to seed: only large differences are told apart."
        ]
    return []


def _noise(seen: _Seen) -> list[str]:
    """How much is luck, and what could have been told in spite of it."""
    if seen.study.kind not in ("ablation", "models", "grid"):
        return []
    found = []
    restless = scattering(seen.rows)
    if pooled := pooled_deviation([row for row in seen.rows if row not in restless]):
        deviation, freedom = pooled
        others = "".join(
            f"; {row.label} scatters more, by {text.points(row.accuracy_deviation or 0.0, sign=False)}"
            for row in restless
        )
        found.append(
            f"From seed to seed the accuracy of one and the same recipe has a standard deviation of "
            f"{text.points(deviation, sign=False)} (pooled over the points, {freedom} degrees of freedom){others}."
        )
    differences = [row.difference for row in seen.rows if row.difference is not None]
    least = smallest_difference([Interval(item.value, item.low, item.high, item.n) for item in differences])
    if least is not None:
        images = text.plural(differences[0].n, "image")
        found.append(
            f"With these {images} and {text.plural(len(seen.study.seeds), 'seed')}, a difference from the reference "
            f"of about {text.points(least, sign=False)} would be told from chance in 4 of 5 such studies; a smaller "
            "one is likely to be missed, so what cannot be told apart need not be equal."
        )
    return found


def _chosen_best(seen: _Seen) -> list[str]:
    if len(seen.rows) <= 2 or not seen.best:
        return []
    return [
        f"The best of {len(seen.rows)} was chosen on the images that it is quoted for, so its accuracy is a little too "
        "high; a new test set would show how much."
    ]


def _best_at_the_end(seen: _Seen) -> list[str]:
    """A sweep whose best value is the last one tried has not found the best."""
    axis = next((item for item in seen.study.axes if item.setting == "fit.learning_rate"), None)
    best = next((row for row in seen.rows if row.label == seen.best), None)
    if seen.study.kind != "learning rate" or axis is None or best is None or len(axis.values) < 3:
        return []
    rates = [value for _, value in axis.values]
    own = best.settings.get("fit.learning_rate")
    for end, word in ((min(rates), "smallest"), (max(rates), "largest")):
        if own == end:
            return [f"The best learning rate is the {word} of those tried; a better one may lie beyond it."]
    return []


def _own_labels(seen: _Seen) -> list[str]:
    """Validation images that choose the epoch are labels too, which a smaller collection would not have."""
    sizes = [item.train_images for item in seen.outcomes if item.train_images]
    judges = max(item.validation_images for item in seen.outcomes)
    if seen.study.kind != "data size" or not sizes or judges == 0:
        return []
    return [
        f"The runs kept their best epoch by up to {text.plural(judges, 'validation image')}, whose labels are not "
        f'among the {text.count(min(sizes))} training images of the smallest; fit.keep = "last" takes none.'
    ]


def _shared_runs(seen: _Seen) -> list[str]:
    """Points that ask for the very same run."""
    points: dict[str, list[str]] = {}
    for run in seen.runs:
        points.setdefault(run.name, []).append(run.point)
    shared = dict.fromkeys(tuple(labels) for labels in points.values() if len(labels) > 1)
    return [f"{' and '.join(labels)} ask for the same runs, which were made once." for labels in shared]


def _on_times(seen: _Seen) -> list[str]:
    """What keeps the times from being compared."""
    found = []
    finished = [run for run in seen.runs if run.state == "finished"]
    most = max((run.jobs for run in finished), default=1)
    if most > 1:
        beside = sum(run.jobs > 1 for run in finished)
        found.append(
            f"{beside} of {text.plural(len(finished), 'run')} shared the machine with others (up to {most} at a time), "
            "so their times are longer than alone and not to be compared."
        )
    if seen.study.kind == "devices" and any(item.keeps_features for item in seen.outcomes):
        found.append(
            "What frozen layers say of the images is kept on disk and serves every device: the first run alone "
            "computed it, so compare seconds an epoch, or set fit.feature_cache = false."
        )
    machines = {
        item.machine.rsplit(", ", 1)[0] if seen.study.kind == "devices" else item.machine for item in seen.outcomes
    }
    if len(machines) > 1:
        found.append("The runs were made on different machines, so their times cannot be compared.")
    if len({item.made_by for item in seen.outcomes}) > 1:
        found.append("The runs were made by different versions of tintype; what changed between them may show here.")
    return found

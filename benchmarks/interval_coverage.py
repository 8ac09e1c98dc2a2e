"""Do 95 % intervals hold the truth in 95 % of test sets, and do tests raise false alarms in 5 % of them?

`python benchmarks/interval_coverage.py` prints the tables of docs/comparing.md; some minutes on one core.
Test sets are drawn from made-up problems whose truth is known: the logits of each class are normal about a mean.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, softmax
from scipy.stats import binom, rankdata

from tintype.evaluation.bootstrap import metric_intervals, paired_intervals
from tintype.evaluation.calibration import calibration_difference, measure_reliability
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.stats import holm, mcnemar, wilson_bounds
from tintype.evaluation.weighted import weighted_metrics
from tintype.records import Interval, Predictions

SIZES = (18, 36, 100, 360, 1_000, 10_000)
MOST_DRAWN = 1_000  # images; above, drawing them again would take most of the time
TRUTH_IMAGES = 2_000_000


@dataclass(frozen=True)
class Problem:
    """Where test sets come from.

    Attributes:
        name: In words.
        mean_logits: Mean logits of the images of each class, a row a class.
        shares: How frequent the classes are.
        fixed_shares: Whether every test set has these shares as nearly as it can, or its images' classes are drawn.
        sharpness: What the network multiplies the logits by; which one makes it honest depends on the means.
    """

    name: str
    mean_logits: NDArray[np.float64]
    shares: tuple[float, ...]
    fixed_shares: bool = False
    sharpness: float = 1.0


THREE = Problem(
    "three classes, unbalanced, 80 % right",
    np.array([[2.5, 0.0, 0.0], [0.0, 1.2, 0.8], [0.5, 0.0, 2.0]]),
    (0.6, 0.3, 0.1),
)
TWO = Problem("two classes, balanced, 92 % right", np.array([[2.0, 0.0], [0.0, 2.0]]), (0.5, 0.5))
FEW_MISTAKES = Problem("two classes, balanced, 98 % right", np.array([[2.9, 0.0], [0.0, 2.9]]), (0.5, 0.5))
PROBLEMS = (THREE, TWO, FEW_MISTAKES)
TEN = Problem("ten classes, balanced, 81 % right", 2.5 * np.eye(10), (0.1,) * 10)
# With the mean logits m and 0 and normal noise the honest sharpness is m.
CONFIDENCES = (
    ("92 % right, underconfident", TWO),
    ("92 % right, honest", replace(TWO, sharpness=2.0)),
    ("92 % right, overconfident", replace(TWO, sharpness=4.0)),
    ("98 % right, underconfident", FEW_MISTAKES),
    ("98 % right, honest", replace(FEW_MISTAKES, sharpness=2.9)),
    ("98 % right, overconfident", replace(FEW_MISTAKES, sharpness=8.0)),
    ("three classes, a little underconfident", THREE),
    ("three classes, very underconfident", replace(THREE, sharpness=0.6)),
    ("three classes, overconfident", replace(THREE, sharpness=3.0)),
    ("ten classes, very underconfident", replace(TEN, sharpness=1.2)),
    ("ten classes, a little underconfident", replace(TEN, sharpness=2.1)),
    ("ten classes, honest", replace(TEN, sharpness=2.5)),
    ("ten classes, overconfident", replace(TEN, sharpness=4.0)),
)

Scores = Callable[[np.random.Generator, int, int], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""From a number of positive and of negative images to their scores."""
RANKING_SIZES = ((9, 9), (18, 18), (10, 90), (90, 10), (180, 180), (100, 900), (900, 100))


CALIBRATION_PAIRS = (
    ("92 % right, honest and overconfident", TWO, (2.0, 4.0)),
    ("92 % right, under- and overconfident", TWO, (TWO.sharpness, 4.0)),
    ("92 % right, both overconfident", TWO, (4.0, 4.0)),
    ("98 % right, honest and overconfident", FEW_MISTAKES, (2.9, 8.0)),
    ("three classes, very under- and overconfident", THREE, (0.6, 3.0)),
    ("ten classes, honest and overconfident", TEN, (2.5, 4.0)),
    ("ten classes, very underconfident and honest", TEN, (1.2, 2.5)),
    ("ten classes, both honest", TEN, (2.5, 2.5)),
)
"""Two networks of the same problem, and how sharp the probabilities of each are."""


def draw(
    problem: Problem,
    n: int,
    random: np.random.Generator,
    networks: int = 1,
    shared: float = 0.0,
    sharpness: Sequence[float] = (),
) -> list[Predictions]:
    """What networks say about n images.

    Args:
        problem: Where the images come from.
        n: How many.
        random: Source of everything.
        networks: How many networks see the same images.
        shared: Share of the variance of the logits that is the image's and not the network's.
        sharpness: Of each network in place of the problem's.
    """
    classes = len(problem.shares)
    if problem.fixed_shares:
        counts = np.maximum(1, np.round(np.array(problem.shares) * n).astype(np.int64))
        labels = np.repeat(np.arange(classes), counts)
    else:
        labels = random.choice(classes, size=n, p=problem.shares)
    hardness = math.sqrt(shared) * random.normal(size=(len(labels), classes))
    paths = tuple(map(str, range(len(labels))))
    names = tuple(map(str, range(classes)))
    found = []
    for factor in sharpness or (problem.sharpness,) * networks:
        own = math.sqrt(1 - shared) * random.normal(size=(len(labels), classes))
        probabilities = softmax(factor * (problem.mean_logits[labels] + hardness + own), axis=1)
        found.append(Predictions("test", names, paths, labels, probabilities.astype(np.float32)))
    return found


def truth(problem: Problem, metrics: Sequence[str]) -> dict[str, float]:
    """The figures of endlessly many images, nearly."""
    (item,) = draw(problem, TRUTH_IMAGES, np.random.default_rng(1))
    found = weighted_metrics(item, metrics)(np.ones((TRUTH_IMAGES, 1)))
    return {name: float(values[0]) for name, values in found.items()}


def coverage(
    problem: Problem,
    n: int,
    metrics: Sequence[str],
    intervals: Callable[[Predictions], Mapping[str, Interval]],
    repeats: int,
    true: Mapping[str, float],
    seed: int = 0,
) -> dict[str, float]:
    """Share of test sets whose interval holds the truth, for each metric; those where it is undefined do not count."""
    random = np.random.default_rng(seed)
    held: dict[str, list[bool]] = {name: [] for name in metrics}
    for _ in range(repeats):
        (item,) = draw(problem, n, random)
        found = intervals(item)
        for name in metrics:
            if name in found:
                held[name].append(found[name].low <= true[name] <= found[name].high)
    return {name: float(np.mean(values)) for name, values in held.items() if values}


def normal_scores(area: float) -> Scores:
    """Normal in both classes, with this area under the ROC curve."""
    distance = float(ndtri(area)) * math.sqrt(2)
    return lambda random, m, n: (random.normal(size=m) + distance, random.normal(size=n))


def exponential_scores(area: float) -> Scores:
    """Exponential in both classes: some positive images lie among the lowest scores, however large the area."""
    ratio = area / (1 - area)
    return lambda random, m, n: (ratio * random.exponential(size=m), random.exponential(size=n))


def mirrored(scores: Scores) -> Scores:
    """The scores with the classes and their order swapped."""

    def draw_mirrored(random: np.random.Generator, m: int, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        positives, negatives = scores(random, n, m)
        return -negatives, -positives

    return draw_mirrored


def rounded(scores: Scores) -> Scores:
    """The scores as whole numbers, so that many are equal."""

    def draw_rounded(random: np.random.Generator, m: int, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        positives, negatives = scores(random, m, n)
        return np.round(positives), np.round(negatives)

    return draw_rounded


def some_misplaced(random: np.random.Generator, m: int, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One positive image in twenty below nearly all negative ones, the others far above them."""
    return random.normal(size=m) + np.where(random.random(m) < 0.05, -2.5, 3.0), random.normal(size=n)


RANKINGS: tuple[tuple[str, Scores], ...] = (
    ("normal, 0.7", normal_scores(0.7)),
    ("normal, 0.9", normal_scores(0.9)),
    ("normal, 0.97", normal_scores(0.97)),
    ("normal, 0.995", normal_scores(0.995)),
    ("exponential, 0.8", exponential_scores(0.8)),
    ("exponential, 0.95", exponential_scores(0.95)),
    ("exponential, mirrored, 0.8", mirrored(exponential_scores(0.8))),
    ("exponential, mirrored, 0.95", mirrored(exponential_scores(0.95))),
    ("5 % misplaced", some_misplaced),
    ("normal, rounded, 0.9", rounded(normal_scores(0.9))),
    ("normal, rounded, 0.97", rounded(normal_scores(0.97))),
)


def ranked(scores: Scores, random: np.random.Generator, positives: int, negatives: int) -> Predictions:
    """A test set of two classes whose probabilities are in the order of the scores."""
    both = np.concatenate(scores(random, positives, negatives))
    probabilities = rankdata(both) / (len(both) + 1)
    labels = np.repeat(np.array([1, 0]), [positives, negatives])
    return Predictions(
        "test", ("0", "1"), tuple(map(str, range(len(both)))), labels,
        np.stack([1 - probabilities, probabilities], axis=1).astype(np.float32),
    )  # fmt: skip


def ranking_coverage(scores: Scores, positives: int, negatives: int, repeats: int, seed: int = 0) -> dict[str, float]:
    """Share of test sets whose interval of the area and of the average precision holds the truth."""
    half = TRUTH_IMAGES // 16
    weights = np.repeat(np.array([positives, negatives], dtype=np.float64), half)[:, None]
    names = ("auc", "average_precision")
    true = weighted_metrics(ranked(scores, np.random.default_rng(1), half, half), names)(weights)
    random = np.random.default_rng(seed)
    held: dict[str, list[bool]] = {name: [] for name in names}
    for _ in range(repeats):
        found = evaluate(ranked(scores, random, positives, negatives)).metrics
        for name in names:
            held[name].append(found[name].low <= float(true[name][0]) <= found[name].high)
    return {name: float(np.mean(values)) for name, values in held.items()}


def closed_form(predictions: Predictions) -> Mapping[str, Interval]:
    """The intervals of every report."""
    return evaluate(predictions).metrics


def calibration_alone(predictions: Predictions) -> Mapping[str, Interval]:
    """The calibration error's interval of every report, without the other figures."""
    confidences = predictions.probabilities.max(axis=1)
    return {"ece": measure_reliability(confidences, predictions.predicted == predictions.labels).interval()}


def drawn_again(
    metrics: tuple[str, ...], stratified: bool, resamples: int = 500
) -> Callable[[Predictions], Mapping[str, Interval]]:
    """BCa intervals; none where the labels of the drawn test set leave one undefined."""

    def measure(predictions: Predictions) -> Mapping[str, Interval]:
        if len(np.unique(predictions.labels)) < len(predictions.classes):
            return {}
        return metric_intervals(predictions, metrics, stratified=stratified, resamples=resamples)

    return measure


def wilson_coverage(n: int, low: float = 0.5, high: float = 1.0, steps: int = 2_001) -> tuple[float, float]:
    """Exact coverage of Wilson's interval: the mean over true shares from low to high, and the least of them.

    For a single share coverage jumps with n and p, for every interval of a share (L. D. Brown, T. T. Cai and
    A. DasGupta, "Interval estimation for a binomial proportion", Statistical Science 16, 2001); that is why intervals
    are judged by the mean.
    """
    outcomes = np.arange(n + 1)
    bounds = wilson_bounds(outcomes / n, n)
    shares = np.linspace(low, high, steps)[1:-1]
    # The outcomes whose interval holds a share are neighbours.
    first = np.searchsorted(bounds[1], shares, side="left")
    last = np.searchsorted(bounds[0], shares, side="right") - 1
    found = binom.cdf(last, n, shares) - binom.cdf(first - 1, n, shares)
    return float(found.mean()), float(found.min())


def false_alarms(
    problem: Problem, n: int, metrics: tuple[str, ...], repeats: int, swaps: int = 500, seed: int = 0
) -> tuple[dict[str, float], dict[str, float]]:
    """How often equal networks on the same images are told apart at 5 %, and how often the interval holds 0.

    The accuracy is tested by McNemar's exact test.
    """
    random = np.random.default_rng(seed)
    alarms: dict[str, list[bool]] = {name: [] for name in ("accuracy", *metrics)}
    held: dict[str, list[bool]] = {name: [] for name in metrics}
    for _ in range(repeats):
        one, other = draw(problem, n, random, networks=2, shared=0.7)
        if len(np.unique(one.labels)) < len(one.classes):
            continue
        right = [item.predicted == item.labels for item in (one, other)]
        alarms["accuracy"].append(mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())) < 0.05)
        for name, (interval, p) in paired_intervals(one, other, metrics, resamples=swaps, swaps=swaps).items():
            alarms[name].append(p < 0.05)
            held[name].append(interval.low <= 0 <= interval.high)
    return tuple({name: float(np.mean(values)) for name, values in kind.items()} for kind in (alarms, held))  # type: ignore[return-value]


def family_alarms(problem: Problem, n: int, others: int, repeats: int, seed: int = 0) -> tuple[float, float]:
    """How often at least one of several equal networks is told from the reference: plainly, and after Holm."""
    random = np.random.default_rng(seed)
    plain, adjusted = [], []
    for _ in range(repeats):
        items = draw(problem, n, random, networks=others + 1, shared=0.7)
        right = [item.predicted == item.labels for item in items]
        p_values = [mcnemar(int((it & ~right[0]).sum()), int((right[0] & ~it).sum())) for it in right[1:]]
        plain.append(min(p_values) < 0.05)
        adjusted.append(float(holm(p_values).min()) < 0.05)
    return float(np.mean(plain)), float(np.mean(adjusted))


def table(heading: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heading, "", f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] + ['---:'] * (len(columns) - 1))} |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def write_coverage(problem: Problem, repeats: Callable[[int], int]) -> str:
    """Coverage of the closed-form intervals and of the drawn ones at every size."""
    metrics = ["accuracy", "balanced_accuracy", "macro_f1", "loss", "brier", "ece"]
    drawn = ["macro_f1", "loss"]
    if len(problem.shares) == 2:
        metrics += ["auc", "average_precision"]
        drawn += ["auc"]
    true = truth(problem, [*metrics])
    rows = []
    for n in SIZES:
        plain = coverage(problem, n, metrics, closed_form, repeats(n), true)
        again = {}
        if n <= MOST_DRAWN:
            measure = drawn_again(tuple(drawn), stratified=False)
            again = coverage(problem, n, drawn, measure, max(200, repeats(n) // 4), true)
        cells = [_percent(plain.get(name)) for name in metrics] + [_percent(again.get(name)) for name in drawn]
        rows.append([f"{n:,}", f"{repeats(n):,}", *cells])
        print(f"{problem.name}: n = {n:,} done", file=sys.stderr)
    columns = ["n", "test sets", *metrics, *(f"{name}, BCa" for name in drawn)]
    return table(f"Coverage of 95 % intervals, {problem.name}", columns, rows)


def write_wilson() -> str:
    """Exact coverage of the accuracy's interval."""
    rows = []
    for n in SIZES:
        mean, least = wilson_coverage(n)
        rows.append([f"{n:,}", _percent(mean), _percent(least)])
    return table("Exact coverage of Wilson's interval, true shares from 0.5 to 1", ["n", "mean", "least"], rows)


def write_confidences(repeats: Callable[[int], int]) -> str:
    """Coverage of the calibration error's interval, for honest networks and others."""
    rows = []
    for name, problem in CONFIDENCES:
        true = truth(problem, ["ece"])
        cells = [coverage(problem, n, ["ece"], calibration_alone, repeats(n), true)["ece"] for n in SIZES]
        rows.append([name, f"{true['ece']:.3f}", *map(_percent, cells)])
        print(f"calibration error: {name} done", file=sys.stderr)
    return table(
        "Coverage of 95 % intervals of the calibration error", ["network", "true", *map("{:,}".format, SIZES)], rows
    )


def write_calibration_differences(repeats: Callable[[int], int]) -> str:
    """Coverage of the interval of the difference of two calibration errors."""
    rows = []
    for name, problem, sharpness in CALIBRATION_PAIRS:
        one, other = (truth(replace(problem, sharpness=factor), ["ece"])["ece"] for factor in sharpness)
        cells = []
        for n in SIZES:
            random, held = np.random.default_rng(n), []
            for _ in range(repeats(n) // 2):
                interval = calibration_difference(*draw(problem, n, random, shared=0.7, sharpness=sharpness))
                held.append(interval.low <= one - other <= interval.high)
            cells.append(float(np.mean(held)))
        rows.append([name, f"{one - other:+.3f}", *map(_percent, cells)])
        print(f"differences: {name} done", file=sys.stderr)
    columns = ["networks", "true", *(f"{n:,}" for n in SIZES)]
    return table("Coverage of 95 % intervals of the difference of two calibration errors", columns, rows)


def write_rankings(repeats: Callable[[int], int]) -> str:
    """Coverage of the intervals of the area under the ROC curve and of average precision."""
    rows = []
    for name, scores in RANKINGS:
        found = [ranking_coverage(scores, m, n, repeats(m + n)) for m, n in RANKING_SIZES]
        rows.append([name, *(" / ".join(map(_percent, item.values())) for item in found)])
        print(f"rankings: {name} done", file=sys.stderr)
    columns = ["scores, area", *(f"{m} + {n}" for m, n in RANKING_SIZES)]
    return table("Coverage of 95 % intervals, area under the ROC curve / average precision", columns, rows)


def write_alarms(repeats: Callable[[int], int]) -> str:
    """False alarms of the paired tests."""
    metrics = ("balanced_accuracy", "macro_f1", "loss", "ece")
    rows = []
    for n in SIZES[:-1]:
        alarms, held = false_alarms(THREE, n, metrics, repeats(n) // 2)
        plain, adjusted = family_alarms(THREE, n, 5, repeats(n))
        cells = [*(alarms[name] for name in ("accuracy", *metrics)), *(held[name] for name in metrics), plain, adjusted]
        rows.append([f"{n:,}", f"{repeats(n) // 2:,}", *map(_percent, cells)])
        print(f"false alarms: n = {n:,} done", file=sys.stderr)
    columns = ["n", "pairs", "McNemar", *(f"{name}, swaps" for name in metrics)]
    columns += [*(f"{name}, interval holds 0" for name in metrics), "any of 5, plain", "any of 5, Holm"]
    return table("Equal networks that are told apart at 5 %", columns, rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def main() -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--repeats", type=int, default=4_000, help="test sets of up to 360 images; fewer of larger ones"
    )
    parser.add_argument("--output", type=Path, help="write the tables here instead of on standard output")
    arguments = parser.parse_args()

    def repeats(n: int) -> int:
        asked: int = arguments.repeats
        return max(min(asked, 400), min(asked, asked * 360 // n))

    begin = time.perf_counter()
    tables = [write_wilson(), *(write_coverage(problem, repeats) for problem in PROBLEMS)]
    tables += [
        write_confidences(repeats),
        write_calibration_differences(repeats),
        write_rankings(repeats),
        write_alarms(repeats),
    ]
    text = "\n".join(tables)
    print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

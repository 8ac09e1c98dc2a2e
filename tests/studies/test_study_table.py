"""From outcomes to the table: what is counted, what is claimed and what is said beside it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tintype.config import RunConfig
from tintype.evaluation.compare import Answers, compare_accuracy
from tintype.evaluation.power_law import fit_learning_curve
from tintype.evaluation.stats import crossed_share, wilson
from tintype.records import Interval, to_plain
from tintype.report.studyfile import RunRow, StudyKind, StudyTable, read_study_table, write_study_table
from tintype.studies.outcome import Outcome, TrainingAnswers
from tintype.studies.plan import Axis, Study
from tintype.studies.points import training_accuracy
from tintype.studies.remarks import pooled_deviation, scattering, smallest_difference
from tintype.studies.table import make_table, with_learning_curve, write_study_csv

N = 300


def outcome(is_right: NDArray[np.bool_], **changes: object) -> Outcome:
    images = tuple((f"{number:04}.png", "a") for number in range(len(is_right)))
    losses: NDArray[np.float64] = np.full(len(is_right), 0.1) + ~is_right
    answers = Answers(images, is_right, losses)
    found = Outcome(
        split="test", answers=answers, total_parameters=10, trainable_parameters=8, epochs=3, seconds_per_epoch=2.0,
        seconds_per_step=0.01, images_per_second=800.0, training_seconds=6.0, seconds=8.0, peak_memory_mb=100.0,
        made_by="x", machine="A processor, 2, cpu", device="cpu", train_images=100,
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


def drawn(random: np.random.Generator, chance: float, n: int = N) -> NDArray[np.bool_]:
    return random.random(n) < chance


def make(
    kind: StudyKind, axis: Axis, found: Mapping[str, Sequence[Outcome]], *, jobs: int = 1, **options: object
) -> StudyTable:
    """A table in which every run has finished."""
    base = RunConfig().replace({"data.source": "/data"})
    seeds = tuple(range(max(map(len, found.values()))))
    study = Study("a study", kind, base, (axis,), seeds)
    by_name = dict(zip((name for name, _ in axis.values), study.points(), strict=True))
    runs, outcomes = [], {}
    for name, items in found.items():
        for seed, item in enumerate(items):
            run = f"{name},{seed}"
            outcomes[run] = item
            runs.append(RunRow(run, by_name[name].label, seed, "finished", jobs=jobs))
    return make_table(study, runs, outcomes, **options)  # type: ignore[arg-type]


def numbers(setting: str, values: Sequence[float]) -> Axis:
    return Axis(setting, setting.split(".")[-1], tuple((f"{value:g}", value) for value in values))


def test_training_accuracy_of_the_same_images_is_a_crossed_share() -> None:
    random = np.random.default_rng(0)
    answers = [TrainingAnswers("same", drawn(random, 0.8)) for _ in range(4)]
    assert training_accuracy(answers) == crossed_share(np.stack([item.is_right for item in answers]))


def test_training_accuracy_of_images_of_their_own_counts_the_luck_of_each_seed() -> None:
    random = np.random.default_rng(0)
    shares = (0.7, 0.95, 0.8, 0.9)
    answers = [TrainingAnswers(str(share), np.arange(1000) < share * 1000) for share in shares]
    found = training_accuracy(answers)
    assert found.value == pytest.approx(np.mean(shares))
    student = stats.t.interval(0.95, 3, np.mean(shares), stats.sem(shares))
    assert found.high - found.low == pytest.approx(student[1] - student[0], rel=0.25)
    assert found.low < student[0] + 0.05
    # Seeds that happen to agree do not make an interval narrower than that of one seed's images.
    alike = [TrainingAnswers(str(number), random.permutation(np.arange(50) < 45)) for number in range(3)]
    alone = wilson(45, 50)
    assert training_accuracy(alike).low == pytest.approx(alone.low)
    perfect = [TrainingAnswers(str(number), np.ones(10, bool)) for number in range(3)]
    assert training_accuracy(perfect).low == pytest.approx(wilson(10, 10).low)


def test_training_accuracies_stand_in_the_table() -> None:
    random = np.random.default_rng(0)
    training = [TrainingAnswers(str(seed), drawn(random, 0.9, 40)) for seed in range(2)]
    runs = [outcome(drawn(random, 0.8), training=item, train_images=40) for item in training]
    table = make("grid", numbers("fit.epochs", [1, 2]), {"1": runs, "2": [outcome(drawn(random, 0.8))] * 2})
    first, second = table.points
    assert first.train_accuracy == training_accuracy(training)
    assert first.train_accuracy_by_seed == tuple(float(item.is_right.mean()) for item in training)
    assert (first.train_images, first.device) == (40, "cpu")
    assert second.train_accuracy is None
    assert second.train_accuracy_by_seed == ()


def test_the_table_of_an_ablation_says_what_could_be_told() -> None:
    random = np.random.default_rng(3)
    easy, hard = (random.random(N) < share for share in (0.8, 0.3))  # what all networks get right, but for a few
    found = {
        name: [outcome(right ^ drawn(random, 0.03)) for _ in range(3)]
        for name, right in {"1": easy, "2": easy, "3": hard}.items()
    }
    table = make("ablation", numbers("fit.epochs", [1, 2, 3]), found)
    assert [set(group) for group in table.groups] == [{"epochs 1", "epochs 2"}, {"epochs 3"}]
    assert [row.changes for row in table.points] == ["", "epochs 2 instead of 1", "epochs 3 instead of 1"]
    deviations = [np.std([item.accuracy for item in items], ddof=1) for items in found.values()]
    pooled = pooled_deviation(table.points)
    assert pooled is not None
    assert pooled[0] == pytest.approx(math.sqrt(np.mean(np.square(deviations))))
    assert pooled[1] == 6
    assert any("standard deviation of" in remark and "6 degrees of freedom" in remark for remark in table.remarks)
    assert any("4 of 5 such studies" in remark for remark in table.remarks)
    assert make("ablation", numbers("fit.epochs", [1, 2, 3]), found, with_groups=False).groups == ()


def test_a_point_that_scatters_far_more_than_the_others_is_not_pooled_with_them() -> None:
    random = np.random.default_rng(5)
    shares = {**{str(number): [0.9] * 5 for number in range(1, 5)}, "5": [0.2, 0.9, 0.5, 0.7, 0.4]}
    found = {name: [outcome(drawn(random, share)) for share in seeds] for name, seeds in shares.items()}
    table = make("ablation", numbers("fit.epochs", [1, 2, 3, 4, 5]), found)
    assert [row.label for row in scattering(table.points)] == ["epochs 5"]
    (noise,) = (remark for remark in table.remarks if "standard deviation of" in remark)
    assert "16 degrees of freedom); epochs 5 scatters more, by 2" in noise
    assert scattering(table.points[:3]) == []


def test_the_smallest_difference_is_told_in_four_of_five_studies() -> None:
    """Simulated studies of two recipes, three seeds each, that differ by what the remark says could be told."""
    random = np.random.default_rng(0)

    def networks(shift: float) -> list[Answers]:
        luck = random.normal(0, 0.15, (3, 1))
        return [outcome(row).answers for row in random.normal(size=(3, N)) * 0.5 + hard + luck + shift > 0]

    shift, told, least, true = 0.5, 0, [], []
    for _ in range(200):
        hard = random.normal(0.8, 1, (1, N))
        answers = {"one": networks(0), "other": networks(shift)}
        (comparison,) = compare_accuracy("one", answers)
        told += comparison.adjusted_p < 0.05
        least.append(smallest_difference([comparison.difference]))
        true.append(comparison.difference.value)
    power = told / 200
    expected = float(np.median([item for item in least if item is not None]))
    # The remark's figure for 80 % beside the difference that was planted and how often it was told.
    assert 0.5 < power < 0.95
    normal = stats.norm
    implied = np.mean(true) * (normal.ppf(0.975) + normal.ppf(0.8)) / (normal.ppf(0.975) + normal.ppf(power))
    assert expected == pytest.approx(implied, rel=0.2)


def test_more_comparisons_need_larger_differences() -> None:
    one = Interval(0.0, -0.02, 0.02, 100)
    alone, many = smallest_difference([one]), smallest_difference([one] * 10)
    assert alone is not None
    assert many is not None
    assert alone == pytest.approx(0.02 * (1.95996 + 0.84162) / 1.95996, rel=1e-4)
    assert many > alone
    assert smallest_difference([]) is None


def test_a_study_of_sizes_gets_its_law_when_enough_have_finished() -> None:
    random = np.random.default_rng(0)
    sizes = [100, 400, 1600, 6400]
    found = {
        str(size): [outcome(drawn(random, 1 - 2 * size**-0.4), train_images=size) for _ in range(3)] for size in sizes
    }
    table = make("data size", numbers("data.train_images", sizes), found)
    assert table.law is None
    assert table.groups == ()
    whole = with_learning_curve(table)
    errors = [[1 - accuracy for accuracy in row.accuracy_by_seed] for row in table.points]
    assert whole.law == to_plain(fit_learning_curve(sizes, errors, N))
    few = make(
        "data size", numbers("data.train_images", sizes[:3]), {str(size): found[str(size)] for size in sizes[:3]}
    )
    assert with_learning_curve(few).law is None
    other = make("grid", numbers("data.train_images", sizes), found)
    assert with_learning_curve(other).law is None


def test_images_that_chose_the_epoch_are_counted() -> None:
    random = np.random.default_rng(0)
    runs = [outcome(drawn(random, 0.8), train_images=100, validation_images=6000)]
    axis = numbers("data.train_images", [100, 200])
    table = make("data size", axis, {"100": runs, "200": runs})
    assert any("6,000" in remark and 'fit.keep = "last"' in remark for remark in table.remarks)
    last = [replace(runs[0], validation_images=0)]
    table = make("data size", axis, {"100": last, "200": last})
    assert not any("fit.keep" in remark for remark in table.remarks)


def test_devices_are_compared_by_their_speed() -> None:
    random = np.random.default_rng(0)
    axis = Axis("device", "device", (("cpu", "cpu"), ("cuda", "cuda")))
    right = drawn(random, 0.8)
    gpu = outcome(right, seconds_per_epoch=0.25, device="H200", machine="A processor, 2, H200", keeps_features=True)
    table = make("devices", axis, {"cpu": [outcome(right)] * 2, "cuda": [gpu, replace(gpu, seconds_per_epoch=0.75)]})
    assert [row.label for row in table.points] == ["cpu", "cuda"]
    assert [row.speed_up for row in table.points] == [None, 4.0]
    assert [row.device for row in table.points] == ["cpu", "H200"]
    assert any("kept on disk" in remark for remark in table.remarks)
    assert not any("different machines" in remark for remark in table.remarks)
    other = replace(gpu, machine="Another processor, 8, H200")
    table = make("devices", axis, {"cpu": [outcome(right)], "cuda": [other]})
    assert any("different machines" in remark for remark in table.remarks)
    # Runs without epochs are compared by their training.
    fast = [replace(outcome(right), seconds_per_epoch=None, training_seconds=1.5)]
    table = make("devices", axis, {"cpu": [replace(outcome(right), seconds_per_epoch=None)], "cuda": fast})
    assert table.points[1].speed_up == 4.0


def test_times_of_runs_side_by_side_are_not_claimed() -> None:
    runs = [outcome(drawn(np.random.default_rng(0), 0.8))]
    axis = numbers("fit.epochs", [1, 2])
    words = "shared the machine"
    assert any(words in remark for remark in make("grid", axis, {"1": runs, "2": runs}, jobs=3).remarks)
    assert not any(words in remark for remark in make("grid", axis, {"1": runs, "2": runs}).remarks)


@pytest.mark.parametrize(("best", "words"), [(0.1, "smallest"), (10.0, "largest"), (1.0, "")])
def test_a_best_rate_at_the_end_of_the_sweep_is_not_the_best(best: float, words: str) -> None:
    random = np.random.default_rng(0)
    rates = [0.1, 1.0, 10.0]
    found = {f"{rate:g}": [outcome(drawn(random, 0.9 if rate == best else 0.6))] for rate in rates}
    remarks = make("learning rate", numbers("fit.learning_rate", rates), found).remarks
    assert [words in remark for remark in remarks if "best learning rate" in remark] == ([True] if words else [])


def test_points_on_other_images_are_in_no_group() -> None:
    random = np.random.default_rng(0)
    found = {name: [outcome(drawn(random, 0.8))] for name in "12"} | {"3": [outcome(drawn(random, 0.8, 200))]}
    table = make("grid", numbers("data.test_fraction", [1, 2, 3]), found)
    assert {label for group in table.groups for label in group} == {"test_fraction 1", "test_fraction 2"}


def test_the_files_hold_everything_and_old_files_can_be_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    training = TrainingAnswers("x", drawn(random, 0.9, 40))
    right = drawn(random, 0.8)
    found = {name: [outcome(right ^ drawn(random, 0.02), training=training)] for name in "12"}
    table = make("ablation", numbers("fit.epochs", [1, 2]), found, range_test={"rates": [0.1], "proposed": None})
    table = replace(table, law={"a": {"value": 0.1}})
    write_study_table(tmp_path, table)
    assert read_study_table(tmp_path) == table
    write_study_csv(tmp_path / "study.csv", table)
    with (tmp_path / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["changes"] for row in rows] == ["", "epochs 2 instead of 1"]
    assert [row["groups"] for row in rows] == ["1", "1"]
    assert (rows[0]["train_images"], rows[0]["device"], rows[0]["speed_up"]) == ("100", "cpu", "")
    assert float(rows[0]["train_accuracy_low"]) == pytest.approx(wilson(int(training.is_right.sum()), 40).low)

    plain = to_plain(table)
    for name in ("groups", "law", "range_test"):
        del plain[name]
    for row in plain["points"]:
        for name in ("changes", "train_images", "train_accuracy", "train_accuracy_by_seed", "device", "speed_up"):
            del row[name]
    for run in plain["runs"]:
        del run["jobs"]
    (tmp_path / "study.json").write_text(json.dumps(plain), encoding="utf-8")
    old = read_study_table(tmp_path)
    assert (old.groups, old.law, old.points[0].changes, old.points[0].train_accuracy) == ((), None, "", None)
    assert old.points[0].accuracy == table.points[0].accuracy

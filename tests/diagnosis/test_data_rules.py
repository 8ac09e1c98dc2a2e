"""Rules about what was put into the splits, on counts and names made up for each fault, and on sound ones."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_facts import answers, facts_of, recognised
from scipy import stats as reference

from tintype.diagnosis import data
from tintype.diagnosis.data import (
    class_mix_differs,
    class_without_test,
    class_without_training,
    class_without_validation,
    cut_from_sorted_list,
    one_class_split,
)
from tintype.diagnosis.facts import Facts
from tintype.diagnosis.measures import accuracy, difference, guessing, mix_difference
from tintype.evaluation.stats import wilson
from tintype.records import Finding


def found(facts: Facts) -> list[str]:
    return [finding.code for rule in data.RULES if (finding := rule(facts)) is not None]


def the(finding: Finding | None) -> Finding:
    assert finding is not None
    assert finding.title
    assert finding.remedy
    return finding


SOUND = {"train": (70, 70, 70), "validation": (10, 11, 9), "test": (20, 19, 21)}


def test_sound_splits_raise_nothing() -> None:
    parts = [
        recognised("test", SOUND["test"], (0.9, 0.9, 0.9)),
        recognised("validation", SOUND["validation"], (1, 1, 1)),
    ]
    assert found(facts_of(SOUND, *parts)) == []
    assert found(facts_of({"train": (50, 50)})) == []  # nothing held out: the audit speaks of it


def test_splits_drawn_by_chance_raise_hardly_anything() -> None:
    random, alarms = np.random.default_rng(0), 0
    for _ in range(3000):
        classes, images = int(random.integers(2, 20)), int(random.integers(20, 400))
        mix = random.dirichlet(np.full(classes, 5.0))
        drawn = mix_difference(random.multinomial(5 * images, mix), random.multinomial(images, mix))
        alarms += drawn.p_value < data.RARE and drawn.distance >= data.MIX_DISTANCE
    assert alarms <= 6  # two in a thousand; a stratified split, which keeps the mix, has none


def test_the_tail_of_a_list_sorted_by_class() -> None:
    # 3 classes of 100; the last 20 % of the list are validation: 60 images of the last class alone.
    counts = {"train": (100, 100, 40), "validation": (0, 0, 60), "test": (25, 25, 25)}
    paths = [f"{label}/{number:03}.png" for label in range(3) for number in range(100)]
    train = recognised("train", counts["train"], (1, 1, 1), paths[:240])
    validation = recognised("validation", counts["validation"], (1, 1, 0.8), paths[240:])
    finding = the(cut_from_sorted_list(facts_of(counts, train, validation)))
    assert finding.severity == "critical"
    assert "60 validation images are the end of a sorted list" in finding.title
    assert "validation: 60 images from 2/040.png to 2/099.png" in finding.evidence
    assert found(facts_of(counts, train, validation))[0] == "cut-from-sorted-list"


def test_the_tail_of_a_list_whose_classes_are_named_by_folders_of_the_splits() -> None:
    counts = {"train": (100, 60, 0), "validation": (0, 40, 100)}
    train = [f"train/{label}/{number}.png" for label, images in enumerate((100, 60)) for number in range(images)]
    assert the(cut_from_sorted_list(facts_of(counts))).code == "cut-from-sorted-list"  # a failed run: no names
    validation = recognised("validation", counts["validation"], (1, 1, 0))
    assert cut_from_sorted_list(facts_of(counts, recognised("train", counts["train"], (1, 1, 1), train), validation))


def test_the_beginning_of_a_list_sorted_by_time() -> None:
    # The names are in the order of time, natural order: 9 before 10; the classes shift with it.
    random = np.random.default_rng(1)
    labels = np.array([random.random() < 0.2 + 0.6 * (number / 500) for number in range(500)], dtype=int)
    paths = [f"shot{number}.jpg" for number in range(500)]
    test, train = labels[:150], labels[150:]
    counts = {"train": np.bincount(train).tolist(), "test": np.bincount(test).tolist()}
    parts = (
        answers("test", test.tolist(), test.tolist(), 2, paths[:150]),
        answers("train", train.tolist(), train.tolist(), 2, paths[150:]),
    )
    assert (
        "150 test images are the beginning of a sorted list"
        in the(cut_from_sorted_list(facts_of(counts, *parts))).title
    )
    mixed = [paths[place] for place in random.permutation(500)]
    parts = (
        answers("test", test.tolist(), test.tolist(), 2, mixed[:150]),
        answers("train", train.tolist(), train.tolist(), 2, mixed[150:]),
    )
    assert cut_from_sorted_list(facts_of(counts, *parts)) is None
    assert found(facts_of(counts, *parts)) == ["class-mix-differs"]


def test_images_that_are_numbered_on_are_no_tail_where_the_classes_are_mixed_alike() -> None:
    counts = {"train": (80, 80), "validation": (20, 20)}
    train = [f"train/{name}/{number:03}.png" for name in "ab" for number in range(80)]
    validation = [f"val/{name}/{number:03}.png" for name in "ab" for number in range(80, 100)]
    parts = recognised("train", (80, 80), (1, 1), train), recognised("validation", (20, 20), (1, 1), validation)
    assert cut_from_sorted_list(facts_of(counts, *parts)) is None


@pytest.mark.parametrize("split", ["validation", "test"])
def test_one_class_alone(split: str) -> None:
    counts = {"train": (80, 80, 80), "validation": (20, 20, 20), "test": (20, 20, 20), split: (0, 40, 0)}
    part = recognised(split, counts[split], (1, 0.9, 1))  # type: ignore[arg-type]
    finding = the(one_class_split(facts_of(counts, part)))
    assert f"all 40 {split} images are of one class, class1; the accuracy 0.900" in finding.title
    assert finding.severity == "critical"
    assert f"data.{split}_fraction" in finding.remedy
    assert found(facts_of(counts, part))[0] == "one-class-split"
    train = [f"train/{label}/{number}.png" for label in range(3) for number in range(80)]
    given = [f"{split}/1/{number}.png" for number in range(40)]
    named = recognised("train", (80, 80, 80), (1, 1, 1), train), recognised(
        split, counts[split], (1, 0.9, 1), given  # type: ignore[arg-type]
    )  # fmt: skip
    assert found(facts_of(counts, *named))[0] == "one-class-split"


def test_one_class_in_all_is_no_matter_of_the_split() -> None:
    assert one_class_split(facts_of({"train": (80, 0), "test": (20, 0)})) is None


def test_a_class_that_was_never_trained_costs_its_images() -> None:
    counts = {"train": (80, 80, 0), "validation": (10, 10, 0), "test": (30, 30, 20)}
    finding = the(class_without_training(facts_of(counts, recognised("test", counts["test"], (0.9, 1.0, 0.0)))))
    assert finding.severity == "critical"
    assert "20 images of 1 class without any training image are judged" in finding.title
    assert "accuracy 0.713" in finding.title  # 57 of 80
    assert "without them 0.950" in finding.title  # 57 of 60
    assert "--classes" in finding.remedy
    assert (
        the(class_without_training(facts_of({**counts, "test": (30, 30, 0), "validation": (9, 9, 9)}))).severity
        == "warning"
    )


def test_a_class_that_is_not_tested() -> None:
    finding = the(class_without_test(facts_of({"train": (80, 80, 40), "test": (30, 30, 0)})))
    assert "1 class of 3 without any test image: class2" in finding.title
    assert finding.evidence == ("class2: 40 for training, 12.0 of 60 test images to be expected",)
    assert class_without_test(facts_of({"train": (80, 80, 40)})) is None


def test_a_rare_class_may_be_missing_among_a_few_validation_images() -> None:
    assert class_without_validation(facts_of({"train": (500, 500, 20), "validation": (50, 50, 0)})) is None
    assert class_without_validation(facts_of({"train": (500, 500, 200), "validation": (50, 50, 0)})) is not None


def test_another_mix_in_the_test_and_what_the_accuracy_would_be() -> None:
    counts = {"train": (900, 100), "test": (100, 100)}
    finding = the(class_mix_differs(facts_of(counts, recognised("test", counts["test"], (1.0, 0.5)))))
    assert "40 % of them would have to change class" in finding.title
    assert "accuracy 0.750" in finding.title
    assert "with training's mix 0.950" in finding.title  # 0.9 * 1.0 + 0.1 * 0.5
    assert finding.evidence[0] == "class0: 90.0 % of training, 50.0 % of test (900 and 100 images)"
    # Too few to say so, and the same mix in few images.
    assert class_mix_differs(facts_of({"train": (60, 40), "test": (5, 5)})) is None
    assert class_mix_differs(facts_of({"train": (900, 100), "test": (18, 2)})) is None


def test_the_interval_of_the_reweighted_accuracy_is_never_narrower_than_its_images_allow() -> None:
    counts = {"train": (990, 10), "test": (10, 190)}
    finding = the(class_mix_differs(facts_of(counts, recognised("test", counts["test"], (1.0, 1.0)))))
    # 99 of 100 images of the wanted mix are judged by 10 test images; ten right out of ten prove no more than 0.72.
    low = float(finding.title.split("with training's mix ")[1].split("[")[1].split(",")[0])
    assert low == pytest.approx(wilson(10, 10).low, abs=0.01)


def test_chi_square_is_scipys() -> None:
    for one, other in (((30, 10, 5), (20, 22, 9)), ((5, 0, 7), (9, 0, 1)), ((100, 3), (50, 9))):
        table = np.array([one, other])
        expected = reference.chi2_contingency(table[:, table.sum(axis=0) > 0], correction=False)
        mix = mix_difference(one, other)
        assert mix.freedom == expected.dof
        assert mix.statistic == pytest.approx(expected.statistic)
        assert mix.p_value == pytest.approx(expected.pvalue)
    assert mix_difference((5, 0), (7, 0)).p_value == 1.0
    assert mix_difference((5, 5), (0, 0)).p_value == 1.0


def test_differences_are_newcombes_and_cover_the_truth() -> None:
    # R. G. Newcombe (1998), table II: 56 of 70 against 48 of 80, method 10: 0.0524 to 0.3339.
    gap = difference(wilson(56, 70), wilson(48, 80))
    assert [gap.value, gap.low, gap.high] == pytest.approx([0.2, 0.0524, 0.3339], abs=5e-5)
    random = np.random.default_rng(0)
    hits = [
        gap.low <= 0.2 <= gap.high
        for one, other in zip(random.binomial(60, 0.9, 1000), random.binomial(100, 0.7, 1000), strict=True)
        for gap in [difference(wilson(one, 60), wilson(other, 100))]
    ]
    assert 0.93 <= np.mean(hits) <= 0.98


def test_guessing_is_the_accuracy_of_the_same_answers_dealt_out_at_random() -> None:
    random = np.random.default_rng(3)
    labels, named = random.choice(3, 200, p=(0.6, 0.3, 0.1)), random.choice(3, 200, p=(0.2, 0.2, 0.6))
    shares = [float(np.mean(random.permutation(named) == labels)) for _ in range(2000)]
    part = answers("test", labels.tolist(), named.tolist(), 3)
    assert guessing(part) == pytest.approx(np.mean(shares), abs=0.003)
    always = answers("test", [0] * 90 + [1] * 10, [0] * 100, 2)
    assert guessing(always) == accuracy(always).value == 0.9

"""Rules about what the figures prove, on answers and curves made up for each fault, and on sound ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_up_facts import answers, facts_of, health_of, recognised, rows

from tintype.data.audit import _SMALL_TEST
from tintype.diagnosis import evidence
from tintype.diagnosis.evidence import (
    BLURRED,
    FEW_TEST_IMAGES,
    _most_luck,
    accuracy_hides_classes,
    labels_do_not_fit,
    leakage,
    shortcut,
    small_test_set,
    validation_far_from_test,
    validation_leakage,
)
from tintype.diagnosis.facts import Facts
from tintype.evaluation.baselines import Answered, Baselines, judge_baselines
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.stats import wilson
from tintype.records import Finding, Predictions, SplitName, to_plain
from tintype.training.shortcut_features import shortcuts_for


def found(facts: Facts) -> list[str]:
    return [finding.code for rule in evidence.RULES if (finding := rule(facts)) is not None]


def the(finding: Finding | None) -> Finding:
    assert finding is not None
    assert finding.title
    assert finding.remedy
    return finding


COUNTS = {"train": (140, 140), "validation": (40, 40), "test": (80, 80)}


def run_of(train: float, validation: float, test: float, **more: Any) -> Facts:
    """A run on two equal classes with these accuracies."""
    wanted: dict[SplitName, float] = {"train": train, "validation": validation, "test": test}
    parts = [recognised(split, COUNTS[split], (share, share)) for split, share in wanted.items()]
    return facts_of(COUNTS, *parts, **{"history": rows((0.5, train), (0.5, validation)), **more})


def shortcuts(network: Predictions, **accuracies: float) -> dict[str, Any]:
    """The content of ``baselines.json``: shortcuts with these accuracies beside a network."""
    n, random = len(network), np.random.default_rng(0)
    items = [Answered("majority", "nothing", network.labels == 0)]
    for name, share in accuracies.items():
        is_right = np.zeros(n, dtype=bool)
        is_right[random.permutation(n)[: round(share * n)]] = True
        items.append(Answered(name, f"the {name}", is_right))
    total, above, table = judge_baselines(network.predicted == network.labels, items)
    content = to_plain(Baselines("test", total, above, table, n, n, 280, 280, (), 0.1))
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize(("train", "validation", "test"), [(1, 0.95, 0.94), (1, 0.75, 0.7), (0.65, 0.62, 0.64)])
def test_sound_overfitted_and_underfitted_runs_have_nothing_wrong_with_their_evidence(
    train: float, validation: float, test: float
) -> None:
    assert found(run_of(train, validation, test)) == []


def test_labels_learned_by_heart_that_say_nothing_of_other_images() -> None:
    facts = run_of(0.99, 0.5, 0.49)
    finding = the(labels_do_not_fit(facts))
    assert finding.severity == "critical"
    assert "accuracy 0.993" in finding.title  # 139 of 140 of each class
    assert "on 240 images held out, where guessing gives 0.5" in finding.title
    assert "tintype check DATA --labels" in finding.remedy
    assert found(facts)[0] == "labels-do-not-fit"


def test_labels_learned_by_heart_after_the_epoch_that_was_kept() -> None:
    # Validation says nothing, so that the first epoch was kept; the history shows what was learned later.
    history = rows((0.52, 0.7, 0.97), (0.52, 0.5, 0.49))
    facts = run_of(0.52, 0.51, 0.49, history=history, environment={"kept_epoch": 1})
    assert "accuracy 0.971" in the(labels_do_not_fit(facts)).title


def test_a_network_that_answers_otherwise_in_training_is_not_blamed_on_the_labels() -> None:
    history = rows((0.7, 0.98), (0.5, 0.5))
    assert labels_do_not_fit(run_of(0.5, 0.5, 0.5, history=history, health=health_of(0.97, 0.5))) is None
    first_kept = run_of(0.55, 0.5, 0.5, history=rows((0.56, 0.98), (0.5, 0.5)), environment={"kept_epoch": 1})
    assert labels_do_not_fit(first_kept) is not None


def test_nothing_learned_is_the_labels_fault_only_where_other_features_fail_too() -> None:
    facts = run_of(0.53, 0.5, 0.49)
    assert facts.predictions is not None
    test = facts.predictions["test"]
    assert labels_do_not_fit(facts) is None
    blind = run_of(0.53, 0.5, 0.49, baselines=shortcuts(test, colours=0.5, border=0.52))
    assert "simple shortcuts (colours, border) tell no more" in the(labels_do_not_fit(blind)).title
    seeing = run_of(0.53, 0.5, 0.49, baselines=shortcuts(test, colours=0.5, border=0.8))
    assert labels_do_not_fit(seeing) is None  # the border tells the classes: the labels are right, the network is not
    frozen = {"model.backbone": "mobilenetv2_100", "model.weights": "auto", "model.freeze": "all"}
    assert "pretrained mobilenetv2_100" in the(labels_do_not_fit(run_of(0.57, 0.5, 0.49, settings=frozen))).title
    for changed in ({"model.weights": "none"}, {"model.freeze": "none"}):
        assert labels_do_not_fit(run_of(0.57, 0.5, 0.49, settings={**frozen, **changed})) is None


def test_learned_by_heart_although_a_shortcut_tells_the_classes_is_overfitting() -> None:
    facts = run_of(0.99, 0.5, 0.49)
    assert facts.predictions is not None
    assert labels_do_not_fit(run_of(0.99, 0.5, 0.49, baselines=shortcuts(facts.predictions["test"], blur=0.8))) is None


def test_too_few_held_out_images_do_not_condemn_the_labels() -> None:
    train, test = recognised("train", (140, 140), (1, 1)), recognised("test", (10, 10), (0.5, 0.5))
    assert labels_do_not_fit(facts_of({"train": (140, 140), "test": (10, 10)}, train, test)) is None


def leaked_run(copies: int, right_copies: int, others: int, right_others: int, severity: str = "warning") -> Facts:
    """A test set of two classes, some of which stands in training too."""
    is_right = np.repeat(
        [True, False, True, False], [right_copies, copies - right_copies, right_others, others - right_others]
    )
    labels = np.arange(copies + others) % 2
    test = answers("test", labels.tolist(), np.where(is_right, labels, 1 - labels).tolist(), 2)
    audit = Finding("leakage", severity, f"{copies} test images", ("a.png is the same file as b.png",), "Remove them.")  # type: ignore[arg-type]
    figures = evaluate(test, leaked=np.arange(copies + others) < copies)
    return facts_of(COUNTS, test, findings=(audit,), evaluations={"test": figures})


def test_a_leak_that_explains_the_result() -> None:
    facts = leaked_run(60, 60, 140, 98)
    finding = the(leakage(facts))
    assert finding.severity == "critical"
    assert "accuracy 0.790 on all test images, 0.700" in finding.title
    assert "without the 60 that stand" in finding.title
    assert "the leak explains 9.0 points of it" in finding.title
    assert finding.evidence[-1] == "a.png is the same file as b.png"
    assert found(facts)[0] == "leakage"
    again = facts_of(COUNTS, findings=(finding,), evaluations=facts.evaluations)
    assert leakage(again) == finding  # a diagnosis of a diagnosed run says the same


def test_a_leak_without_effect_is_left_to_the_audit_unless_it_is_large() -> None:
    assert leakage(leaked_run(6, 6, 194, 180)) is None
    finding = the(leakage(leaked_run(30, 28, 170, 158, "critical")))
    assert "not seen to explain it" in finding.title
    assert "is no test: all 40 test images" in the(leakage(leaked_run(40, 40, 0, 0))).title
    assert leakage(facts_of(COUNTS, *(leaked_run(6, 6, 94, 90).predictions or {}).values())) is None


def test_copies_of_training_images_make_validation_too_good() -> None:
    audit = Finding(
        "validation-leakage", "warning", "9 of 80 validation images", ("a is the same file as b",), "Remove."
    )
    finding = the(validation_leakage(run_of(1, 0.95, 0.7, findings=(audit,))))
    assert "25.0 points [" in finding.title
    assert finding.evidence[-1] == "a is the same file as b"
    assert validation_leakage(run_of(1, 0.72, 0.7, findings=(audit,))) is None
    assert validation_leakage(run_of(1, 0.95, 0.7)) is None


def test_validation_far_from_test() -> None:
    above = the(validation_far_from_test(run_of(1, 0.95, 0.7)))
    assert "25.0 points [" in above.title
    assert "above the test's, 0.700" in above.title
    assert "another source" in above.remedy
    below = the(validation_far_from_test(run_of(1, 0.6, 0.9)))
    assert "30.0 points" in below.title
    assert "below the test's" in below.title
    low = float(below.title.split("30.0 points [")[1].split(",")[0])
    assert 10 < low < 30
    assert validation_far_from_test(run_of(1, 0.95, 0.9)) is None
    # What the best of many epochs has by luck on 80 images is no difference; that of the last one would be.
    long = rows([1.0] * 300, [0.9] * 300)
    assert validation_far_from_test(run_of(1, 0.9, 0.7, history=long)) is None
    assert validation_far_from_test(run_of(1, 0.9, 0.7, history=long, settings={"fit.keep": "last"})) is not None
    assert validation_far_from_test(run_of(1, 0.6, 0.9, history=long)) is not None
    assert validation_far_from_test(run_of(1, 0.9, 0.94)) is None


def test_the_luck_of_the_best_of_some_epochs_is_no_more_than_said() -> None:
    random = np.random.default_rng(0)
    for images, epochs in ((60, 8), (400, 60), (60, 1)):
        best = random.binomial(images, 0.8, (4000, epochs)).max(axis=1) / images
        luck = _most_luck(wilson(80, 100), images, epochs)
        assert best.mean() - 0.8 <= luck + 0.002
        assert luck <= 2 * (best.mean() - 0.8) + 0.002  # nor is it anything


def test_an_accuracy_that_hides_the_small_class() -> None:
    counts = {"train": (720, 80), "test": (180, 20)}
    facts = facts_of(counts, recognised("test", counts["test"], (0.99, 0.35)))
    finding = the(accuracy_hides_classes(facts))
    assert finding.code == "class-imbalance"
    assert finding.severity == "warning"
    assert "always answering class0 would give 0.900" in finding.title
    assert finding.evidence[0].startswith("class1: recall 0.350 [")
    assert "fit.class_weights=balanced" in finding.remedy
    constant = facts_of(counts, recognised("test", counts["test"], (1.0, 0.0)))
    assert the(accuracy_hides_classes(constant)).severity == "critical"
    assert found(constant) == ["class-imbalance"]


@pytest.mark.parametrize(
    ("images", "recalls"),
    [((180, 20), (0.99, 0.9)), ((100, 100), (0.95, 0.4)), ((180, 20), (0.8, 0.8)), ((120, 40, 40), (0.95, 0.8, 0.85))],
)
def test_unbalanced_classes_that_are_recognised_and_balanced_ones_hide_nothing(
    images: tuple[int, ...], recalls: tuple[float, ...]
) -> None:
    facts = facts_of({"train": tuple(4 * n for n in images), "test": images}, recognised("test", images, recalls))
    assert accuracy_hides_classes(facts) is None


def test_eighteen_right_of_eighteen() -> None:
    facts = facts_of({"train": (40, 40), "test": (9, 9)}, recognised("test", (9, 9), (1, 1)))
    finding = the(small_test_set(facts))
    assert "accuracy 1.000 on 18 test images is anything from 0.824 to 1.000" in finding.title
    assert finding.evidence[0] == "right: 18 of 18 (Wilson's 95 % interval)"
    assert found(facts) == ["small-test-set"]
    guess = facts_of({"train": (40, 40), "test": (9, 9)}, recognised("test", (9, 9), (2 / 3, 2 / 3)))
    assert "does not exclude guessing" in the(small_test_set(guess)).title
    assert small_test_set(facts_of({"train": (90, 90), "test": (50, 50)}, recognised("test", (50, 50), (1, 1)))) is None


def test_the_audit_and_the_diagnosis_agree_on_what_a_small_test_is() -> None:
    assert FEW_TEST_IMAGES == _SMALL_TEST


def test_a_network_that_is_no_better_than_a_shortcut() -> None:
    facts = run_of(0.95, 0.85, 0.85)
    assert facts.predictions is not None
    test = facts.predictions["test"]
    assert "the border" in the(shortcut(run_of(0.95, 0.85, 0.85, baselines=shortcuts(test, border=0.86)))).title
    assert shortcut(run_of(0.95, 0.85, 0.85, baselines=shortcuts(test, border=0.55))) is None
    assert shortcut(facts) is None
    # A blur shows the picture: as good as it is an easy task, unless what shows nothing of it is as good.
    assert shortcut(run_of(0.95, 0.85, 0.85, baselines=shortcuts(test, blurred=0.86))) is None
    both = shortcuts(test, blurred=0.88, colours=0.84)
    assert "the colours" in the(shortcut(run_of(0.95, 0.85, 0.85, baselines=both))).title
    assert BLURRED in {item.name for item in shortcuts_for(3)}
    assert shortcut(run_of(0.95, 0.85, 0.85, baselines={"from": "another version"})) is None

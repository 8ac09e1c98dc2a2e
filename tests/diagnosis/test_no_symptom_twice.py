"""A fault is said once: what follows from it is no further finding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up_facts import facts_of, health_of, recognised, rows

from tintype import diagnosis
from tintype.diagnosis import EXPLAINS, RULES, data, diagnose, evidence
from tintype.diagnosis.facts import Facts
from tintype.evaluation.metrics import evaluate
from tintype.records import Finding


def codes(facts: Facts) -> list[str]:
    return [finding.code for finding in diagnose(facts)]


def cut_where_sorted() -> Facts:
    """Validation has other classes than training, none of which it was right about; the test has them all."""
    counts = {"train": (200, 200, 40, 0), "validation": (0, 0, 60, 100), "test": (50, 50, 50, 50)}
    paths = [
        f"{label}/{number:03}.png" for label, images in enumerate((200, 200, 100, 100)) for number in range(images)
    ]
    train = recognised("train", counts["train"], (1, 1, 1, 1), paths[:440])
    validation = recognised("validation", counts["validation"], (1, 1, 0.3, 0), paths[440:])
    return facts_of(counts, train, validation, recognised("test", counts["test"], (0.95, 0.95, 0.6, 0)))


def one_class_validates() -> Facts:
    counts = {"train": (200, 200, 200), "validation": (0, 80, 0), "test": (60, 60, 60)}
    parts = [
        recognised("train", counts["train"], (0.98, 0.98, 0.98)),
        recognised("validation", counts["validation"], (1, 1, 1)),
        recognised("test", counts["test"], (0.8, 0.95, 0.8)),
    ]
    return facts_of(counts, *parts)


def never_trained() -> Facts:
    counts = {"train": (200, 200, 0), "validation": (30, 30, 30), "test": (60, 60, 60)}
    parts = [
        recognised("train", counts["train"], (1, 1, 1)),
        recognised("validation", counts["validation"], (0.95, 0.95, 0)),
        recognised("test", counts["test"], (0.95, 0.95, 0)),
    ]
    return facts_of(counts, *parts)


def shuffled_labels() -> Facts:
    counts = {"train": (200, 200), "validation": (50, 50), "test": (60, 60)}
    parts = [
        recognised("train", counts["train"], (1, 1)),
        recognised("validation", counts["validation"], (0.5, 0.5)),
        recognised("test", counts["test"], (0.48, 0.5)),
    ]
    return facts_of(counts, *parts, history=rows((0.5, 0.8, 1.0), (0.5, 0.5, 0.5)))


def other_source() -> Facts:
    counts = {"train": (200, 200), "validation": (50, 50), "test": (60, 60)}
    parts = [
        recognised("train", counts["train"], (0.98, 0.98)),
        recognised("validation", counts["validation"], (0.97, 0.97)),
        recognised("test", counts["test"], (0.7, 0.7)),
    ]
    return facts_of(counts, *parts)


def always_the_largest() -> Facts:
    counts = {"train": (720, 80), "validation": (90, 10), "test": (180, 20)}
    parts = [recognised(split, images, (1, 0)) for split, images in counts.items()]  # type: ignore[arg-type]
    return facts_of(counts, *parts, history=rows((0.9, 0.9), (0.9, 0.9)))


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (cut_where_sorted(), "cut-from-sorted-list"),
        (one_class_validates(), "one-class-split"),
        (never_trained(), "class-without-training"),
        (shuffled_labels(), "labels-do-not-fit"),
        (other_source(), "validation-above-test"),
        (always_the_largest(), "class-imbalance"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_one_fault_is_one_finding(facts: Facts, code: str) -> None:
    assert codes(facts) == [code]
    # Several rules saw it: the others are what it explains.
    seen = [finding.code for rule in RULES if (finding := rule(facts)) is not None]
    assert len(seen) > 1
    assert set(seen) - {code} <= set(EXPLAINS[code])


def test_a_leak_explains_that_validation_is_far_from_the_test() -> None:
    counts = {"train": (150, 150), "validation": (50, 50), "test": (100, 100)}
    parts = [
        recognised("train", counts["train"], (0.8, 0.8)),
        recognised("validation", counts["validation"], (0.7, 0.7)),
        recognised("test", counts["test"], (0.9, 0.92)),
    ]
    audit = Finding("leakage", "critical", "120 of 200 test images", ("a is the same file as b",), "Remove them.")
    plain = facts_of(counts, *parts)
    assert codes(plain) == ["validation-below-test"]
    copied = np.zeros(200, dtype=bool)
    copied[20:92] = copied[110:200] = True
    leaked = replace(plain, findings=(audit,), evaluations={"test": evaluate(parts[2], leaked=copied)})
    assert codes(leaked) == ["leakage"]


def test_two_faults_are_two_findings() -> None:
    facts = other_source()
    counts = {**facts.data.counts, "train": (380, 20)}
    assert codes(replace(facts, data=replace(facts.data, counts=counts))) == [
        "class-mix-differs",
        "validation-above-test",
    ]


def test_a_network_that_loses_its_mode_is_not_also_blamed_on_its_labels() -> None:
    facts = replace(
        shuffled_labels(),
        predictions={part.split: part for part in (
            recognised("train", (200, 200), (0.5, 0.5)), recognised("test", (60, 60), (0.48, 0.5)),
        )},
        health=health_of(0.98, 0.5),
    )  # fmt: skip
    assert codes(facts) == ["modes-differ"]


def test_no_finding_explains_itself_and_all_rules_are_asked() -> None:
    assert all(code not in explained for code, explained in EXPLAINS.items())
    assert set(data.RULES) | set(evidence.RULES) <= set(RULES)
    assert len(set(RULES)) == len(RULES)


def test_a_diagnosis_of_a_diagnosed_run_says_the_same() -> None:
    for facts in (cut_where_sorted(), shuffled_labels(), always_the_largest()):
        assert diagnosis.diagnose(replace(facts, findings=tuple(diagnose(facts)))) == diagnose(facts)
